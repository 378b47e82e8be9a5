"""Build the objects that a config describes: data, network, batches, optimiser, plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from resnetlab.data import DATASETS, augment
from resnetlab.data.datasets import ImageData, open_dataset
from resnetlab.data.duplicates import notes_on_copies
from resnetlab.data.loaders import EvalBatches, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables, derived_seed
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput, printable
from resnetlab.evaluation.evaluate import evaluating
from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained
from resnetlab.models.resnet import ResNet
from resnetlab.models.stems import whiten
from resnetlab.runs.config import AugmentConfig, DataConfig, RunConfig
from resnetlab.runtime import Runtime, start
from resnetlab.training.loop import Batches, Plan, TrainState
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Extended, Schedule

EVAL_BATCH = 256  # always the same, so that a score is the same to the last digit wherever it is computed
SKIPS = 10  # steps that may be skipped for a loss or gradient that is not finite, with on_nonfinite="skip"
SAMPLE = 5000  # training images scored beside validation, at most
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
    notes: tuple[str, ...]  # sentences about data and weights, for the log
    extended_at: tuple[int, ...] = ()  # the steps at which the run was finished and then extended

    @classmethod
    def of(cls, config: RunConfig, extended_at: tuple[int, ...] = (), *, data: ImageData | None = None) -> Experiment:
        """Read the data, unless it is given, and build everything else. Raises BadInput if it cannot be trained."""
        runtime = start(config.device, config.precision, deterministic=config.deterministic)
        data = open_data(config.data) if data is None else data
        network, notes = make_network(config, data)
        batches = make_batches(config, data, runtime, extended_at)
        plan = make_plan(config, len(batches.train), extended_at)
        state = make_state(config, network, runtime)
        *extended, _ = lengths(config, len(batches.train), extended_at)
        notes = [*data.notes, *notes_on_copies(data), *notes, *dropped(len(data.train), config.batch_size)]
        return cls(state, batches, plan, runtime, config, data, network, tuple(notes), tuple(extended))


def open_data(config: DataConfig, preprocessing: Preprocessing | None = None) -> ImageData:
    """The data of a config, with the `preprocessing` of a model if one is given."""
    return open_dataset(config.name, preprocessing=preprocessing, **config.model_dump(exclude={"name"}))


def make_network(config: RunConfig, data: ImageData) -> tuple[ResNet, list[str]]:
    """The network for this data, with weights drawn from the seed or loaded, and notes about adapted weights."""
    network = build_model(
        config.model.name,
        len(data.classes),
        in_channels=data.preprocessing.channels,
        stem=config.model.stem,
        image_size=data.preprocessing.image_size,
        shortcut=config.model.shortcut,
        zero_init=config.model.zero_init,
        seed=derived_seed(config.seed, "init") % 2**63,  # torch takes 63 bits
    )
    full = data.preprocessing.image_size
    require_size(network, image_sizes(config.augment, full), full)
    notes = load_pretrained(network, config.model.pretrained) if config.model.pretrained else []
    if network.architecture.stem == "whitened" and not config.model.pretrained:
        sample = RandomTables(config.data.split_seed, 0, len(data.train)).permutation()[:SAMPLE].sort().values
        whiten(network.conv1, data.preprocessing.normalize(data.train.images[sample]))
    if config.model.freeze:
        network.freeze_backbone()
    return network, notes


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
            network(torch.zeros(1, network.in_channels, size, size))
        except RuntimeError:  # a kernel or a window larger than the maps
            return False
    return True


def make_augmentations(config: AugmentConfig, image_size: int) -> list[augment.Augmentation]:
    """The augmentations that are on, in the order in which they are applied."""
    steps = {
        "resized_crop": augment.Augmentation(
            "resized_crop", 4, partial(augment.resized_crop, size=image_size, min_area=config.resized_crop)
        ),
        "crop": augment.Augmentation("crop", 2, partial(augment.crop, padding=config.crop, mode=config.crop_padding)),
        "flip": augment.Augmentation("flip", 1, augment.flip, alternates=config.alternate),
        "cutout": augment.Augmentation("cutout", 2, partial(augment.cutout, size=config.cutout)),
    }
    if config.crop_padding == "reflect" and config.crop >= image_size:
        raise BadInput(
            f"augment.crop is {config.crop}, but mirrored padding must be smaller than the image, {image_size} px"
        )
    return [step for name, step in steps.items() if getattr(config, name)]


def make_batches(config: RunConfig, data: ImageData, runtime: Runtime, extended_at: tuple[int, ...] = ()) -> Batches:
    """Training batches, a sample of the same images without augmentation, and validation."""
    train, val = hold(data.train, runtime), hold(data.val, runtime)
    # The same images in every epoch, as many as validation has, so that the two curves can be compared.
    order = RandomTables(config.data.split_seed, 0, len(train)).permutation()
    sample = order[: min(SAMPLE, len(val), len(train))].sort().values
    full = data.preprocessing.image_size
    steps = make_augmentations(config.augment, full)
    train_batches = TrainBatches(train, data.preprocessing, steps, config.batch_size, config.seed, runtime)
    sizes = image_sizes(config.augment, full)
    first_length, *_ = lengths(config, len(train_batches), extended_at)
    return Batches(
        train=dataclasses.replace(train_batches, sizes=sizes, steps=first_length),
        train_sample=evaluation_batches(hold(data.train.subset(sample), runtime), data, runtime),
        val=evaluation_batches(val, data, runtime),
    )


def dropped(images: int, batch_size: int) -> list[str]:
    """A sentence about the images that are left out of each epoch with its incomplete last batch, or nothing.

    >>> dropped(63, 32)
    ['31 of the 63 training images are left out of each epoch, others every time: batches have 32 images']
    >>> dropped(64, 32), dropped(31, 32)
    ([], [])
    """
    rest = images % batch_size if images > batch_size else 0
    if not rest:
        return []
    are = "is" if rest == 1 else "are"
    return [
        f"{rest:,} of the {images:,} training images {are} left out of each epoch, others every time: batches have "
        f"{batch_size:,} images"
    ]


def evaluation_batches(split: Split, data: ImageData, runtime: Runtime) -> EvalBatches:
    return EvalBatches(split, data.preprocessing, EVAL_BATCH, runtime)


def hold(split: Split, runtime: Runtime) -> Split:
    """The split with its images and labels on the device, if they fit."""
    return dataclasses.replace(split, images=runtime.hold(split.images), labels=runtime.hold(split.labels))


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
    return begin_state(config, runtime.place(network, training=True), runtime)


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
    if config.data.name in DATASETS or not source.exists():
        return config
    return config.changed({"data": {"name": str(source.resolve()), "root": root and str(Path(root).resolve())}})


def require_outside(out: Path | str | None, data: str) -> None:
    """Raise BadInput for output that would lie among the images of a data folder, and become images itself.

    A folder `runs` directly in the data folder is allowed: it is the default, and never read as images.
    """
    if out is None or data in DATASETS or not Path(data).is_dir():
        return
    folder = Path(data).resolve()
    inside = Path(out).resolve()
    if inside == folder or (folder in inside.parents and inside.relative_to(folder).parts[0] != "runs"):
        raise BadInput(
            f"`out` is {printable(out)}, which lies in the data folder {printable(data)}: its pictures would become "
            "images to train on; give a folder outside of it"
        )
