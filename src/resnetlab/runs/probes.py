"""Augmentation policy "auto": short probes on training images choose between mirroring or not, and crops or shifts.

Small images have shifts without a probe, because in all that was measured these are better and the probes do not find
it: crops are ahead of them in a short training.

A probe trains a small network with one policy on three quarters of the training images, reduced in size, and scores it
on the other quarter. Images of the validation and the test split are not used.

Test accuracy of recipe `folder` with each policy, one run each: 3,510 letters of 28 px, 8 epochs: 43.6 % mirrored with
crops, 56.0 % not mirrored with crops, 61.4 % not mirrored with shifts. 1,293 digits, 10 epochs: 95.3, 98.1 and 99.4 %.
4,608 images of CIFAR-10, 6 epochs, 200 test images: 54.5 % mirrored with crops, 60.5 % mirrored with shifts, 56.0 % not
mirrored with shifts. For the seeds 0 to 2, probes of all four chose crops each time, and mirroring for CIFAR-10 only.

Where mirrored images of a class resemble another class, the probes must find mirroring better. 1,295 digits enlarged to
16 px, 30 epochs, seeds 0 to 2: 96.1, 96.1 and 97.8 % of 359 test images mirrored, 97.8, 96.9 and 97.8 % not mirrored.
The probes of seed 0, 98 and 99 %, found no clear difference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.data.loaders import EvalBatches, TrainBatches
from resnetlab.data.mirrored import confusable_when_mirrored
from resnetlab.data.pixels import in_turn
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables, derived_seed
from resnetlab.data.splits import Split
from resnetlab.distributed import ALONE
from resnetlab.errors import printable
from resnetlab.evaluation.comparison import Correct, discordant, mcnemar
from resnetlab.evaluation.evaluate import probabilities
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import count_macs
from resnetlab.models.zoo import Architecture
from resnetlab.runs.augmentation_words import augmentation_words
from resnetlab.runs.build import EVAL_BATCH, Experiment, hold, make_augmentations
from resnetlab.runs.config import AugmentConfig, RunConfig
from resnetlab.runs.log import RunLog, SilentLog
from resnetlab.runtime import Runtime
from resnetlab.training.loop import Plan, TrainState, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

NETWORK = Architecture("basic", (1, 1, 1), width=16, stem="cifar")
SMALLEST, LARGEST = 16, 32  # pixels: sides of the images of a probe
MOST_IMAGES = 8000  # for training and scoring a probe
PARTS = 4  # one of which is held out
BATCH, RATE, DECAY = 64, 3e-3, 0.05
MOST_SHARE = 0.1  # of the computation of the run, for all probes together
FEWEST_EPOCHS, MOST_STEPS = 3, 400  # of each probe
SHIFT = 0.1  # of the side of an image
LARGEST_SHIFTED = 40  # pixels; images up to this size are shifted, never cropped
SIGNIFICANT = 0.05  # p-value
STEP = 500_000_000  # multiply-adds that take about as long as what a step costs besides them
BLOCK = 256  # images that are reduced at a time
BACKWARD = 3  # a training step computes about three times as much as a forward pass
PIXELS = ("crop", "cutout")
"""The settings of augmentation that are in pixels."""
CHOSEN = ("policy", "flip", "alternate", "resized_crop", "crop")
"""The settings of augmentation that the choice sets."""


@dataclass(frozen=True)
class Budget:
    """The length of each probe, and the share of the run's computation that all of them take."""

    epochs: int
    share: float


