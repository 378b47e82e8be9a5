"""Random numbers without state: each is a pure function of (seed, purpose, epoch, sample)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive a 64-bit seed for one purpose and epoch; unlike `seed + epoch`, seeds of different runs do not coincide.

    >>> derived_seed(0, "init") == derived_seed(0, "init"), derived_seed(0, "init") == derived_seed(0, "order")
    (True, False)
    """
    return int(_sequence(seed, purpose, epoch).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class RandomTables:
    """The random numbers of one epoch as tables: row i belongs to sample i, in any batch and in any order.

    A purpose is a word ("order", "crop", "flip"), so adding an augmentation does not change the numbers of another.

    >>> tables = RandomTables(seed=0, epoch=0, samples=8)
    >>> tables.permutation().tolist()
    [0, 7, 1, 3, 4, 2, 6, 5]
    >>> tables.uniform("crop", 2).shape
    torch.Size([8, 2])
    """

    seed: int
    epoch: int
    samples: int

    def permutation(self) -> Tensor:
        """Return a random order of the samples, int64 (samples,)."""
        return torch.from_numpy(self.generator("order").permutation(self.samples))

    def uniform(self, purpose: str, columns: int, *, alternating: bool = False) -> Tensor:
        """Return uniform numbers in [0, 1), float32 (samples, columns).

        If `alternating`, odd epochs get the numbers of the epoch before, shifted by a half (modulo 1).
        """
        epoch = self.epoch - self.epoch % 2 if alternating else self.epoch
        table = torch.from_numpy(self._generator(purpose, epoch).random((self.samples, columns), dtype=np.float32))
        return table if epoch == self.epoch else (table + 0.5) % 1

    def beta(self, purpose: str, alpha: float) -> Tensor:
        """Return numbers of the distribution Beta(alpha, alpha), float32 (samples, 1), in [0, 1]."""
        numbers = self.generator(purpose).beta(alpha, alpha, (self.samples, 1))
        return torch.from_numpy(numbers.astype(np.float32))

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the generator of this epoch for one purpose, in its first state."""
        return self._generator(purpose, self.epoch)

    def _generator(self, purpose: str, epoch: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(_sequence(self.seed, purpose, epoch)))


def _sequence(seed: int, purpose: str, epoch: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), epoch])
