"""Build the objects that a config describes: data, network, batches, optimiser, plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from resnetlab.data import augment, colour
from resnetlab.data.balance import class_weights
from resnetlab.data.datasets import ImageData, open_dataset
from resnetlab.data.duplicates import notes_on_copies
from resnetlab.data.loaders import EvalBatches, TrainBatches
from resnetlab.data.manifest import SUFFIXES as TABLES
from resnetlab.data.mixing import Mixing
from resnetlab.data.policy import Policy
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables, derived_seed
from resnetlab.data.remote import is_remote
from resnetlab.data.shard_list import is_shards
from resnetlab.data.sources import is_named
from resnetlab.data.splits import Split
from resnetlab.data.stores import note_on
from resnetlab.distributed import ALONE, Processes
from resnetlab.errors import BadInput
from resnetlab.evaluation.evaluate import evaluating
from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained
from resnetlab.models.resnet import ResNet
from resnetlab.models.stems import whiten
from resnetlab.runs.config import HARMLESS, AugmentConfig, DataConfig, RunConfig
from resnetlab.runs.data_notes import notes_on_training_images
from resnetlab.runs.differences import flat
from resnetlab.runs.stem import ENLARGED, chosen_network, chosen_stem, notes_on_stem
from resnetlab.runtime import Runtime, start
from resnetlab.training.loop import Batches, Plan, TrainState
from resnetlab.training.loss import WeightedCrossEntropy
from resnetlab.training.optim import make_optimizer
from resnetlab.training.replicas import replicate
from resnetlab.training.schedule import Extended, Schedule
from resnetlab.training.sync_norm import synchronized

EVAL_BATCH = 256  # always the same, so that a score is the same to the last digit wherever it is computed
SKIPS = 10  # steps that may be skipped for a loss or gradient that is not finite, with on_nonfinite="skip"
SAMPLE = 5000  # training images scored beside validation, at most
MOST_VALUES = 3 * SAMPLE * 40**2  # of images for a whitened stem, whose patches take nine doubles for each of them
LARGEST_PROBE = 64  # pixels; every network takes larger images


@dataclass(frozen=True)
class Training:
    """The arguments of the training loop."""

    state: TrainState
    batches: Batches
    plan: Plan
    runtime: Runtime


@dataclass(frozen=True)
class Experiment(Training):
    """The objects of a run, made from its config."""

    config: RunConfig
    data: ImageData
    network: ResNet
    notes: tuple[str, ...]  # sentences about data, network and weights, for the log
    extended_at: tuple[int, ...] = ()  # the steps at which the run was finished and then extended

    @classmethod
    def of(
        cls,
        config: RunConfig,
        extended_at: tuple[int, ...] = (),
        *,
        data: ImageData | None = None,
        processes: Processes = ALONE,
    ) -> Experiment:
        """Read the data, unless it is given, and build everything else. Raises BadInput if it cannot be trained."""
        runtime = start(config.device, config.precision, deterministic=config.deterministic, processes=processes)
        is_new = data is None
        data = open_data(config.data) if data is None else data
        config, data = with_chosen_network(config, data, may_open=is_new)
        require_shares(config, len(data.train), processes)
        network, notes = make_network(config, data)
        batches = make_batches(config, data, runtime, extended_at)
        plan = make_plan(config, len(batches.train), extended_at)
        if config.data.balance == "weights":
            weights = class_weights(data.train.labels, len(data.classes)).to(runtime.device)
            loss_fn = WeightedCrossEntropy(weights, label_smoothing=config.label_smoothing)
            plan = dataclasses.replace(plan, loss_fn=loss_fn)
        state = make_state(config, network, runtime)
        *extended, _ = lengths(config, len(batches.train), extended_at)
        notes = [
            *data.notes,
            *note_on([data.train, data.val, data.test]),
            *notes_on_copies(data),
            *notes,
            *notes_on_training_images(config, data),
        ]
        unique = tuple(dict.fromkeys(notes))  # those of a run's stored data have the copies already
        return cls(state, batches, plan, runtime, config, data, network, unique, tuple(extended))

    def require_same(self, **others: object) -> None:
        """Raise BadInput if the processes have other settings, images, or values of `others`. All of them call this.

        Before anything else is exchanged: with other settings they would not exchange the same things.
        """
        processes = self.runtime.processes
        if processes.is_alone:
            return
        settings = {path: value for path, value in flat(self.config.to_json()).items() if path not in HARMLESS}
        del settings["data.name"]  # a path may differ between machines; the images are compared
        images = [(split.digest, split.contents_digest) for split in (self.data.train, self.data.val)]
        processes.require_same({"settings": repr((settings, others)), "images": repr(images)})

    def replicate(self) -> None:
        """Give all processes the same state. All call this, after building or loading the experiment and before `fit`.

        Raises BadInput if their settings or images differ.
        """
        preprocessing, processes = self.data.preprocessing, self.runtime.processes
        if processes.is_alone:
            return
        self.require_same()
        shape = (2, preprocessing.channels, preprocessing.image_size, preprocessing.image_size)
        example = torch.zeros(shape, dtype=torch.float32, device=self.runtime.device)
        replicate(self.state, example, self.runtime, compress=self.config.compress_gradients)


def require_shares(config: RunConfig, images: int, processes: Processes) -> None:
    """Raise BadInput unless a batch can be divided evenly among the processes, into parts of 2 images or more."""
    if processes.is_alone:
        return
    count, batch = processes.world_size, min(config.batch_size, images)
    given = f"batch_size is {batch}" if batch == config.batch_size else f"a batch has all {batch} training images"
    least = 2 * config.accumulate * count
    if batch < least:
        parts = f" for each of {config.accumulate} parts (accumulate)" if config.accumulate > 1 else ""
        raise BadInput(
            f"{given}, too few for {count} processes, each of which needs 2 images{parts}; choose a batch_size of "
            f"{least} or more, or fewer processes"
        )
    if batch % count:
        below = batch // count * count
        raise BadInput(
            f"{given}, which {count} processes cannot divide evenly; choose a batch_size of {below} or "
            f"{below + count}, or another number of processes"
        )


def open_data(config: DataConfig, preprocessing: Preprocessing | None = None) -> ImageData:
    """The data of a config, with the `preprocessing` of a model if one is given."""
    settings = config.model_dump(exclude={"name", "balance", "shuffle_window"})
    return open_dataset(config.name, preprocessing=preprocessing, **settings)


def with_chosen_network(config: RunConfig, data: ImageData, *, may_open: bool) -> tuple[RunConfig, ImageData]:
    """The config with a network in the place of "auto", and the data with a sentence about it.

    Tiny images are enlarged for it, if the data `may_open` again.
    """
    if config.model.name != "auto":
        return config, data
    full = data.preprocessing.image_size
    is_enlarged = may_open and config.data.image_size is None and full < ENLARGED
    side = ENLARGED if is_enlarged else full
    name = chosen_network(config.model, min([side, *image_sizes(config.augment, side)]), side)
    config = config.changed({"model": {"name": name}})
    if name == "resnet18":
        return config, data
    if is_enlarged:
        config = config.changed({"data": {"image_size": side}})
        data = open_data(config.data)
    enlarged = f", enlarged to {side}x{side}" if is_enlarged else ""
    note = (
        f"model.name auto: {name} for small images ({full}x{full} px{enlarged}), because it learns more than resnet18 "
        "in the same time; `model.name='resnet18'` chooses that"
    )
    return config, dataclasses.replace(data, notes=(*data.notes, note))


def make_network(config: RunConfig, data: ImageData) -> tuple[ResNet, list[str]]:
    """The network for this data, with weights drawn from the seed or loaded, and notes about stem and weights."""
    name, full = config.model.name, data.preprocessing.image_size
    network = build_model(
        name,
        len(data.classes),
        in_channels=data.preprocessing.channels,
        stem=chosen_stem(config.model.stem, name, full),
        image_size=full,
        shortcut=config.model.shortcut,
        zero_init=config.model.zero_init,
        seed=derived_seed(config.seed, "init") % 2**63,  # torch takes 63 bits
    )
    require_size(network, image_sizes(config.augment, full), full)
    notes = notes_on_stem(config.model.stem, name, full)
    notes += load_pretrained(network, config.model.pretrained) if config.model.pretrained else []
    if network.architecture.stem == "whitened" and not config.model.pretrained:
        count = images_for_stem(data.preprocessing.channels * full**2)
        sample = RandomTables(config.data.split_seed, 0, len(data.train)).permutation()[:count].sort().values
        whiten(network.conv1, data.preprocessing.normalize(data.train.images[sample]))
    if config.model.freeze:
        network.freeze_backbone()
    return network, notes


def images_for_stem(values: int) -> int:
    """The number of images, of so many values each, that the filters of a whitened stem are computed from.

    >>> images_for_stem(3 * 32**2), images_for_stem(3 * 224**2)
    (5000, 159)
    """
    return max(1, min(SAMPLE, MOST_VALUES // values))


def image_sizes(config: AugmentConfig, full: int) -> list[int]:
    """The image size of each phase of training, in pixels; empty if all of it uses the full size."""
    return [max(1, round(share * full)) for share in config.sizes]


def require_size(network: ResNet, sizes: Sequence[int], full: int) -> None:
    """Raise BadInput, with the smallest possible size, if images of one of these sizes are too small."""
    smallest = min([full, *sizes])
    if smallest > LARGEST_PROBE or is_large_enough(network, smallest):
        return
    least = next((size for size in range(smallest + 1, LARGEST_PROBE + 1) if is_large_enough(network, size)), None)
    if least is None:
        raise BadInput(f"images of {smallest}x{smallest} px are too small for {network.name}; choose another model")
    if smallest < full:
        share = math.ceil(100 * least / full) / 100
        raise BadInput(
            f"images of {smallest}x{smallest} px, the smallest of augment.sizes, are too small for {network.name}: "
            f"it needs {least} px or more, a share of {share:g} or a larger data.image_size"
        )
    raise BadInput(
        f"images of {smallest}x{smallest} px are too small for {network.name}: it needs {least} px or more; "
        f"set data.image_size to {max(least, 16)}, or choose another model"
    )


@torch.inference_mode()
def is_large_enough(network: ResNet, size: int) -> bool:
    """True if the network maps an image of this size to logits. In evaluation mode, so that no statistics change."""
    with evaluating(network):
        try:
            network(network.fc.weight.new_zeros(1, network.in_channels, size, size))
        except RuntimeError:  # a kernel or a window larger than the maps
            return False
    return True


def make_augmentations(config: AugmentConfig, image_size: int, channels: int = 3) -> list[augment.Augmentation]:
    """The augmentations that are on, in the order in which they are applied."""
    for name in ("saturation", "hue"):
        if getattr(config, name) and channels != 3:
            have = "are grey" if channels == 1 else f"have {channels} channels"
            raise BadInput(f"augment.{name} is for colour images, but these {have}; set augment.{name} to 0")
    policy = Policy("trivial")
    if config.policy == "rand":
        policy = Policy("rand", config.rand_ops, config.rand_magnitude)
    steps = {
        "resized_crop": augment.Augmentation(
            "resized_crop", 4, partial(augment.resized_crop, size=image_size, min_area=config.resized_crop)
        ),
        "crop": augment.Augmentation("crop", 2, partial(augment.crop, padding=config.crop, mode=config.crop_padding)),
        "flip": augment.Augmentation("flip", 1, augment.flip, alternates=config.alternate),
        "policy": augment.Augmentation("policy", policy.columns, policy.apply, on_cpu=True),
        "rotation": augment.Augmentation("rotation", 1, partial(augment.rotation, degrees=config.rotation)),
        **{
            name: augment.Augmentation(name, 1, partial(apply, strength=getattr(config, name)))
            for name, apply in colour.JITTER.items()
        },
        "cutout": augment.Augmentation("cutout", 2, partial(augment.cutout, size=config.cutout)),
        "erasing": augment.Augmentation("erasing", 5, partial(augment.erasing, probability=config.erasing)),
    }
    if config.crop_padding == "reflect" and config.crop >= image_size:
        raise BadInput(
            f"augment.crop is {config.crop}, but mirrored padding must be smaller than the image, {image_size} px"
        )
    return [step for name, step in steps.items() if getattr(config, name) not in (0, "none", "auto")]


def make_mixing(config: AugmentConfig, classes: int) -> Mixing | None:
    """The mixing of images, or None if it is off."""
    return Mixing(classes, config.mixup, config.cutmix) if config.mixup or config.cutmix else None


def make_batches(config: RunConfig, data: ImageData, runtime: Runtime, extended_at: tuple[int, ...] = ()) -> Batches:
    """Training batches, a sample of the same images without augmentation, and validation."""
    train, val = hold(data.train, runtime), hold(data.val, runtime)
    # The same images in every epoch, as many as validation has, so that the two curves can be compared.
    order = RandomTables(config.data.split_seed, 0, len(train)).permutation()
    sample = order[: min(SAMPLE, len(val), len(train))].sort().values
    full = data.preprocessing.image_size
    steps = make_augmentations(config.augment, full, data.preprocessing.channels)
    train_batches = TrainBatches(train, data.preprocessing, steps, config.batch_size, config.seed, runtime)
    sizes = image_sizes(config.augment, full)
    first_length, *_ = lengths(config, len(train_batches), extended_at)
    return Batches(
        train=dataclasses.replace(
            train_batches,
            sizes=sizes,
            steps=first_length,
            mixing=make_mixing(config.augment, len(data.classes)),
            is_balanced=config.data.balance == "sampler",
            window=config.data.shuffle_window,
        ),
        train_sample=evaluation_batches(hold(data.train.subset(sample), runtime), data, runtime),
        val=evaluation_batches(val, data, runtime),
    )


def evaluation_batches(split: Split, data: ImageData, runtime: Runtime) -> EvalBatches:
    return EvalBatches(split, data.preprocessing, EVAL_BATCH, runtime)


def hold(split: Split, runtime: Runtime) -> Split:
    """The split with its images and labels on the device, if they fit."""
    images = runtime.hold(split.images) if isinstance(split.images, torch.Tensor) else split.images
    return dataclasses.replace(split, images=images, labels=runtime.hold(split.labels))


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None  # RunConfig has exactly one of them
    return config.epochs * steps_per_epoch


def lengths(config: RunConfig, steps_per_epoch: int, extended_at: Iterable[int]) -> list[int]:
    """The lengths in steps that a run was planned for, in order; the last one is the config's."""
    total = total_steps(config, steps_per_epoch)
    # An extension that equals the length: the run was killed before its new length was written.
    return [*(step for step in extended_at if step < total), total]


