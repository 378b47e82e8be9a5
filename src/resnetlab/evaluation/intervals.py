"""Uncertainty of a score: intervals of a proportion (Wilson), over images (bootstrap) and over seeds (Student's t)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Interval: TypeAlias = list[float]

LEVEL = 0.95
Z = 1.959963984540054  # standard normal quantile of 97.5 %: intervals of 95 %
RESAMPLES = 2000
LEAST_RUNS = 3  # for an interval over seeds: with two runs it is nine standard deviations on either side
RANGES = {  # the scores of repeated runs, and the values that each can have
    "accuracy": (0.0, 1.0),
    "macro_f1": (0.0, 1.0),
    "loss": (0.0, math.inf),
    "train_seconds": (0.0, math.inf),
}
AT_ONCE = 4_000_000  # numbers drawn at a time: 32 MB


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats]:
    """Lower and upper ends of the 95 % intervals of `successes` out of `trials`, elementwise; NaN where there are none.

    Wilson (1927): unlike the textbook's p ± 1.96 √(p(1-p)/n) it stays in [0, 1], and has a width at 0 and at n.

    >>> low, high = wilson([0, 5, 10], 10)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.237, 0.722], [0.278, 0.763, 1.0])
    """
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    n = np.where(n > 0, n, np.nan)
    centre = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * np.sqrt(k * (n - k) / n + Z**2 / 4)
    # At 0 and at n, rounding could push an end past the proportion itself.
    return np.clip(centre - half, 0, k / n), np.clip(centre + half, k / n, 1)


def intervals(matrix: Counts) -> dict[str, Any]:
    """95 % intervals of accuracy and macro-F1 from a confusion matrix (K, K), JSON-able, as [low, high] or None.

    Percentile bootstrap (Efron 1979): the images are drawn with replacement, and the interval spans the middle 95 % of
    the resampled scores. It covers other images of the same kind, not other trainings. If all resamples have the same
    score, the bootstrap is not informative: macro-F1 then has no interval, and accuracy, a proportion, gets Wilson's.

    >>> intervals(np.array([[40, 10], [5, 45]]))["accuracy"]
    [0.78, 0.92]
    """
    accuracy, macro_f1 = bootstrap(matrix)
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "accuracy": percentiles(accuracy) or [float(end) for end in wilson(np.trace(matrix), matrix.sum())],
        "macro_f1": percentiles(macro_f1),
    }


def bootstrap(matrix: Counts) -> tuple[Floats, Floats]:
    """Accuracy and macro-F1 of each resample (RESAMPLES,); a class without images in it is left out of its mean.

    Both scores depend only on the confusion matrix, and the matrix of N images drawn with replacement is one draw from
    a multinomial distribution, so the images themselves are not needed.
    """
    from scipy.sparse import csr_array

    rows, columns = np.nonzero(matrix)
    cells, shape = np.arange(len(rows)), (len(rows), len(matrix))
    true = csr_array((np.ones(len(rows)), (cells, rows)), shape)
    predicted = csr_array((np.ones(len(rows)), (cells, columns)), shape)
    accuracy, macro_f1 = [], []
    for draws in resampled(matrix[rows, columns]):
        correct = draws @ (true * predicted)
        of_class = draws @ true
        of_both = (of_class + draws @ predicted) * (of_class > 0)
        f1 = np.divide(2 * correct, of_both, out=np.zeros_like(correct), where=of_both > 0)
        accuracy.append(correct.sum(1) / matrix.sum())
        macro_f1.append(f1.sum(1) / (of_both > 0).sum(1))
    return np.concatenate(accuracy), np.concatenate(macro_f1)


def resampled(counts: Counts) -> Iterator[Floats]:
    """Counts (resamples, kinds) of images drawn with replacement, a chunk of resamples at a time.

    `counts` (kinds,) are the numbers of images of each kind. The generator has a seed of its own: the same counts give
    the same resamples.
    """
    from resnetlab.data.random import derived_seed  # imports torch, which listing runs does not need

    generator = np.random.default_rng(derived_seed(0, "bootstrap"))
    total = int(counts.sum())
    chunk = max(1, AT_ONCE // len(counts))
    for first in range(0, RESAMPLES, chunk):
        yield generator.multinomial(total, counts / total, size=min(chunk, RESAMPLES - first)).astype(np.float64)


def percentiles(values: Floats) -> Interval | None:
    """The middle 95 % of resampled scores as [low, high]; None if all are equal."""
    if values.min() == values.max():
        return None
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


@dataclass(frozen=True)
class Repeats:
    """One score of several runs that differ only in their seed: mean, spread and interval."""

    mean: float
    std: float | None  # of a single run, estimated from these (n - 1); None for one run
    min: float
    max: float
    interval: tuple[float, float] | None  # of the mean, 95 %

    @classmethod
    def of(cls, scores: Sequence[float | None], score: str | None = None) -> Repeats | None:
        """Summarise `scores`; None if there are none, or one of them is undefined.

        The interval is Student's: mean ± t(n - 1) · std / √n, for scores that are about normally distributed. It covers
        other seeds on the same images. For a `score` of `RANGES` it is cut off at the ends of the range: the mean of
        all seeds cannot lie outside, so the rest contains it as often. The interval is None for fewer than `LEAST_RUNS`
        runs, and if all runs have the same score: they contain no information about the spread.

        >>> Repeats.of([0.90, 0.92, 0.94]).max
        0.94
        """
        from scipy.stats import t

        known = [score for score in scores if score is not None]
        if not known or len(known) < len(scores):
            return None
        mean, count = statistics.fmean(known), len(known)
        std = statistics.stdev(known) if count > 1 else None
        interval = None
        if std is not None and count >= LEAST_RUNS and min(known) < max(known):
            half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * std / count**0.5
            low, high = RANGES.get(score or "", (-math.inf, math.inf))
            interval = (max(low, mean - half), min(high, mean + half))
        return cls(mean, std, min(known), max(known), interval)
