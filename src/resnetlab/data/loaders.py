"""Batches: from pixels in memory to normalised, augmented images on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from resnetlab.data.augment import Step, shrunk
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import Draws
from resnetlab.data.splits import Split
from resnetlab.runtime import Runtime


class Batch(NamedTuple):
    images: Tensor  # (N, C, H, W) float32, normalised, channels_last
    labels: Tensor  # (N,) int64
    indices: Tensor  # (N,) int64, on the CPU: which samples of the split these are


@dataclass(frozen=True)
class TrainBatches:
    """The shuffled, augmented batches of any epoch, from any position in it.

    The ragged tail of an epoch is dropped (the samples in it differ from epoch to epoch); a split smaller than a batch
    is one batch.
    """

    split: Split
    preprocessing: Preprocessing
    augmentations: Sequence[Step]
    batch_size: int
    seed: int
    runtime: Runtime
    sizes: Sequence[int] = ()  # of the images in equal parts of the run; none: always the full size
    steps: int = 0  # the length of the run, which the parts are parts of

    def __len__(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def indices(self, order: Tensor, number: int) -> Tensor:
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def names(self, epoch: int, number: int) -> list[str]:
        """The images of one batch, by name."""
        order = Draws(self.seed, epoch, len(self.split)).order()
        return [self.split.names[index] for index in self.indices(order, number).tolist()]

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches number `start` up to `stop` (default: all) of one epoch."""
        draws = Draws(self.seed, epoch, len(self.split))
        tables = [
            (draws.alternating if step.alternates else draws.uniform)(step.purpose, step.columns)
            for step in self.augmentations
        ]
        order = draws.order()
        for number in range(start, len(self) if stop is None else stop):
            indices = self.indices(order, number)
            images, labels = pick(self.split, indices, self.runtime)
            for step, table in zip(self.augmentations, tables, strict=True):
                images = step.apply(images, table[indices].to(images.device, non_blocking=True))
            normalized = self.preprocessing.normalize(images)
            yield Batch(shrunk(normalized, self.size_at(epoch * len(self) + number)), labels, indices)

    def size_at(self, step: int) -> int:
        """The side of the images of one step of the run."""
        sizes = self.sizes or (self.preprocessing.image_size,)
        return sizes[min(len(sizes) - 1, step * len(sizes) // max(1, self.steps))]


@dataclass(frozen=True)
class EvalBatches:
    """Every image of a split once, in order, without augmentation; nothing is ever dropped."""

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    runtime: Runtime

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.split), self.batch_size):
            indices = torch.arange(first, min(first + self.batch_size, len(self.split)))
            images, labels = pick(self.split, indices, self.runtime)
            yield Batch(self.preprocessing.normalize(images), labels, indices)


def pick(split: Split, indices: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """The uint8 images (N, H, W, C) and labels of some samples, on the device."""
    where = indices.to(split.images.device, non_blocking=True)
    images = split.images[where].to(runtime.device, non_blocking=True)
    return images, split.labels[where].to(runtime.device, non_blocking=True)
