"""Batches for `fit` from splits, pairs of arrays or tensors, and torch data sets."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from resnetlab.data.colour import JITTER
from resnetlab.data.datasets import ImageData
from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.pixels import Pixels, blocks
from resnetlab.data.preprocess import Preprocessing, channel_statistics
from resnetlab.data.random import RandomTables, derived_seed
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput, printable
from resnetlab.runs.build import EVAL_BATCH, SAMPLE, hold, image_sizes, make_augmentations, make_mixing, total_steps
from resnetlab.runs.config import RunConfig
from resnetlab.runtime import Runtime
from resnetlab.training.loop import Batches


class MapDataset(Protocol):
    """A map-style torch `Dataset`: items by number, and their count."""

    def __getitem__(self, index: int, /) -> Any: ...
    def __len__(self) -> int: ...


Source: TypeAlias = "Split | tuple[Any, Any] | MapDataset"


@dataclass(frozen=True)
class Items:
    """A data set that is read item by item, whose labels are checked when they are read."""

    dataset: MapDataset
    name: str
    classes: int | None = None  # None: not known yet

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Tensor, int]:
        """The image, float32 (C, H, W), and the class number of an item. Raises BadInput, naming the item."""
        item = self.dataset[index]
        if isinstance(item, Mapping):  # unpacked, it would give its keys
            raise BadInput(
                f"{self.name}[{index}] is a {type(item).__name__}, but must be (image, label): wrap the data set in "
                "one that returns such pairs"
            )
        try:
            image, label = item
            pixels = to_tensor(image)
        except (TypeError, ValueError) as error:
            raise BadInput(f"{self.name}[{index}] cannot be read as (image, label): {printable(error)}") from error
        if pixels.ndim != 3 or not pixels.numel():
            raise BadInput(
                f"the image of {self.name}[{index}] is {tuple(pixels.shape)}, but must be a tensor (C, H, W), a PIL "
                "image, or an array (H, W) or (H, W, C)"
            )
        return pixels, self.class_number(label, index)

    def class_number(self, label: Any, index: int) -> int:
        """A label as a number. Raises BadInput unless it is a whole number in the allowed range."""
        is_single = math.prod(getattr(label, "shape", ())) == 1
        number = label.item() if is_single and hasattr(label, "item") else label
        if not isinstance(number, int) or number < 0 or (self.classes is not None and number >= self.classes):
            last = "up" if self.classes is None else f"to {self.classes - 1}"
            raise BadInput(
                f"the label of {self.name}[{index}] is {printable(repr(label))[:60]}, but must be a whole number from "
                f"0 {last}"
            )
        return number


@dataclass(frozen=True)
class Images:
    """An opened source: a split in memory, or a data set that is read item by item."""

    content: Split | Items
    largest_label: int  # -1 where it is unknown

    def __len__(self) -> int:
        return len(self.content)

    def record(self) -> dict[str, Any]:
        """The identity of the images: their number and, if they are in memory, a digest of them and their labels."""
        if not isinstance(self.content, Split):
            return {"images": len(self)}
        digest = hashlib.sha256()
        for values in (self.content.images, self.content.labels):
            digest.update(str((values.dtype, tuple(values.shape))).encode())
            for block in blocks(values):
                digest.update(block.contiguous().cpu().numpy().data)
        return {"images": len(self), "digest": digest.hexdigest()}


def open_source(source: Any, name: str) -> Images:
    """The images and labels of a source. Raises BadInput, with its name, if they cannot be trained on."""
    if isinstance(source, Split):
        content: Split | Items = source
    elif isinstance(source, tuple | list) and len(source) == 2:
        content = split_of(source[0], source[1], name)
    elif isinstance(source, tuple):
        raise BadInput(f"{name} is a tuple of {len(source)} parts, but must be a pair (images, labels)")
    elif isinstance(source, str | bytes | dict | np.ndarray | Tensor) or not is_map_style(source):
        raise BadInput(
            f"{name} is a {type(source).__name__}, but must be a pair (images, labels), a Split, or a data set with "
            "__len__ and __getitem__; of a DataLoader give its dataset"
        )
    else:
        content = Items(source, name)
    if len(content) < 1:
        raise BadInput(f"{name} has no images")
    if not isinstance(content, Split):
        return Images(content, -1)
    if int(content.labels.min()) < 0:
        raise BadInput(f"{name} has a label {int(content.labels.min())}; classes are numbered from 0")
    return Images(content, int(content.labels.max()))


def is_map_style(source: Any) -> bool:
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, IterableDataset)


def tensor_of(values: Any) -> Tensor:
    """Return a tensor of the values of an array or list, in the array's memory where torch can use it."""
    array = np.asarray(values)
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())


LAYOUTS = "tensors (N, C, H, W), or arrays (N, H, W, C) or (N, H, W)"