def make_plan(config: RunConfig, steps_per_epoch: int, extended_at: tuple[int, ...] = ()) -> Plan:
    planned = lengths(config, steps_per_epoch, extended_at)
    return Plan(
        steps=planned[-1],
        schedule=make_schedule(config, planned, steps_per_epoch),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
        accumulate=config.accumulate,
        clip_norm=config.clip_norm or math.inf,
        criterion=config.best_by,
        patience=config.patience,
    )


def make_schedule(config: RunConfig, planned: Sequence[int], steps_per_epoch: int) -> Schedule | Extended:
    """The schedule of a run that was planned for `planned[0]` steps and then extended to each of the others."""
    settings = config.schedule.model_dump(exclude={"name"})
    schedule: Schedule | Extended = Schedule(
        config.schedule.name, config.optim.lr, planned[0], steps_per_epoch, **settings
    )
    for before, after in itertools.pairwise(planned):
        schedule = Extended(schedule, before, after)
    return schedule


def make_state(config: RunConfig, network: nn.Module, runtime: Runtime) -> TrainState:
    """The state before the first step, with the network on the device in its fastest form."""
    placed = runtime.place(network, training=True)
    return begin_state(config, synchronized(placed, runtime) if config.sync_bn else placed, runtime)


def begin_state(config: RunConfig, model: nn.Module, runtime: Runtime) -> TrainState:
    """The state before the first step of a model that is on the device."""
    optimizer = make_optimizer(model, **config.optim.model_dump(), precision=runtime.precision)
    skips = SKIPS if config.on_nonfinite == "skip" else 0
    return TrainState.begin(model, optimizer, runtime, ema=config.ema, skips=skips)


def resolved(config: RunConfig) -> RunConfig:
    """The config with the path of its data made absolute, so that a run can be resumed from anywhere.

    Raises BadInput for anything but a `RunConfig`.
    """
    if not isinstance(config, RunConfig):
        raise BadInput(
            f"the config is {reprlib.repr(config)}; give a RunConfig, for example recipes.quickstart() or "
            "RunConfig.model_validate({...})"
        )
    source, root = Path(config.data.name), config.data.root
    if is_remote(config.data.name):
        return config
    if is_shards(source):
        return config.changed({"data": {"name": os.path.abspath(source)}})  # noqa: PTH100 - may be a pattern
    if is_named(config.data.name):
        if not root or root.startswith("~"):  # the home folder is the same from anywhere
            return config
        return config.changed({"data": {"root": os.path.abspath(root)}})  # noqa: PTH100 - as `_opened` has it
    if not source.exists():
        return config
    # A link to a table keeps its name and its place: the images may be beside it, and what it leads to has any name.
    is_table = source.suffix.lower() in TABLES and not source.is_dir()
    place = source.parent.resolve() / source.name if is_table else source.resolve()
    return config.changed({"data": {"name": str(place), "root": root and str(Path(root).resolve())}})
