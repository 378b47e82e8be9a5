"""Calibration: the expected calibration error, and the temperature that reduces it.

After Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnetlab.evaluation.metrics import Floats, Labels, Probabilities, brier, losses

BINS = 15  # as in the paper
COLDEST, HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class Temperature:
    """Divisor of the logits, and the images it was fitted on. `value` is None if the images do not determine it."""

    value: float | None
    split: str
    split_digest: str
    images: int

    @classmethod
    def fitted(cls, probabilities: Probabilities, labels: Labels, split: str, split_digest: str) -> Temperature:
        return cls(fit_temperature(probabilities, labels), split, split_digest, len(labels))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: object) -> Temperature | None:
        """The inverse of `to_json`; None for anything else."""
        if not isinstance(given, Mapping) or given.keys() != {"value", "split", "split_digest", "images"}:
            return None
        value = given["value"]
        known = isinstance(value, float) and COLDEST <= value <= HOTTEST
        return cls(**given) if known or value is None else None


def calibration(probabilities: Probabilities, labels: Labels, temperature: Temperature | None) -> dict[str, Any]:
    """Expected calibration error with its bins, and the same after the `temperature`, JSON-able.

    `after` also has loss and Brier score; it is None without a temperature. On the split that the temperature was
    fitted on, `after` is too optimistic.
    """
    predicted = probabilities.argmax(1)
    right = predicted == labels

    def described(used: Probabilities) -> dict[str, Any]:
        bins = reliability(used[np.arange(len(used)), predicted], right)
        return {"ece": expected_calibration_error(bins), "bins": bins}

    after = None
    if temperature is not None and temperature.value is not None:
        cooled = tempered(probabilities, temperature.value)
        after = {
            **described(cooled),
            "loss": float(losses(cooled, labels).mean()),
            "brier": brier(cooled, labels),
        }
    return {
        **described(probabilities),
        "temperature": None if temperature is None else temperature.to_json(),
        "after": after,
    }


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> list[dict[str, Any]]:
    """Images by confidence, the probability of the predicted class, in `bins` equal bins (low, high] of [0, 1].

    A bin has the number of its `images`, their mean `confidence` and their `accuracy`, both None for an empty bin.

    >>> [row["images"] for row in reliability(np.array([0.5, 0.51, 1.0]), np.array([True, False, True]), bins=2)]
    [1, 2]
    """
    edges = np.arange(bins + 1) / bins
    which = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(which, minlength=bins)
    total = np.bincount(which, confidence, minlength=bins)
    correct = np.bincount(which, right, minlength=bins)
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "images": int(n),
            "confidence": float(total[i] / n) if n else None,
            "accuracy": float(correct[i] / n) if n else None,
        }
        for i, n in enumerate(count)
    ]


def expected_calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """Mean distance of confidence and accuracy over the images: Guo et al., equation 3."""
    total = sum(row["images"] for row in bins)
    apart = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in bins if row["images"])
    return float(sum(apart) / total)


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Softmax of the logits divided by `temperature`; the logarithms of the probabilities serve as logits.

    >>> tempered(np.array([[0.2, 0.8]]), 0.5).round(3).tolist()
    [[0.059, 0.941]]
    """
    return _softmax(_logits(probabilities) / temperature)


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float | None:
    """The temperature with the lowest loss; None if there is none in 0.001 … 1000.

    The loss is convex in 1/T. Its slope is the mean logit, weighted with the tempered probabilities, minus the logit of
    the true class. There is no minimum if all predictions are correct (the loss falls with the temperature), or if the
    true class is no better than the mean of all classes (it falls with 1/T).
    """
    from scipy.optimize import brentq

    logits = _logits(probabilities)
    true = logits[np.arange(len(labels)), labels]

    def slope(power: float) -> float:
        return float(((_softmax(logits * math.exp(power)) * logits).sum(1) - true).mean())

    hot, cold = -math.log(HOTTEST), -math.log(COLDEST)
    if (true == logits.max(1)).all() or slope(hot) >= 0 or slope(cold) <= 0:
        return None
    return math.exp(-brentq(slope, hot, cold))


def _logits(probabilities: Probabilities) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


def _softmax(logits: Floats) -> Probabilities:
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(scores / scores.sum(1, keepdims=True))
