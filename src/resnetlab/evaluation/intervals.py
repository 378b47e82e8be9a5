"""How sure one can be of a score, given the images it was measured on: 95 % intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnetlab.data.random import derived_seed
from resnetlab.evaluation.proportions import wilson

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Interval: TypeAlias = list[float]

LEVEL = 0.95
RESAMPLES = 2000
AT_ONCE = 4_000_000  # numbers drawn at a time: 32 MB


def intervals(matrix: Counts) -> dict[str, Any]:
    """95 % intervals of accuracy and macro-F1 from a confusion matrix (K, K), JSON-able, as [low, high] or None.

    The images are drawn again with replacement, and what the middle 95 % of the scores span is the interval (the
    percentile bootstrap, Efron 1979). It is about other images of the same kind, not about other trainings. Where all
    resamples score the same, the bootstrap says nothing: macro-F1 then has no interval, and accuracy, which is a
    proportion, gets Wilson's.

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
    """Accuracy and macro-F1 of each resample (RESAMPLES,); a class that is in neither is left out of a mean, as ever.

    Both scores depend on the confusion matrix alone, and that of N images drawn with replacement is one draw from a
    multinomial distribution; so no image is touched.
    """
    from scipy.sparse import csr_array

    rows, columns = np.nonzero(matrix)
    cells, shape = np.arange(len(rows)), (len(rows), len(matrix))
    true = csr_array((np.ones(len(rows)), (cells, rows)), shape)
    said = csr_array((np.ones(len(rows)), (cells, columns)), shape)
    accuracy, macro_f1 = [], []
    for draws in resampled(matrix[rows, columns]):
        hits = draws @ (true * said)
        of_both = draws @ (true + said)
        f1 = np.divide(2 * hits, of_both, out=np.zeros_like(hits), where=of_both > 0)
        accuracy.append(hits.sum(1) / matrix.sum())
        macro_f1.append(f1.sum(1) / (of_both > 0).sum(1))
    return np.concatenate(accuracy), np.concatenate(macro_f1)


def resampled(counts: Counts) -> Iterator[Floats]:
    """How often each kind of image comes up when all are drawn again with replacement: (resamples, kinds) at a time.

    `counts` (kinds,) says how many there are of each kind. The generator is its own, and always begins the same.
    """
    generator = np.random.default_rng(derived_seed(0, "bootstrap"))
    total = int(counts.sum())
    chunk = max(1, AT_ONCE // len(counts))
    for first in range(0, RESAMPLES, chunk):
        yield generator.multinomial(total, counts / total, size=min(chunk, RESAMPLES - first)).astype(np.float64)


def percentiles(values: Floats) -> Interval | None:
    """What the middle 95 % of resampled scores span; None where all are the same."""
    if values.min() == values.max():
        return None
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
