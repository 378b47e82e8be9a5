"""Every metric equals a count that is written out; what is undefined is None, never 0."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from resnetlab.errors import BadInput
from resnetlab.evaluation.metrics import (
    Labels,
    Probabilities,
    confusion,
    losses,
    metrics,
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


def brute_force(probabilities: Probabilities, labels: Labels) -> dict[str, Any]:
    true, classes = labels.tolist(), range(probabilities.shape[1])
    guesses = [likeliest(row, 1)[0] for row in probabilities.tolist()]
    pairs = list(zip(true, guesses, strict=True))
    per_class = []
    for c in classes:
        hits = sum(t == g == c for t, g in pairs)
        predicted, actual = sum(g == c for g in guesses), sum(t == c for t in true)
        per_class.append(
            {
                "name": f"class {c}",
                "precision": ratio(hits, predicted),
                "recall": ratio(hits, actual),
                "f1": ratio(2 * hits, predicted + actual),
                "support": actual,
            }
        )
    supports = [row["support"] for row in per_class]
    keys = ("precision", "recall", "f1")
    return {
        "images": len(true),
        "loss": sum(-math.log(row[t]) for row, t in zip(probabilities.tolist(), true, strict=True)) / len(true),
        "accuracy": sum(t == g for t, g in pairs) / len(true),
        "top5_accuracy": sum(t in likeliest(row, 5) for t, row in zip(true, probabilities.tolist(), strict=True))
        / len(true),
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
def test_means_equal_scikit_learns_where_there_is_something_to_weigh(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    said = metrics(probabilities, labels, names(probabilities))
    for average in ("macro", "weighted"):
        theirs = precision_recall_fscore_support(
            labels, probabilities.argmax(1), labels=range(probabilities.shape[1]), average=average, zero_division=np.nan
        )
        for ours, value in zip(said[average].values(), theirs[:3], strict=True):
            assert ours is None or ours == pytest.approx(value, rel=1e-12)


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


def test_a_class_that_is_absent_and_never_predicted_is_undefined_and_left_out_of_means() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1]])
    said = metrics(probabilities, np.array([0, 1]), ["a", "b", "c"])
    assert said["per_class"][2] == {"name": "c", "precision": None, "recall": None, "f1": None, "support": 0}
    assert said["macro"] == said["weighted"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert said["undefined_classes"] == 1


def test_a_mean_without_anything_to_weigh_is_undefined() -> None:
    """No class that is there was ever predicted: the share of right answers among those predictions is 0/0."""
    said = metrics(np.array([[0.1, 0.9]]), np.array([0]), ["a", "b"])
    assert said["weighted"] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert said["macro"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_certainty_in_the_wrong_class_costs_much_but_not_infinitely_much() -> None:
    assert losses(np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([1, 0])).tolist() == pytest.approx(
        [-math.log(np.finfo(np.float64).tiny), math.log(4)]
    )


def test_no_images_are_no_score() -> None:
    with pytest.raises(BadInput, match="there are no images to score"):
        metrics(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), ["a", "b", "c"])
