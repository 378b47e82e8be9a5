"""Batches of normalised, augmented images on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from resnetlab.data.augment import Augmentation, resize
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables
from resnetlab.data.splits import Split
from resnetlab.runtime import Runtime


class Batch(NamedTuple):
    """Normalised images, their labels, and their indices in the split."""

    images: Tensor  # (N, C, H, W) float32, normalised, channels_last
    labels: Tensor  # (N,) int64
    indices: Tensor  # (N,) int64, on the CPU


@dataclass(frozen=True)
class TrainBatches:
    """Shuffled, augmented batches of any epoch, from any position in it.

    The incomplete batch at the end of an epoch is dropped; its images differ from epoch to epoch. A split smaller than
    a batch is one batch.

    `sizes` is for progressive resizing: the image size in pixels in each phase of the run, whose length is `steps`.
    The phases are of equal length; without `sizes` every batch has the input's size.
    """

    split: Split
    preprocessing: Preprocessing
    augmentations: Sequence[Augmentation]
    batch_size: int
    seed: int
    runtime: Runtime
    sizes: Sequence[int] = ()
    steps: int = 0

    def __len__(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def indices(self, order: Tensor, number: int) -> Tensor:
        """Return the indices of one batch in the order of an epoch."""
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in one batch."""
        order = RandomTables(self.seed, epoch, len(self.split)).permutation()
        return [self.split.names[index] for index in self.indices(order, number).tolist()]

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches `start` to `stop` (default: all) of one epoch."""
        random = RandomTables(self.seed, epoch, len(self.split))
        tables = [
            random.uniform(augmentation.purpose, augmentation.columns, alternating=augmentation.alternates)
            for augmentation in self.augmentations
        ]
        order = random.permutation()
        for number in range(start, len(self) if stop is None else stop):
            indices = self.indices(order, number)
            images, labels = gather(self.split, indices, self.runtime)
            for augmentation, table in zip(self.augmentations, tables, strict=True):
                images = augmentation.apply(images, table[indices].to(images.device, non_blocking=True))
            normalized = self.preprocessing.normalize(images)
            yield Batch(resize(normalized, self.size_at(epoch * len(self) + number)), labels, indices)

    def size_at(self, step: int) -> int:
        """Return the side of the images in one step of the run, in pixels."""
        sizes = self.sizes or (self.preprocessing.image_size,)
        return sizes[min(len(sizes) - 1, step * len(sizes) // max(1, self.steps))]


@dataclass(frozen=True)
class EvalBatches:
    """Every image of a split once, in order, without augmentation; no image is dropped."""

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    runtime: Runtime

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.split), self.batch_size):
            indices = torch.arange(first, min(first + self.batch_size, len(self.split)))
            images, labels = gather(self.split, indices, self.runtime)
            yield Batch(self.preprocessing.normalize(images), labels, indices)


def gather(split: Split, indices: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Copy the images, uint8 (N, H, W, C), and labels at `indices` to the device."""
    rows = indices.to(split.images.device, non_blocking=True)
    images = split.images[rows].to(runtime.device, non_blocking=True)
    return images, split.labels[rows].to(runtime.device, non_blocking=True)
