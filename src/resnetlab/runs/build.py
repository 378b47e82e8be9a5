"""From a config to the objects it describes: data, network, batches, optimiser, plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from resnetlab.data import DATASETS, augment
from resnetlab.data.datasets import ImageData, open_dataset
from resnetlab.data.loaders import EvalBatches, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables, derived_seed
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput
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
SKIPS = 10  # steps left out for a loss or gradient that is not finite, where that is allowed at all
SAMPLE = 5000  # training images scored beside validation, at most


@dataclass(frozen=True)
class Experiment:
    """The objects of a run, made from its config."""

    config: RunConfig
    runtime: Runtime
    data: ImageData
    network: ResNet
    batches: Batches
    plan: Plan
    state: TrainState
    notes: list[str]  # what a person should know about data and weights

    @classmethod
    def of(cls, config: RunConfig) -> Experiment:
        runtime = start(config.device, config.precision, deterministic=config.deterministic)
        data = open_data(config.data)
        network, notes = make_network(config, data)
        batches = make_batches(config, data, runtime)
        plan = make_plan(config, len(batches.train))
        state = make_state(config, network, runtime)
        return cls(config, runtime, data, network, batches, plan, state, [*data.notes, *notes])


def open_data(config: DataConfig, preprocessing: Preprocessing | None = None) -> ImageData:
    """The data of a config; seen through the `preprocessing` of a model, where one is given."""
    return open_dataset(config.name, preprocessing=preprocessing, **config.model_dump(exclude={"name"}))


def make_network(config: RunConfig, data: ImageData) -> tuple[ResNet, list[str]]:
    """The network for this data, with its weights drawn from the seed or taken from elsewhere; and what was adapted."""
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
    notes = load_pretrained(network, config.model.pretrained) if config.model.pretrained else []
    if network.architecture.stem == "whitened" and not config.model.pretrained:
        sample = RandomTables(config.data.split_seed, 0, len(data.train)).permutation()[:SAMPLE].sort().values
        whiten(network.conv1, data.preprocessing.normalize(data.train.images[sample]))
    if config.model.freeze:
        network.freeze_backbone()
    return network, notes


def make_augmentations(config: AugmentConfig, image_size: int) -> list[augment.Augmentation]:
    """The augmentations that are on, in the order they are applied."""
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


def make_batches(config: RunConfig, data: ImageData, runtime: Runtime) -> Batches:
    train, val = hold(data.train, runtime), hold(data.val, runtime)
    # As many training images as validation has, and always the same: the two curves then differ by what was learned.
    order = RandomTables(config.data.split_seed, 0, len(train)).permutation()
    sample = order[: min(SAMPLE, len(val), len(train))].sort().values
    full = data.preprocessing.image_size
    steps = make_augmentations(config.augment, full)
    train_batches = TrainBatches(train, data.preprocessing, steps, config.batch_size, config.seed, runtime)
    sizes = [max(1, round(share * full)) for share in config.augment.sizes]
    run = config.extended_at[0] if config.extended_at else total_steps(config, len(train_batches))
    return Batches(
        train=dataclasses.replace(train_batches, sizes=sizes, steps=run),
        train_sample=evaluation_batches(hold(data.train.subset(sample), runtime), data, runtime),
        val=evaluation_batches(val, data, runtime),
    )


def evaluation_batches(split: Split, data: ImageData, runtime: Runtime) -> EvalBatches:
    return EvalBatches(split, data.preprocessing, EVAL_BATCH, runtime)


def hold(split: Split, runtime: Runtime) -> Split:
    """The split with its pixels where the batches are made."""
    return dataclasses.replace(split, images=runtime.hold(split.images), labels=runtime.hold(split.labels))


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None  # RunConfig has exactly one of them
    return config.epochs * steps_per_epoch


def make_plan(config: RunConfig, steps_per_epoch: int) -> Plan:
    lengths = [*config.extended_at, total_steps(config, steps_per_epoch)]
    return Plan(
        steps=lengths[-1],
        schedule=make_schedule(config, lengths, steps_per_epoch),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
        accumulate=config.accumulate,
        clip_norm=config.clip_norm or math.inf,
        criterion=config.best_by,
        patience=config.patience,
    )


def make_schedule(config: RunConfig, lengths: Sequence[int], steps_per_epoch: int) -> Schedule | Extended:
    """The schedule of a run that was planned for `lengths[0]` steps and then extended to each of the others."""
    settings = config.schedule.model_dump(exclude={"name"})
    schedule: Schedule | Extended = Schedule(
        config.schedule.name, config.optim.lr, lengths[0], steps_per_epoch, **settings
    )
    for before, after in itertools.pairwise(lengths):
        schedule = Extended(schedule, before, after)
    return schedule


def make_state(config: RunConfig, network: ResNet, runtime: Runtime) -> TrainState:
    """The state before the first step."""
    model = runtime.place(network, training=True)
    optimizer = make_optimizer(model, **config.optim.model_dump(), precision=runtime.precision)
    skips = SKIPS if config.on_nonfinite == "skip" else 0
    return TrainState.begin(model, optimizer, runtime, ema=config.ema, skips=skips)


def resolved(config: RunConfig) -> RunConfig:
    """The config with its data folder made absolute, so that a run can be resumed from anywhere."""
    folder = Path(config.data.name)
    if config.data.name in DATASETS or not folder.is_dir():
        return config
    return config.changed({"data": {"name": str(folder.resolve())}})
