"""Every metric equals a count that is written out; what is undefined is None, never 0."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from resnetlab.errors import BadInput
from resnetlab.evaluation.intervals import intervals
from resnetlab.evaluation.metrics import (
    TOP,
    Labels,
    Probabilities,
    brier,
    cohen_kappa,
    confusion,
    losses,
    matthews,
    metrics,
    roc_auc,
    score,
    top_k_accuracy,
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[Probabilities, Labels]:
    """A few images and classes: absent classes, classes never predicted, ties and single images come by themselves."""
    images, classes = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    weights = draw(
        st.lists(st.lists(st.integers(0, 3), min_size=classes, max_size=classes), min_size=images, max_size=images)
    )
    rows = np.array(weights, dtype=np.float64) + 1e-3
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return rows / rows.sum(1, keepdims=True), np.array(labels, dtype=np.int64)


def names(probabilities: Probabilities) -> list[str]:
    return [f"class {i}" for i in range(probabilities.shape[1])]


def ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def mean(values: list[float | None], weights: list[int]) -> float | None:
    """The mean of those that are defined."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    return ratio(sum(value * weight for value, weight in known), sum(weight for _, weight in known))


def likeliest(row: list[float], k: int) -> list[int]:
    """The k likeliest classes, among equals the first."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


def area(rows: list[list[float]], true: list[int], c: int) -> float | None:
    """The share of pairs, one image of class c and one of another, that are in the right order; equal ones are half."""
    inside = [row[c] for row, t in zip(rows, true, strict=True) if t == c]
    outside = [row[c] for row, t in zip(rows, true, strict=True) if t != c]
    return ratio(sum((a > b) + (a == b) / 2 for a in inside for b in outside), len(inside) * len(outside))


def correlation(pairs: list[tuple[int, int]], classes: range) -> float | None:
    """Gorodkin's: the covariance of the one-hot labels and predictions, summed over the classes, and normalised."""

    def covariance(one: int, other: int) -> float:
        together = sum(pair[one] == pair[other] for pair in pairs) * len(pairs)
        return together - sum(
            sum(pair[one] == c for pair in pairs) * sum(pair[other] == c for pair in pairs) for c in classes
        )

    return ratio(covariance(0, 1), math.sqrt(covariance(0, 0) * covariance(1, 1)))


def kappa(pairs: list[tuple[int, int]], classes: range) -> float | None:
    """Agreement beyond that of chance, as a share of what chance leaves."""
    count = len(pairs)
    agreed = sum(t == g for t, g in pairs) * count
    chance = sum(sum(t == c for t, _ in pairs) * sum(g == c for _, g in pairs) for c in classes)
    return ratio(agreed - chance, count**2 - chance)


def brute_force(probabilities: Probabilities, labels: Labels) -> dict[str, Any]:
    true, classes = labels.tolist(), range(probabilities.shape[1])
    rows = probabilities.tolist()
    guesses = [likeliest(row, 1)[0] for row in rows]
    pairs = list(zip(true, guesses, strict=True))
    per_class = []
    for c in classes:
        hits = sum(t == g == c for t, g in pairs)
        predicted, actual = sum(g == c for g in guesses), sum(t == c for t in true)
        per_class.append(
            {
                "name": f"class {c}",
                "precision": ratio(hits, predicted) if actual else None,
                "recall": ratio(hits, actual),
                "f1": ratio(2 * hits, predicted + actual) if actual else None,
                "roc_auc": area(rows, true, c),
                "support": actual,
            }
        )
    supports = [row["support"] for row in per_class]
    keys = ("precision", "recall", "f1", "roc_auc")
    accuracy = sum(t == g for t, g in pairs) / len(true)

    def top(k: int) -> float:
        return sum(t in likeliest(row, k) for t, row in zip(true, rows, strict=True)) / len(true)

    return {
        "images": len(true),
        "loss": sum(-math.log(row[t]) for row, t in zip(rows, true, strict=True)) / len(true),
        "accuracy": accuracy,
        "top5_accuracy": top(5) if len(classes) > 5 else None,
        "top_k_accuracy": {str(k): top(k) for k in TOP if len(classes) > k},
        "balanced_accuracy": mean([row["recall"] for row in per_class], [1 for _ in classes]),
        "mcc": correlation(pairs, classes),
        "cohen_kappa": kappa(pairs, classes),
        "brier": sum((p - (t == c)) ** 2 for t, row in zip(true, rows, strict=True) for c, p in enumerate(row))
        / len(true),
        "micro": dict.fromkeys(keys[:3], accuracy),
        "macro": {key: mean([row[key] for row in per_class], [1 for _ in classes]) for key in keys},
        "weighted": {key: mean([row[key] for row in per_class], supports) for key in keys},
        "undefined_classes": sum(row["f1"] is None for row in per_class),
        "per_class": per_class,
    }


