"""How sure one can be of a proportion, such as the recall of a class with few images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z = 1.959963984540054  # standard normal quantile of 97.5 %: intervals of 95 %


def wilson(right: ArrayLike, of: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper ends of the 95 % intervals of `right` out of `of`, elementwise; NaN where `of` is 0.

    Wilson (1927): unlike the textbook's p ± 1.96 √(p(1-p)/n) it stays in [0, 1], and has a width at 0 and at n.

    >>> low, high = wilson([0, 5, 10], 10)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.237, 0.722], [0.278, 0.763, 1.0])
    """
    k, n = np.broadcast_arrays(np.asarray(right, np.float64), np.asarray(of, np.float64))
    n = np.where(n > 0, n, np.nan)
    centre = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * np.sqrt(k * (n - k) / n + Z**2 / 4)
    # By rounding alone an end could pass the proportion itself, at 0 and at n.
    return np.clip(centre - half, 0, k / n), np.clip(centre + half, k / n, 1)
