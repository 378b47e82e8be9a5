"""The order of an epoch over shards: a pure function of a generator, so that any step can be computed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 16_384
"""Images among which an epoch is shuffled, at least; data sets that are not larger are shuffled as a whole."""


def two_level_order(shards: np.ndarray, generator: np.random.Generator, window: int = WINDOW) -> np.ndarray:
    """Return a random order of samples, int64 (N,), that reads few shards at a time; `shards` (N,) has the shard of
    each sample.

    The shards come in random order and the samples of each in random order; then each sample moves by at most `window`
    places. So a sample is read at most `window` places away from those of its own shard. With `window` samples or
    fewer, or with one shard, the order is a plain permutation, the same as for data in memory.

    >>> shards = np.repeat(np.arange(4), 5)
    >>> order = two_level_order(shards, np.random.default_rng(0), window=5)
    >>> shards[order].tolist()
    [1, 1, 1, 1, 1, 2, 2, 2, 0, 2, 2, 0, 0, 0, 0, 3, 3, 3, 3, 3]
    """
    found, numbers = np.unique(shards, return_inverse=True)
    if len(shards) <= window or len(found) == 1:
        return generator.permutation(len(shards))
    places = generator.permutation(len(found))[numbers]
    ordered = np.lexsort((generator.random(len(shards)), places))
    moved = np.arange(len(shards)) + window * generator.random(len(shards))
    return ordered[np.argsort(moved, kind="stable")]


def shards_of(names: Sequence[str]) -> np.ndarray:
    """Return the number of the shard of each sample, int64 (N,), by names such as "train-000.tar/cat/1.jpg".

    Files that are in no shard are in number 0, as if they were in one.

    >>> shards_of(["b.tar/1.jpg", "a.tar/1.jpg", "b.tar/2.jpg"]).tolist(), shards_of(["cat/1.jpg"]).tolist()
    ([1, 0, 1], [0])
    """
    shards = [name[: name.find(".tar/") + 1] for name in names]
    number = {shard: place for place, shard in enumerate(sorted(set(shards)))}
    return np.fromiter((number[shard] for shard in shards), dtype=np.int64, count=len(shards))
