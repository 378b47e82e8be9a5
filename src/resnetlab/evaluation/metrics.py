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
    """How often the true class is among the `k` likeliest; 1 where there are no more than `k` classes.

    Among equals the first class counts as likelier, as in a prediction, so this is never below the accuracy;
    scikit-learn's `top_k_accuracy_score` prefers the last.
    """
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == labels[:, None]).any(1).mean())


def confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels * num_classes + probabilities.argmax(1), minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes))


def _averaged(predicted: Labels, labels: Labels, num_classes: int, average: str) -> dict[str, float]:
    """Precision, recall and F1 over the classes for which each is defined; NaN where there is nothing to weigh.

    The last is why the mean is not left to scikit-learn: it gives up the weights where they sum to zero.
    """
    from sklearn.metrics import precision_recall_fscore_support

    *columns, support = precision_recall_fscore_support(
        labels, predicted, labels=range(num_classes), average=None, zero_division=np.nan
    )
    weights = support if average == "weighted" else np.ones(num_classes)
    return {name: _mean(values, weights) for name, values in zip(("precision", "recall", "f1"), columns, strict=True)}


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    known = ~np.isnan(values)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