def policies(config: AugmentConfig, image_size: int) -> list[AugmentConfig]:
    """Return the policies to choose from; the first is the given one.

    Mirroring and crops are given up in turn if they are on. In the place of crops come shifts by up to `config.crop`
    pixels or, if that is 0, a tenth of the image. Small images are shifted in every policy.

    >>> given = AugmentConfig(policy="auto", flip=True, resized_crop=0.35)
    >>> [augmentation_words(one) for one in policies(given, 48)]
    ['crops from 35 % of the area; mirrored at random', 'crops from 35 % of the area', \
'shifted by up to 5 px; mirrored at random', 'shifted by up to 5 px']
    >>> [augmentation_words(one) for one in policies(given, 28)]
    ['shifted by up to 3 px; mirrored at random', 'shifted by up to 3 px']
    """
    given = config.model_copy(update={"policy": "none"})
    without_flips = {"flip": False, "alternate": False}
    shifts = {"resized_crop": 0.0, "crop": config.crop or max(1, round(SHIFT * image_size))}
    if config.resized_crop and image_size <= LARGEST_SHIFTED:
        given = given.model_copy(update=shifts)
    mirrored = [given, given.model_copy(update=without_flips)] if given.flip else [given]
    moved = [one.model_copy(update=shifts) for one in mirrored] if given.resized_crop else []
    return [*mirrored, *moved]


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Probe:
    """A policy, and the held-out images that the network classified correctly after training with it."""

    policy: AugmentConfig
    correct: Correct

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def best(probes: Sequence[Probe], *, mirrors: bool = True) -> Probe:
    """Return the probe to follow: without mirroring, then without crops, where that is significantly more accurate.

    In a short training, weaker augmentation tends to be ahead whether it is better in a long one or not. So a small
    difference is no reason to give something up. Each of the two is decided by McNemar's test, on the pairs of probes
    that differ in it. Without `mirrors`, images are mirrored only where that is significantly more accurate.
    """
    left = list(probes)
    for name in ("flip", "resized_crop"):
        has, lacks = ([probe for probe in left if bool(getattr(probe.policy, name)) == on] for on in (True, False))
        if has and lacks:
            better, worse = discordant(*(np.concatenate([probe.correct for probe in part]) for part in (lacks, has)))
            is_clear = mcnemar(better, worse) < SIGNIFICANT
            is_given_up = better > worse if is_clear else name == "flip" and not mirrors
            left = lacks if is_given_up else has
    return left[0]


def with_chosen_policy(experiment: Experiment) -> Experiment:
    """Return the experiment with a policy that probes have chosen, and a sentence about them.

    The choice depends on the seed, the training images and the settings; it takes the place of "auto" in the config, so
    that a run with the same config has the same bits. Where the run is too short for probes, the given policy is kept,
    without mirroring if mirrored images of a class resemble another one.

    Several processes make the same probes, each for itself, and follow the main process.
    """
    processes, config, data = experiment.runtime.processes, experiment.config, experiment.data
    found = policies(config.augment, data.preprocessing.image_size)
    confusable = [
        one
        for one in (confusable_when_mirrored(data.train, data.classes, config.data.split_seed) if found[0].flip else ())
        if mcnemar(one.mirrored, one.plain) < SIGNIFICANT
    ]
    chosen = next(policy for policy in found if not (confusable and policy.flip))
    length = budget(experiment, len(found))
    if len(found) == 1:
        sentence = f"nothing to choose between; {augmentation_words(chosen)}"
    elif length.epochs < FEWEST_EPOCHS:
        sentence = f"the run is too short for probes; {augmentation_words(chosen)}"
    elif not len(divided(data.train, probe_seed(config))[1]):
        sentence = f"no group of images can be held out for probes; {augmentation_words(chosen)}"
    else:
        log = RunLog() if processes.is_main else SilentLog()
        log.info(
            f"probes   of {len(found)} policies of augmentation, each with a small network for {length.epochs} epochs: "
            f"about {max(length.share, 0.01):.0%} of the computation of the run"
        )
        with processes.together():
            trial = Trial.of(experiment, length.epochs)
            probes = [trial.probe(policy) for policy in found]
        followed = best(probes, mirrors=not confusable)
        chosen, sentence = processes.broadcast((followed.policy, summary_of(probes, followed, len(data.train))))
    if confusable and not chosen.flip:
        one = confusable[0]
        sentence += f"; mirrored images of {printable(one.name)} would resemble {printable(one.other)}"
    with processes.together():
        whole = Experiment.of(config.changed({"augment": chosen.model_dump()}), data=data, processes=processes)
    return dataclasses.replace(whole, notes=(*whole.notes, f"augment.policy auto: {sentence}"))