def require_alike(found: Any, expected: Any) -> None:
    """Equal in structure, in what is undefined, and in numbers to the last digits."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            require_alike(found[key], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            require_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert found == expected


@settings(deadline=None)
@given(answers())
def test_metrics_equal_a_brute_force_count(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    require_alike(metrics(probabilities, labels, names(probabilities)), brute_force(probabilities, labels))


@settings(deadline=None)
@given(answers())
def test_scores_equal_scikit_learns_where_there_is_something_to_weigh(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    predicted, classes = probabilities.argmax(1), range(probabilities.shape[1])
    present = sorted(set(labels.tolist()))
    said = metrics(probabilities, labels, names(probabilities))
    for average in ("macro", "weighted"):
        expected = theirs.precision_recall_fscore_support(
            labels, predicted, labels=present, average=average, zero_division=np.nan
        )
        for key, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert said[average][key] is None or said[average][key] == pytest.approx(value, rel=1e-12)
    if len(classes) > 1:  # it asks for two
        assert said["loss"] == pytest.approx(theirs.log_loss(labels, probabilities, labels=classes))
    for row, c in zip(said["per_class"], classes, strict=True):
        if row["roc_auc"] is not None:
            assert row["roc_auc"] == pytest.approx(theirs.roc_auc_score(labels == c, probabilities[:, c]))


@settings(deadline=None)
@given(answers())
def test_balanced_accuracy_is_scikit_learns(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    predicted = probabilities.argmax(1)
    if set(predicted) <= set(labels) != {labels[0]}:  # it warns of anything else
        said = metrics(probabilities, labels, names(probabilities))["balanced_accuracy"]
        assert said == pytest.approx(theirs.balanced_accuracy_score(labels, predicted))


@settings(deadline=None)
@given(answers())
def test_the_score_of_an_epoch_says_what_the_metrics_say(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    said = metrics(probabilities, labels, names(probabilities))
    short = score(probabilities, labels)
    assert (short.loss, short.accuracy, short.macro_f1) == (said["loss"], said["accuracy"], said["macro"]["f1"])


@settings(deadline=None)
@given(answers())
def test_metrics_are_json_without_nan(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    said = metrics(probabilities, labels, names(probabilities))
    assert json.loads(json.dumps(said, allow_nan=False)) == said


@settings(deadline=None)
@given(answers())
def test_the_confusion_matrix_counts_true_by_row_and_predicted_by_column(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    expected = np.zeros((probabilities.shape[1],) * 2, dtype=np.int64)
    for true, row in zip(labels.tolist(), probabilities.tolist(), strict=True):
        expected[true, likeliest(row, 1)[0]] += 1
    assert np.array_equal(confusion(probabilities, labels), expected)


@settings(deadline=None)
@given(answers(), st.integers(1, 9))
def test_top_k_prefers_the_first_among_equals_as_the_prediction_does(
    case: tuple[Probabilities, Labels], k: int
) -> None:
    probabilities, labels = case
    hits = [t in likeliest(row, k) for t, row in zip(labels.tolist(), probabilities.tolist(), strict=True)]
    assert top_k_accuracy(probabilities, labels, k) == pytest.approx(sum(hits) / len(hits))
    assert top_k_accuracy(probabilities, labels, k) >= score(probabilities, labels).accuracy


def test_an_undecided_network_is_right_about_the_first_class_only() -> None:
    """All probabilities equal: the first class is predicted, and the first five are the likeliest five."""
    probabilities, labels = np.full((10, 10), 0.1), np.arange(10)
    said = metrics(probabilities, labels, names(probabilities))
    assert (said["accuracy"], said["top5_accuracy"]) == (0.1, 0.5)
    assert [row["precision"] for row in said["per_class"]] == [0.1] + [None] * 9
    assert [row["recall"] for row in said["per_class"]] == [1.0] + [0.0] * 9


@pytest.mark.parametrize("last", [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], ids=["never predicted", "predicted once"])
def test_a_class_without_images_is_undefined_and_left_out_of_means(last: list[float]) -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], last])
    said = metrics(probabilities, np.array([0, 1, 1]), ["a", "b", "c"])
    absent = {"name": "c", "precision": None, "recall": None, "f1": None, "roc_auc": None, "support": 0}
    assert said["per_class"][2] == absent
    for key in ("precision", "recall", "f1", "roc_auc"):
        assert said["macro"][key] == pytest.approx(sum(row[key] for row in said["per_class"][:2]) / 2)
    assert said["undefined_classes"] == 1
    low, high = intervals(confusion(probabilities, np.array([0, 1, 1])))["macro_f1"] or (1.0, 1.0)
    assert low <= said["macro"]["f1"] <= high


def test_a_mean_without_anything_to_weigh_is_undefined() -> None:
    """No class that is there was ever predicted: the share of right answers among those predictions is 0/0."""
    said = metrics(np.array([[0.1, 0.9]]), np.array([0]), ["a", "b"])
    assert said["weighted"] == {"precision": None, "recall": 0.0, "f1": 0.0, "roc_auc": None}
    assert said["macro"] == {"precision": None, "recall": 0.0, "f1": 0.0, "roc_auc": None}


@pytest.mark.parametrize(("classes", "known"), [(2, ["1"]), (3, ["1", "2"]), (5, ["1", "2", "3"]), (6, [*"1235"])])
def test_top_k_accuracy_is_given_only_where_there_are_more_classes(classes: int, known: list[str]) -> None:
    probabilities = np.full((classes, classes), 1 / classes)
    said = metrics(probabilities, np.arange(classes), names(probabilities))
    assert list(said["top_k_accuracy"]) == known
    assert said["top5_accuracy"] == (pytest.approx(5 / 6) if classes > 5 else None)


def test_correlation_and_kappa_are_undefined_exactly_where_they_are_0_by_0() -> None:
    """scikit-learn calls the first of them 0, as if the model had been found to be no better than chance."""
    one, two = np.zeros(3, dtype=np.int64), np.array([0, 1, 0])
    assert math.isnan(matthews(one, two))
    assert math.isnan(matthews(two, one))
    assert math.isnan(cohen_kappa(one, one))
    assert cohen_kappa(one, one + 1) == 0  # never agreed, and by chance would not have either
    assert cohen_kappa(one, two) == pytest.approx(0)
    assert matthews(two, two) == cohen_kappa(two, two) == 1


def test_the_roc_curve_of_a_class_needs_images_on_both_sides() -> None:
    probabilities = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert roc_auc(probabilities, np.array([0, 1]))[:2].tolist() == [0.5, 0.5]  # all are equal
    assert np.isnan(roc_auc(probabilities, np.array([0, 1]))[2])
    assert np.isnan(roc_auc(probabilities, np.array([0, 0]))).all()


def test_brier_score_is_0_for_certainty_and_2_for_certainty_of_something_else() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert brier(certain, np.array([0, 1])) == 0
    assert brier(certain, np.array([1, 0])) == 2


def test_certainty_in_the_wrong_class_costs_much_but_not_infinitely_much() -> None:
    assert losses(np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([1, 0])).tolist() == pytest.approx(
        [-math.log(np.finfo(np.float64).tiny), math.log(4)]
    )


def test_no_images_are_no_score() -> None:
    with pytest.raises(BadInput, match="there are no images to score"):
        metrics(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), ["a", "b", "c"])