def split_of(images: Any, labels: Any, name: str) -> Split:
    """Convert a tensor (N, C, H, W) or array (N, H, W[, C]) and labels (N,) to a split (N, H, W, C), uint8 or float."""
    try:
        if isinstance(images, list | tuple) and images and all(isinstance(image, Tensor) for image in images):
            images = torch.stack(list(images))
        is_tensor = isinstance(images, Tensor)
        pixels = images.detach() if is_tensor else tensor_of(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"the images of {name} are no numbers, but must be {LAYOUTS}: {printable(error)}") from error
    if pixels.layout != torch.strided:
        raise BadInput(f"the images of {name} are a sparse tensor; call to_dense()")
    if pixels.ndim == 3 and not is_tensor:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or 0 in pixels.shape[1:] or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise BadInput(
            f"the images of {name} are {pixels.dtype} {tuple(pixels.shape)}, but must be uint8 or floating-point: "
            f"{LAYOUTS}"
        )
    if is_tensor:
        pixels = pixels.permute(0, 2, 3, 1).contiguous()
    try:
        classes = labels.detach() if isinstance(labels, Tensor) else tensor_of(labels)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"the labels of {name} are no numbers, but must be {len(pixels)} class numbers: {printable(error)}"
        ) from error
    if classes.ndim != 1 or classes.is_floating_point() or classes.is_complex() or len(classes) != len(pixels):
        raise BadInput(
            f"the labels of {name} are {classes.dtype} {tuple(classes.shape)}, but must be "
            f"{len(pixels)} class numbers, whole numbers from 0"
        )
    if pixels.dtype != torch.uint8:
        pixels = pixels.float()
        is_bad = ~pixels.flatten(1).isfinite().all(1)
        if is_bad.any():
            raise BadInput(f"{name}[{int(is_bad.nonzero()[0])}] has pixels that are NaN or infinite")
    return Split(pixels, classes.long(), tuple(f"{name}[{index}]" for index in range(len(pixels))))


@dataclass(frozen=True)
class Scaling(Preprocessing):
    """Normalisation of images of any size and number of channels; floating-point images are used as they are."""

    def __post_init__(self) -> None:
        """Accept any size: these values are not written to a model file."""

    @classmethod
    def of(cls, images: Pixels) -> Scaling:
        """The scaling for training images (N, H, W, C)."""
        height, channels = images.shape[1], images.shape[3]
        mean, std = (0.0,) * channels, (1.0,) * channels
        if images.dtype == torch.uint8:
            mean, std = channel_statistics(block.cpu().numpy() for block in blocks(images))
        return cls(height, height, channels, mean, std)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (N, H, W, C) to float32 (N, C, H, W) in channels_last."""
        if images.dtype == torch.uint8:
            mean, std = torch.tensor((self.mean, self.std), dtype=torch.float32, device=images.device)
            images = (images.float() / 255 - mean) / std
        return images.float().permute(0, 3, 1, 2)


@dataclass(frozen=True)
class DatasetBatches:
    """Shuffled batches of a data set that is read item by item, with a seed for each epoch and item."""

    dataset: Items
    batch_size: int
    seed: int
    runtime: Runtime

    def __len__(self) -> int:
        return max(1, len(self.dataset) // self.batch_size)

    def indices(self, epoch: int) -> tuple[Tensor, ...]:
        """The items of each batch of an epoch; an incomplete one at its end is not used."""
        return torch.split(RandomTables(self.seed, epoch, len(self.dataset)).permutation(), self.batch_size)

    def names(self, epoch: int, number: int) -> list[str]:
        """The items of one batch."""
        return [f"{self.dataset.name}[{index}]" for index in self.indices(epoch)[number].tolist()]

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches number `start` up to `stop` (default: all) of one epoch."""
        for indices in self.indices(epoch)[start : len(self) if stop is None else stop]:
            yield read_batch(self.dataset, indices, derived_seed(self.seed, "items", epoch), self.runtime)


@dataclass(frozen=True)
class DatasetEvalBatches:
    """Items of a data set in order, read with the same seeds in every epoch."""

    dataset: Items
    items: Sequence[int]
    runtime: Runtime

    def __len__(self) -> int:
        return math.ceil(len(self.items) / EVAL_BATCH)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.items), EVAL_BATCH):
            indices = torch.tensor(self.items[first : first + EVAL_BATCH])
            yield read_batch(self.dataset, indices, 0, self.runtime)


def read_batch(dataset: Items, indices: Tensor, seed: int, runtime: Runtime) -> Batch:
    """The items of a data set at `indices` as a batch on the device."""
    images, labels = [], []
    with generators_restored():
        for index in indices.tolist():
            seed_generators(derived_seed(seed, "item", index))
            image, label = dataset.read(index)
            images.append(image)
            labels.append(label)
    try:
        stacked = torch.stack(images)
    except RuntimeError as error:
        raise BadInput(f"the images of {dataset.name} differ in size; bring them to one size: {error}") from error
    batch = stacked.to(runtime.device, memory_format=torch.channels_last)
    return Batch(batch, torch.tensor(labels, device=runtime.device), indices)