def summary_of(probes: Sequence[Probe], chosen: Probe, images: int) -> str:
    """Return what was probed and chosen, with the accuracy of each policy on the held-out images."""
    kinds = {"flip": ("not mirrored", "mirrored"), "resized_crop": ("shifts", "crops")}
    differing = {name: pair for name, pair in kinds.items() if len({getattr(one.policy, name) for one in probes}) > 1}

    def words(one: Probe) -> str:
        return ", ".join(pair[bool(getattr(one.policy, name))] for name, pair in differing.items())

    others = [f"{one.accuracy:.0%} ({words(one)})" for one in probes if one is not chosen]
    used, held = min(images, MOST_IMAGES), len(chosen.correct)
    return (
        f"probed {len(probes)} policies on {used:,} training images, {held:,} of them held out: "
        f"{words(chosen)}: {chosen.accuracy:.0%}, against {', '.join(others)}"
    )


def budget(experiment: Experiment, count: int) -> Budget:
    """Return the length of each of `count` probes that together take at most a tenth of the run's computation.

    Counted are multiply-adds, and no time is measured, so that the length is the same every time.
    """
    config, data, architecture = experiment.config, experiment.data, experiment.network.architecture
    side, sizes = data.preprocessing.image_size, config.augment.sizes or (1.0,)
    resized = sum(share**2 for share in sizes) / len(sizes)
    passes = 1 if config.model.freeze else BACKWARD
    images = min(config.batch_size, len(data.train))
    run = experiment.plan.steps * (STEP + passes * resized * images * macs(architecture, experiment, side))
    kept, held = parts(len(data.train))
    one, steps = macs(NETWORK, experiment, probe_side(side)), max(1, kept // BATCH)
    epoch, scores = steps * (STEP + BACKWARD * min(BATCH, kept) * one), held * one
    epochs = max(0, min(int((MOST_SHARE * run / count - scores) / epoch), math.ceil(MOST_STEPS / steps)))
    return Budget(epochs, count * (epochs * epoch + scores) / run)


def macs(architecture: Architecture, experiment: Experiment, side: int) -> int:
    """Return the multiply-adds of a network for one image of the experiment's data."""
    with torch.device("meta"):
        network = ResNet(architecture, len(experiment.data.classes), experiment.data.preprocessing.channels)
    return count_macs(network.eval(), side)


def parts(images: int) -> tuple[int, int]:
    """Return the numbers of images to train and to score a probe on.

    >>> parts(1000), parts(100_000)
    ((750, 250), (6000, 2000))
    """
    used = min(images, MOST_IMAGES)
    return used - used // PARTS, used // PARTS


def divided(train: Split, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the images to train and to score a probe on, int64 rows. Images of one group are on one side.

    The division between two groups that is nearest to the wanted one is taken, so that the sizes of the two sides
    differ from those of `parts`. With a single group, none is held out.
    """
    order = RandomTables(seed, 0, len(train)).permutation()
    kept, held = parts(len(train))
    if train.groups:
        first = {train.groups[row]: place for place, row in reversed(list(enumerate(order.tolist())))}
        starts = [first[train.groups[row]] for row in order.tolist()]
        order = order[np.argsort(starts, kind="stable")]  # the groups in turn, in a random order
        _, begin = np.unique(np.sort(starts), return_index=True)  # the places at which a group begins
        nearest = min(begin[1:].tolist(), key=lambda place: abs(place - kept), default=len(order))
        kept, held = nearest, max(0, kept + held - nearest)
    return order[:kept], order[kept : kept + held]


def probe_seed(config: RunConfig) -> int:
    return derived_seed(config.seed, "probe") % 2**63


def probe_side(side: int) -> int:
    """Return the side of the images of a probe: half of the network's, in bounds.

    >>> [probe_side(side) for side in (8, 28, 48, 224)]
    [8, 16, 24, 32]
    """
    return min(side, max(SMALLEST, min(LARGEST, side // 2)))


@dataclass(frozen=True)
class Trial:
    """The parts that all probes have in common: images, initial weights, random numbers and length."""

    train: Split
    scored: Split
    preprocessing: Preprocessing
    image_size: int  # of the run, in pixels
    classes: int
    is_balanced: bool
    seed: int
    epochs: int
    runtime: Runtime

    @classmethod
    def of(cls, experiment: Experiment, epochs: int) -> Trial:
        """Return the trial of an experiment, with two parts of its training split."""
        config, data = experiment.config, experiment.data
        runtime = dataclasses.replace(experiment.runtime, processes=ALONE)
        seed, side = probe_seed(config), probe_side(data.preprocessing.image_size)
        kept, held = divided(data.train, seed)  # rows
        return cls(
            hold(reduced(data.train, kept, side), runtime),
            hold(reduced(data.train, held, side), runtime),
            dataclasses.replace(data.preprocessing, image_size=side, resize_to=side),
            data.preprocessing.image_size,
            len(data.classes),
            config.data.balance == "sampler",
            seed,
            epochs,
            runtime,
        )

    def probe(self, policy: AugmentConfig) -> Probe:
        """Train a small network with a policy, and score it."""
        runtime, side, channels = self.runtime, self.preprocessing.image_size, self.preprocessing.channels
        network = build_model(NETWORK, self.classes, in_channels=channels, seed=self.seed)
        placed = runtime.place(network, training=True)
        optimizer = make_optimizer(placed, "adamw", lr=RATE, weight_decay=DECAY, precision=runtime.precision)
        state = TrainState.begin(placed, optimizer, runtime)
        steps = make_augmentations(at_size(policy, side / self.image_size), side, channels)
        batches = TrainBatches(
            self.train, self.preprocessing, steps, BATCH, self.seed, runtime, is_balanced=self.is_balanced
        )
        length = self.epochs * len(batches)
        plan = Plan(length, Schedule("one_cycle", RATE, length, len(batches)), nn.CrossEntropyLoss())
        placed.train()
        with runtime.deterministic_algorithms():
            for epoch in range(self.epochs):
                for batch in batches.epoch(epoch):
                    train_step(state, batch, plan, runtime)
            scored = EvalBatches(self.scored, self.preprocessing, EVAL_BATCH, runtime)
            found, labels = probabilities(placed, scored, runtime)
        return Probe(policy, np.asarray(found.argmax(1) == labels))


def at_size(policy: AugmentConfig, scale: float) -> AugmentConfig:
    """Return a policy for images whose side is scaled: settings in pixels are scaled, too."""
    pixels = {name: max(1, round(scale * getattr(policy, name))) for name in PIXELS if getattr(policy, name)}
    return policy.model_copy(update=pixels)


def reduced(split: Split, rows: Tensor, side: int) -> Split:
    """Return the images at `rows`, in memory, reduced to `side` pixels by averages over areas."""
    rows = rows.sort().values  # as they lie in shards
    parts = [
        F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), side).round().to(torch.uint8).permute(0, 2, 3, 1)
        for images in in_turn(split.images, torch.split(rows, BLOCK))
    ]
    labels = split.labels[rows.to(split.labels.device)]
    return Split(torch.cat(parts).contiguous(), labels, tuple(split.names[row] for row in rows.tolist()))


def settled(wanted: RunConfig, had: RunConfig) -> RunConfig:
    """Return the wanted settings, with the policy of a run that has begun where a probe would have to choose it.

    >>> begun = RunConfig(epochs=1, augment=AugmentConfig(crop=3))
    >>> settled(begun.changed({"augment": {"policy": "auto", "flip": True, "resized_crop": 0.35}}), begun) == begun
    True
    """
    given, of_run = wanted.augment, had.augment
    is_choice = of_run.policy == "none" and of_run.flip <= given.flip and of_run.resized_crop in (0, given.resized_crop)
    if given.policy != "auto" or not is_choice:
        return wanted
    return wanted.changed({"augment": {name: getattr(of_run, name) for name in CHOSEN}})
