"""Randomness without state: every draw is a pure function of (seed, purpose, epoch, sample)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 64-bit seed for one purpose in one epoch; unlike `seed + epoch`, no two of them run into each other.

    >>> derived_seed(0, "init") == derived_seed(0, "init"), derived_seed(0, "init") == derived_seed(0, "order")
    (True, False)
    """
    return int(_sequence(seed, purpose, epoch).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Draws:
    """The random tables of one epoch: row i belongs to sample i, whoever asks, in whatever order.

    A purpose is a word ("order", "crop", "flip"), so that adding an augmentation shifts nobody else's draws.
    """

    seed: int
    epoch: int
    samples: int

    def order(self) -> Tensor:
        """A permutation of the samples, int64 (samples,)."""
        return torch.from_numpy(self._generator("order").permutation(self.samples))

    def alternating(self, purpose: str, columns: int) -> Tensor:
        """Uniform numbers which in every second epoch are those of the epoch before, moved by a half."""
        first = Draws(self.seed, self.epoch - self.epoch % 2, self.samples).uniform(purpose, columns)
        return (first + self.epoch % 2 / 2) % 1

    def uniform(self, purpose: str, columns: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 (samples, columns)."""
        return torch.from_numpy(self._generator(purpose).random((self.samples, columns), dtype=np.float32))

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(_sequence(self.seed, purpose, self.epoch)))


def _sequence(seed: int, purpose: str, epoch: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), epoch])
