"""Scores from probabilities and labels, as in scikit-learn, in float64; undefined scores are NaN or None, never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnetlab.errors import BadInput

Probabilities: TypeAlias = NDArray[np.float64]  # (N, K), rows sum to 1
Labels: TypeAlias = NDArray[np.int64]  # (N,)
Floats: TypeAlias = NDArray[np.float64]

TOP = (1, 2, 3, 5)  # the keys of `top_k_accuracy` in metrics.json, as far as there are more classes


@dataclass(frozen=True)
class Score:
    """Loss, accuracy and macro-F1 on one split: they select epochs and control schedules."""

    loss: float
    accuracy: float
    macro_f1: float


def score(probabilities: Probabilities, labels: Labels) -> Score:
    """Loss, accuracy and macro-F1 of probabilities (N, K)."""
    predicted = probabilities.argmax(1)
    return Score(
        loss=float(losses(probabilities, labels).mean()),
        accuracy=float((predicted == labels).mean()),
        macro_f1=_mean(rates(predicted, labels, probabilities.shape[1])["f1"]),
    )


def losses(probabilities: Probabilities, labels: Labels) -> Floats:
    """Cross-entropy of each image in nats (N,); a probability of zero counts as the smallest positive number."""
    true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(true, np.finfo(np.float64).tiny)))


def metrics(probabilities: Probabilities, labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of a split for metrics.json, JSON-able; an undefined score (0/0) is None, never 0.

    `loss` is the log-loss. All scores of a class without images are undefined; so is the precision of a class that was
    never predicted, and the ROC AUC of a class of all images. Top-k accuracy is given where there are more than k
    classes, and top-5 accuracy, undefined else, with six classes or more.
    Means are over the classes with a defined score, so balanced accuracy, the mean recall, equals macro recall. With
    one label per image, micro precision, recall and F1 equal the accuracy. Matthews' correlation is undefined if all
    labels or all predictions are of one class, and Cohen's kappa if both are of the same class.

    Raises BadInput if there are no images.

    >>> m = metrics(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]), ["cat", "dog"])
    >>> round(m["accuracy"], 4), m["per_class"][0]["precision"], m["per_class"][1]["recall"]
    (0.6667, 0.5, 0.5)
    """
    if len(labels) == 0:
        raise BadInput("there are no images to score")
    predicted = probabilities.argmax(1)
    support = np.bincount(labels, minlength=len(classes))
    by_class = rates(predicted, labels, len(classes)) | {"roc_auc": roc_auc(probabilities, labels)}
    per_class = [
        {"name": name, **{key: _number(values[i]) for key, values in by_class.items()}, "support": int(support[i])}
        for i, name in enumerate(classes)
    ]
    overall, place = score(probabilities, labels), places(probabilities, labels)
    top = {k: float((place < k).mean()) for k in TOP if k < len(classes)}
    macro = {key: _number(_mean(values)) for key, values in by_class.items()}
    return {
        "images": len(labels),
        "loss": overall.loss,
        "accuracy": overall.accuracy,
        "top5_accuracy": top.get(5),
        "top_k_accuracy": {str(k): share for k, share in top.items()},
        "balanced_accuracy": macro["recall"],
        "mcc": _number(matthews(predicted, labels)),
        "cohen_kappa": _number(cohen_kappa(predicted, labels)),
        "brier": brier(probabilities, labels),
        "macro": macro,
        "micro": dict.fromkeys(("precision", "recall", "f1"), overall.accuracy),
        "weighted": {key: _number(_mean(values, support)) for key, values in by_class.items()},
        "undefined_classes": sum(row["f1"] is None for row in per_class),
        "per_class": per_class,
    }


def rates(predicted: Labels, labels: Labels, num_classes: int) -> dict[str, Floats]:
    """Precision, recall and F1 of each class (K,), NaN where undefined.

    scikit-learn gives a class without images that was predicted a precision and an F1 of 0, which say nothing about it.
    """
    from sklearn.metrics import precision_recall_fscore_support

    *columns, _ = precision_recall_fscore_support(
        labels, predicted, labels=range(num_classes), average=None, zero_division=np.nan
    )
    has_images = np.bincount(labels, minlength=num_classes) > 0
    return {
        name: np.where(has_images, values, np.nan)
        for name, values in zip(("precision", "recall", "f1"), columns, strict=True)
    }


def roc_auc(probabilities: Probabilities, labels: Labels) -> Floats:
    """Area under the ROC curve of each class against the rest (K,); NaN where one of the two sides has no image.

    It is the share of pairs, one image of the class and one of the rest, in which the first has the higher probability
    of the class; ties count half (Hanley and McNeil 1982). scikit-learn's `roc_auc_score` gives the same result, but
    takes two seconds for 10,000 images of 100 classes.
    """
    from scipy.stats import rankdata

    areas = np.full(probabilities.shape[1], np.nan)
    for c, of_class in enumerate(np.bincount(labels, minlength=len(areas)).tolist()):
        pairs = of_class * (len(labels) - of_class)
        if pairs:
            ranks = rankdata(probabilities[:, c])[labels == c]
            areas[c] = (ranks.sum() - of_class * (of_class + 1) / 2) / pairs
    return areas


def matthews(predicted: Labels, labels: Labels) -> float:
    """Matthews' correlation for several classes (Gorodkin 2004); NaN, not scikit-learn's 0, where it is 0/0."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(labels) or _constant(predicted):
        return math.nan
    return float(matthews_corrcoef(labels, predicted))


def cohen_kappa(predicted: Labels, labels: Labels) -> float:
    """Agreement beyond chance (Cohen 1960); NaN if all labels and predictions are of the same class."""
    from sklearn.metrics import cohen_kappa_score

    if _constant(np.concatenate([labels, predicted])):
        return math.nan
    return float(cohen_kappa_score(labels, predicted))


def brier(probabilities: Probabilities, labels: Labels) -> float:
    """Brier score (1950): squared errors summed over the classes, mean over the images; 0 … 2.

    For two classes it is twice the score that is often given for one probability per image.
    """
    errors = probabilities - (labels[:, None] == np.arange(probabilities.shape[1]))
    return float((errors**2).sum(1).mean())


def top_k_accuracy(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """Share of images whose true class is among the `k` most probable; 1 if there are at most `k` classes.

    Of equal probabilities the first class counts as higher, as in a prediction, so this is never below the accuracy;
    scikit-learn's `top_k_accuracy_score` prefers the last.
    """
    return float((places(probabilities, labels) < k).mean())


def places(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Number of classes (N,) that are more probable than the true one: 0 for a correct prediction."""
    true = probabilities[np.arange(len(labels)), labels][:, None]
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    return np.asarray(((probabilities > true) | ((probabilities == true) & before)).sum(1))


def confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    return confusion_of(probabilities.argmax(1), labels, probabilities.shape[1])


def confusion_of(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K) from predicted classes (N,) and labels (N,): row = true class, column = predicted class."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes))


def _constant(values: Labels) -> bool:
    return bool((values == values[0]).all())


def _mean(values: Floats, weights: NDArray[np.int64] | None = None) -> float:
    """Weighted mean of the defined values; NaN if their weights sum to zero, where scikit-learn ignores the weights."""
    known = ~np.isnan(values)
    weights = known if weights is None else weights * known
    total = weights.sum()
    return float((values[known] * weights[known]).sum() / total) if total else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
