"""Batches of normalised, augmented images on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from resnetlab.data.augment import Augmentation, resize
from resnetlab.data.balance import balanced_draws
from resnetlab.data.mixing import Mixing
from resnetlab.data.pixels import in_turn
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables
from resnetlab.data.shuffle import WINDOW, shards_of, two_level_order
from resnetlab.data.splits import Split
from resnetlab.distributed import ALONE, Processes
from resnetlab.runtime import Runtime

PART_BYTES = 1_500_000
"""Bytes of normalised images that a thread of a CPU augments at a time; about as much as its own cache holds."""

LARGE = 100_000
"""Bytes of a normalised image from which on this is faster: of smaller ones the number of calls is what takes time."""


class Batch(NamedTuple):
    """Normalised images, their labels, and their indices in the split."""

    images: Tensor  # (N, C, H, W) float32, normalised, channels_last
    labels: Tensor  # (N,) int64
    indices: Tensor  # (N,) int64, on the CPU
    shares: Tensor | None = None  # (N, classes) float32: of each class in images that were mixed; None: not mixed

    @property
    def targets(self) -> Tensor:
        """The labels, or the shares of the classes, as `torch.nn.CrossEntropyLoss` takes them."""
        return self.labels if self.shares is None else self.shares


@dataclass(frozen=True)
class TrainBatches:
    """Shuffled, augmented batches of any epoch, from any position in it.

    The incomplete batch at the end of an epoch is dropped; its images differ from epoch to epoch. A split smaller than
    a batch is one batch.

    `sizes` is for progressive resizing: the image size in pixels in each phase of the run, whose length is `steps`.
    The phases are of equal length; without `sizes` every batch has the input's size.

    With `mixing`, each image is mixed with the next one in the order of the epoch, after all augmentations.

    With `is_balanced`, all classes are equally frequent in an epoch. An image may then be drawn more than once, each
    time with other random numbers.

    Several processes have the same batches, and each yields its own part of each of them.
    """

    split: Split
    preprocessing: Preprocessing
    augmentations: Sequence[Augmentation]
    batch_size: int
    seed: int
    runtime: Runtime
    sizes: Sequence[int] = ()
    steps: int = 0
    mixing: Mixing | None = None
    is_balanced: bool = False
    window: int = WINDOW

    def __len__(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def draws(self, random: RandomTables) -> Tensor:
        """Return the indices of the images of an epoch: all of them, or balanced ones.

        Random numbers belong to draws: row i of a table is that of draw i.
        """
        return balanced_draws(self.split.labels, random) if self.is_balanced else torch.arange(len(self.split))

    def order(self, random: RandomTables, draws: Tensor) -> Tensor:
        """Return the order of the draws of an epoch; that of more images than `window` reads few shards at a time."""
        if len(draws) <= self.window:
            return random.permutation()
        shards = shards_of(self.split.names)[draws.cpu().numpy()]
        return torch.from_numpy(two_level_order(shards, random.generator("order"), self.window))

    def rows(self, order: Tensor, number: int, processes: Processes = ALONE) -> Tensor:
        """Return the draws in one batch by the order of an epoch, and the partner of the last one, if mixed.

        Of several processes, those of this process's part of the batch.
        """
        first = number * self.batch_size
        part = processes.share(min(self.batch_size, len(order) - first))
        last = first + part.stop + (self.mixing is not None)
        return order[torch.arange(first + part.start, last) % len(order)]

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in one batch."""
        random = RandomTables(self.seed, epoch, len(self.split))
        draws = self.draws(random)
        indices = draws[self.rows(self.order(random, draws), number)]
        return [self.split.names[index] for index in indices.tolist()]

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches `start` to `stop` (default: all) of one epoch."""
        random = RandomTables(self.seed, epoch, len(self.split))
        tables = [
            random.uniform(augmentation.purpose, augmentation.columns, alternating=augmentation.alternates)
            for augmentation in self.augmentations
        ]
        mixed = None if self.mixing is None else self.mixing.draw(random)
        draws = self.draws(random)
        order = self.order(random, draws)
        places = range(start, len(self) if stop is None else stop)
        drawn = [self.rows(order, number, self.runtime.processes) for number in places]
        gathered = gather(self.split, (draws[rows] for rows in drawn), self.runtime)
        for number, rows, batch in zip(places, drawn, gathered, strict=True):
            (indices, images, labels), shares = batch, None
            images = self._augmented(images, [table[rows] for table in tables])
            if self.mixing is not None and mixed is not None:
                indices = indices[:-1]
                numbers = mixed[rows[:-1]].to(images.device, non_blocking=True)
                images, shares = self.mixing.apply(images, labels, numbers)
                labels = labels[:-1]
            size = self.size_at(epoch * len(self) + number)
            yield Batch(resize(images, size), labels, indices, shares)

    def _augmented(self, images: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Augment and normalise uint8 images (N, H, W, C), with the random numbers of each augmentation (N, columns).

        With one thread of a CPU, large images are done a few at a time, so that they stay in its cache from step to
        step. This changes no pixel: each image has its own numbers. Several threads would wait for each other at the
        end of each of the many short steps, and keep the processes from their work that decode the next images.
        """
        image_bytes = 4 * self.preprocessing.channels * self.preprocessing.image_size**2
        size = max(1, PART_BYTES // image_bytes)
        is_alone = images.device.type == "cpu" and torch.get_num_threads() == 1
        if not is_alone or image_bytes < LARGE or size >= len(images):
            return self._augmented_part(images, numbers)
        whole: Tensor | None = None
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            done = self._augmented_part(images[part], [given[part] for given in numbers])
            if whole is None:
                whole = done.new_empty((len(images), *done.shape[1:])).to(memory_format=torch.channels_last)
            whole[part] = done
        assert whole is not None
        return whole

    def _augmented_part(self, images: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        for augmentation, given in zip(self.augmentations, numbers, strict=True):
            moved = given if augmentation.on_cpu else given.to(images.device, non_blocking=True)
            images = augmentation.apply(images, moved)
        return self.preprocessing.normalize(images)

    def size_at(self, step: int) -> int:
        """Return the side of the images in one step of the run, in pixels."""
        sizes = self.sizes or (self.preprocessing.image_size,)
        return sizes[min(len(sizes) - 1, step * len(sizes) // max(1, self.steps))]


@dataclass(frozen=True)
class EvalBatches:
    """Every image of a split once, in order, without augmentation; no image is dropped.

    Each of several processes yields consecutive batches, whole ones: the batches are those of a process alone, so that
    each image has the same score to the last bit.
    """

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    runtime: Runtime

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        firsts = (number * self.batch_size for number in self.runtime.processes.share(len(self)))
        rows = (torch.arange(first, min(first + self.batch_size, len(self.split))) for first in firsts)
        for indices, images, labels in gather(self.split, rows, self.runtime):
            yield Batch(self.preprocessing.normalize(images), labels, indices)


def gather(split: Split, batches: Iterable[Tensor], runtime: Runtime) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Copy the images of each batch of indices, uint8 (N, H, W, C), and their labels to the device.

    Yields indices, images and labels. Indices are taken some batches ahead of images that must be decoded.
    """
    ahead, now = itertools.tee(batches)
    for indices, images in zip(now, in_turn(split.images, ahead), strict=True):
        labels = split.labels[indices.to(split.labels.device, non_blocking=True)]
        yield indices, images.to(runtime.device, non_blocking=True), labels.to(runtime.device, non_blocking=True)
