"""Selective classification: reject the least confident predictions, so that fewer of the others are wrong.

After Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (2017). The confidence of a prediction
is its top probability. Coverage is the share of predictions that are accepted, risk the share of these that are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnetlab.evaluation.calibration import Temperature, tempered
from resnetlab.evaluation.intervals import wilson
from resnetlab.evaluation.metrics import Floats, Labels, Probabilities

RISKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # the stated risks that thresholds are fitted for
CONFIDENCE = 0.95  # the probability with which each stated risk holds
POINTS = 200  # of a curve in metrics.json, at most

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rejection:
    """A threshold on the top probability, after temperature scaling: a prediction below it is rejected.

    Of the predictions that are not rejected, at most the share `risk` is wrong. `coverage` is the share of the
    validation images that were not rejected.
    """

    risk: float
    threshold: float
    coverage: float

    @property
    def threshold_text(self) -> str:
        """The threshold with 4 decimals, or with as many as it takes to be less than 1.

        >>> Rejection(0.05, 0.91, 0.8).threshold_text, Rejection(0.05, 0.999987, 0.8).threshold_text
        ('0.9100', '0.999987')
        """
        short = f"{self.threshold:.4f}"
        return short if float(short) < 1 else f"{self.threshold:.9g}"

    @classmethod
    def from_json(cls, given: object) -> Rejection:
        """Raise ValueError unless `given` is a table with three shares; further keys are ignored."""
        fields: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        values: list[Any] = [fields.get(name) for name in ("risk", "threshold", "coverage")]
        if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
            raise ValueError("a rejection is not a risk, a threshold and a coverage of 0 to 1")
        return cls(*(float(value) for value in values))


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The risk-coverage curve: a point for each distinct confidence, which is the threshold; the highest first."""

    thresholds: Floats  # (M,)
    accepted: NDArray[np.int64]  # (M,), predictions with this confidence or more
    wrong: NDArray[np.int64]  # (M,), those of them that are wrong

    @classmethod
    def of(cls, confidence: Floats, right: Bools) -> RiskCoverage:
        """Compute the curve of N predictions.

        >>> curve = RiskCoverage.of(np.array([0.5, 0.9, 0.8, 0.9]), np.array([True, True, False, True]))
        >>> curve.thresholds.tolist(), curve.coverage.tolist(), curve.risk.round(2).tolist()
        ([0.9, 0.8, 0.5], [0.5, 0.75, 1.0], [0.0, 0.33, 0.25])
        """
        order = np.argsort(-confidence, kind="stable")
        thresholds = confidence[order]
        last = np.append(thresholds[1:] < thresholds[:-1], True)  # equal confidences are accepted together
        wrong = np.cumsum(~right[order])
        return cls(thresholds[last], np.flatnonzero(last) + 1, wrong[last])

    @property
    def coverage(self) -> Floats:
        return np.asarray(self.accepted / self.accepted[-1])

    @property
    def risk(self) -> Floats:
        return np.asarray(self.wrong / self.accepted)

    @property
    def area(self) -> float:
        """The mean risk over all coverages (AURC); lower is better. Equal confidences share the risk of their last."""
        return float((self.risk * np.diff(self.coverage, prepend=0)).sum())

    def points(self, most: int = POINTS) -> list[dict[str, float]]:
        """Return the curve, JSON-able, thinned out to `most` points at about equal distances in coverage."""
        places = np.searchsorted(self.coverage, np.arange(1, most + 1) / most - 1e-12)
        rows = zip(self.thresholds, self.coverage, self.risk, strict=True)
        every = [{"threshold": float(t), "coverage": float(c), "risk": float(r)} for t, c, r in rows]
        return [every[place] for place in sorted(set(places.tolist()))]


def largest_risk(wrong: int, accepted: int, confidence: float) -> float:
    """Return the upper end of the one-sided exact interval of a proportion (Clopper and Pearson, 1934).

    >>> round(largest_risk(0, 100, 0.95), 4)
    0.0295
    """
    from scipy.special import betaincinv

    return 1.0 if wrong == accepted else float(betaincinv(wrong + 1, accepted - wrong, confidence))


def fit_rejections(confidence: Floats, right: Bools, risks: Sequence[float] = RISKS) -> tuple[Rejection, ...]:
    """Find the threshold with the largest coverage for each of the `risks`; one that cannot be reached is left out.

    On other images of the same kind, each stated risk holds with a probability of at least CONFIDENCE over the draw of
    these N images: not the observed risk is compared with it, but its exact upper bound. As in Geifman and El-Yaniv's
    algorithm, thresholds are tried by bisection, and the bound is corrected for their number (Bonferroni). A
    threshold that accepts too few images to reach the risk even without a mistake is not tried.
    """
    curve = RiskCoverage.of(confidence, right)
    tries = math.ceil(math.log2(len(curve.thresholds) + 1))
    level = 1 - (1 - CONFIDENCE) / tries
    found = []
    for risk in risks:
        # Without a mistake, the bound is 1 - (1 - level) ^ (1 / accepted).
        needed = math.ceil(math.log1p(-level) / math.log1p(-risk) - 1e-9)
        low, high = int(np.searchsorted(curve.accepted, needed)), len(curve.thresholds)
        place = None
        while low < high:
            middle = (low + high) // 2
            if largest_risk(int(curve.wrong[middle]), int(curve.accepted[middle]), level) <= risk:
                place, low = middle, middle + 1
            else:
                high = middle
        if place is not None:
            found.append(Rejection(risk, float(curve.thresholds[place]), float(curve.coverage[place])))
    return tuple(found)


def selective(
    probabilities: Probabilities,
    labels: Labels,
    temperature: Temperature | None,
    rejections: Sequence[Rejection] | None = None,
) -> dict[str, Any]:
    """Compute the risk-coverage curve, and coverage and risk at each of the `rejections`, JSON-able.

    Probabilities (N, K) are scaled with the temperature first. Without `rejections` they are fitted on these images;
    their observed risk is then too optimistic.
    """
    value = 1.0 if temperature is None or temperature.value is None else temperature.value
    used = tempered(probabilities, value)
    confidence, right = used.max(1), used.argmax(1) == labels
    if rejections is None:
        rejections = fit_rejections(confidence, right)
    curve = RiskCoverage.of(confidence, right)
    return {
        "temperature": value,
        "area": curve.area,
        "curve": curve.points(),
        "confidence": CONFIDENCE,
        "rejections": [asdict(one) | observed(confidence, right, one.threshold) for one in rejections],
    }


def observed(confidence: Floats, right: Bools, threshold: float) -> dict[str, Any]:
    """Return coverage and risk at a threshold, with the 95 % interval of the risk; None if nothing is accepted."""
    accepted = confidence >= threshold
    count, wrong = int(accepted.sum()), int((accepted & ~right).sum())
    return {
        "accepted": count,
        "observed_coverage": count / len(confidence),
        "observed_risk": wrong / count if count else None,
        "observed_interval": [float(end) for end in wilson(wrong, count)] if count else None,
    }


def rejections_in(found: object) -> tuple[Rejection, ...]:
    """Return the rejections in a result of `selective`; empty for anything else."""
    rows = found.get("rejections") if isinstance(found, Mapping) else None
    try:
        return tuple(map(Rejection.from_json, rows)) if isinstance(rows, list) else ()
    except ValueError:
        return ()
