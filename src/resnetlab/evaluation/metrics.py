"""Scores from probabilities and labels: scikit-learn's metrics, in float64, with undefined kept apart from zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnetlab.errors import BadInput

Probabilities = NDArray[np.float64]  # (N, K), rows sum to 1
Labels = NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Score:
    """How well a network did on one split: what selects epochs and steers schedules."""

    loss: float
    accuracy: float
    macro_f1: float


def score(probabilities: Probabilities, labels: Labels) -> Score:
    """The three numbers of an epoch."""
    predicted = probabilities.argmax(1)
    return Score(
        loss=float(losses(probabilities, labels).mean()),
        accuracy=float((predicted == labels).mean()),
        macro_f1=_averaged(predicted, labels, probabilities.shape[1], "macro")["f1"],
    )


def losses(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Cross-entropy of each image in nats (N,); a probability of zero counts as the smallest positive number."""
    true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(true, np.finfo(np.float64).tiny)))


def metrics(probabilities: Probabilities, labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Everything `metrics.json` says of a split, JSON-able; what is undefined (0/0) is None, never 0.

    >>> m = metrics(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]), ["cat", "dog"])
    >>> round(m["accuracy"], 4), m["per_class"][0]["precision"], m["per_class"][1]["recall"]
    (0.6667, 0.5, 0.5)
    """
    from sklearn.metrics import precision_recall_fscore_support

    if len(labels) == 0:
        raise BadInput("there are no images to score")
    predicted = probabilities.argmax(1)
    overall = score(probabilities, labels)
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=np.nan, average=None
    )
    per_class = [
        {"name": name, "precision": _number(p), "recall": _number(r), "f1": _number(f), "support": int(support)}
        for name, p, r, f, support in zip(classes, *columns, strict=True)
    ]
    return {
        "images": len(labels),
        "loss": overall.loss,
        "accuracy": overall.accuracy,
        "top5_accuracy": top_k_accuracy(probabilities, labels, 5),
        "macro": {k: _number(v) for k, v in _averaged(predicted, labels, len(classes), "macro").items()},
        "weighted": {k: _number(v) for k, v in _averaged(predicted, labels, len(classes), "weighted").items()},
        "undefined_classes": sum(row["f1"] is None for row in per_class),
        "per_class": per_class,
    }


def top_k_accuracy(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """How often the true class is among the `k` likeliest; 1 where there are no more than `k` classes."""
    from sklearn.metrics import top_k_accuracy_score

    num_classes = probabilities.shape[1]
    if k >= num_classes:
        return 1.0
    return float(top_k_accuracy_score(labels, probabilities, k=k, labels=range(num_classes)))


def confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(labels, probabilities.argmax(1), labels=range(probabilities.shape[1])))


def _averaged(predicted: Labels, labels: Labels, num_classes: int, average: str) -> dict[str, float]:
    """Precision, recall and F1 over the classes for which each is defined."""
    from sklearn.metrics import precision_recall_fscore_support

    values = precision_recall_fscore_support(
        labels, predicted, labels=range(num_classes), average=average, zero_division=np.nan
    )
    return dict(zip(("precision", "recall", "f1"), map(float, values[:3]), strict=True))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
