"""How much a score moves from one training to the next: what several runs of one recipe say together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Repeats:
    """One score of several runs that differ in nothing but their seed."""

    mean: float
    std: float | None  # of a single run, estimated from these (n - 1); None for one run
    min: float
    max: float
    interval: tuple[float, float] | None  # of the mean, 95 %

    @classmethod
    def of(cls, scores: Sequence[float | None]) -> Repeats | None:
        """What `scores` say together; None if there are none, or one of them is undefined.

        The interval is Student's: mean ± t(n - 1) · std / √n, for scores that scatter about normally. It is about
        other seeds, on the same images. With two or three runs it is wide, and may reach beyond what a score can be:
        so little is known then. Where all runs score the same it is None, for they tell nothing of what varies.

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
        if std is not None and min(known) < max(known):
            reach = float(t.ppf((1 + LEVEL) / 2, count - 1)) * std / count**0.5
            interval = (mean - reach, mean + reach)
        return cls(mean, std, min(known), max(known), interval)