def to_tensor(image: Any) -> Tensor:
    """An image as float32 (C, H, W): a tensor (C, H, W), a PIL image, or an array (H, W) or (H, W, C).

    8-bit images are scaled to [0, 1], as torchvision's ToTensor does.
    """
    if isinstance(image, Tensor):
        pixels = image
    else:
        array = np.array(image)
        pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the global random generators, from which transforms draw, afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - transforms use it
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed % 2**63)


@dataclass(frozen=True)
class DefaultLayout:
    """The same batches, with images (N, C, H, W) in torch's default layout."""

    batches: Any

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(contiguous, self.batches)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        return map(contiguous, self.batches.epoch(epoch, start, stop))

    def names(self, epoch: int, number: int) -> list[str]:
        names: list[str] = self.batches.names(epoch, number)
        return names


def contiguous(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.contiguous())


def with_classes(batches: Batches, classes: int) -> Batches:
    """The same batches; labels of data sets that are read item by item must be below `classes`."""

    def checked(part: Any) -> Any:
        if isinstance(part, TrainBatches) and part.mixing is not None:
            return replace(part, mixing=replace(part.mixing, classes=classes))
        is_read = isinstance(part, DatasetBatches | DatasetEvalBatches)
        return replace(part, dataset=replace(part.dataset, classes=classes)) if is_read else part

    return Batches(*map(checked, (batches.train, batches.train_sample, batches.val)))


def in_default_layout(batches: Batches) -> Batches:
    return Batches(*map(DefaultLayout, (batches.train, batches.train_sample, batches.val)))


def batches_of(train: Images, val: Images, data: ImageData | None, config: RunConfig, runtime: Runtime) -> Batches:
    """The batches of a training. `data` is the data set to which the splits belong, if there is one."""
    require_alike(train.content, val.content)
    # As many training images as validation has, and always the same, without augmentation
    order = RandomTables(config.data.split_seed, 0, len(train)).permutation()
    sample = order[: min(SAMPLE, len(val), len(train))].sort().values
    if isinstance(train.content, Split):
        scaling = data.preprocessing if data else Scaling.of(train.content.images)
        return Batches(
            train=in_memory(train.content, scaling, config, runtime),
            train_sample=evaluated(train.content.subset(sample), scaling, runtime),
            val=evaluated(val.content, scaling, runtime),
        )
    if config.augment.model_dump(exclude_defaults=True):
        raise BadInput("augment is for images in memory; put random transforms into the data set")
    return Batches(
        train=DatasetBatches(train.content, config.batch_size, config.seed, runtime),
        train_sample=DatasetEvalBatches(train.content, sample.tolist(), runtime),
        val=evaluated(val.content, Scaling.of(torch.zeros(1, 1, 1, 1)), runtime),
    )


def require_alike(train: Split | Items, val: Split | Items) -> None:
    """Raise BadInput if training and validation images differ in their scale or their number of channels."""
    kinds = [
        "float" if not isinstance(content, Split) or content.images.dtype.is_floating_point else "uint8"
        for content in (train, val)
    ]
    if kinds[0] != kinds[1]:
        sources = [
            "a data set" if isinstance(content, Items) else f"{kind} images"
            for content, kind in zip((train, val), kinds, strict=True)
        ]
        raise BadInput(
            f"train is given as {sources[0]} and val as {sources[1]}, which are scaled differently; give both alike"
        )
    if isinstance(train, Split) and isinstance(val, Split) and train.images.shape[3] != val.images.shape[3]:
        raise BadInput(
            f"the images of train have {train.images.shape[3]} channels and those of val {val.images.shape[3]}; "
            f"images are {LAYOUTS}"
        )


def evaluated(content: Split | Items, scaling: Preprocessing, runtime: Runtime) -> Iterable[Batch]:
    """All images in order, without augmentation."""
    if isinstance(content, Split):
        return EvalBatches(hold(content, runtime), scaling, EVAL_BATCH, runtime)
    return DatasetEvalBatches(content, range(len(content)), runtime)


def in_memory(split: Split, scaling: Preprocessing, config: RunConfig, runtime: Runtime) -> TrainBatches:
    """Augmented batches of a split in memory."""
    if config.augment.policy == "auto":
        raise BadInput("augment.policy auto is for `resnetlab.train`, which trains its own networks; choose the policy")
    height, width = split.images.shape[1:3]
    if height != width and (config.augment.resized_crop or config.augment.sizes):
        raise BadInput(f"the images are {height}x{width}; augment.resized_crop and augment.sizes need square ones")
    for name in ("resized_crop", "policy", *JITTER):
        if split.images.dtype != torch.uint8 and getattr(config.augment, name) not in (0, "none"):
            raise BadInput(f"augment.{name} needs uint8 images, but these are {split.images.dtype}; leave it out")
    steps = make_augmentations(config.augment, scaling.image_size, split.images.shape[3])
    batches = TrainBatches(hold(split, runtime), scaling, steps, config.batch_size, config.seed, runtime)
    sizes = image_sizes(config.augment, scaling.image_size)
    mixing = make_mixing(config.augment, 0)  # `with_classes` sets the number of classes, once the network is known
    return replace(batches, sizes=sizes, steps=total_steps(config, len(batches)), mixing=mixing)
