"""Intervals are those of drawing the images again, cover what they should, and say nothing where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from resnetlab.evaluation.intervals import RESAMPLES, bootstrap, intervals, percentiles, resampled
from resnetlab.evaluation.metrics import confusion_of, metrics


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Confusion matrices with absent classes, classes never predicted, single images."""
    classes = draw(st.integers(1, 6))
    cells = draw(st.lists(st.integers(0, 4), min_size=classes**2, max_size=classes**2).filter(any))
    return np.array(cells).reshape(classes, classes)


def images_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with that confusion matrix."""
    kinds = np.repeat(np.arange(matrix.size), matrix.ravel())
    return kinds // len(matrix), kinds % len(matrix)


def test_the_bootstrap_equals_drawing_image_by_image() -> None:
    """The same distribution as that of the procedure in words, with scikit-learn's F1."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 3, 60)
    predicted = np.where(draw.random(60) < 0.6, labels, draw.integers(0, 3, 60))
    ours = bootstrap(confusion_of(predicted, labels, 3))
    few = RESAMPLES // 4  # scikit-learn takes its time
    chosen = [draw.integers(0, 60, 60) for _ in range(few)]
    slow = (
        np.array([(labels[i] == predicted[i]).mean() for i in chosen]),
        np.array([f1_score(labels[i], predicted[i], average="macro") for i in chosen]),
    )
    for fast, expected in zip(ours, slow, strict=True):
        assert fast.shape == (RESAMPLES,)
        assert fast.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(few))
        for share in (0.025, 0.25, 0.75, 0.975):
            assert np.quantile(fast, share) == pytest.approx(np.quantile(expected, share), abs=0.03)


@settings(deadline=None)
@given(matrices())
def test_every_resample_scores_as_the_metrics_would(matrix: np.ndarray) -> None:
    """Also where a class is missing from a resample: it is left out of the mean there, as it is elsewhere."""
    rows, columns = np.nonzero(matrix)
    draws = np.concatenate(list(resampled(matrix[rows, columns])))
    accuracy, macro_f1 = bootstrap(matrix)
    assert (draws.sum(1) == matrix.sum()).all()
    for number in (0, 1, RESAMPLES - 1):
        again = np.zeros_like(matrix)
        again[rows, columns] = draws[number]
        labels, predicted = images_of(again)
        said = metrics(np.eye(len(matrix))[predicted], labels, [str(c) for c in range(len(matrix))])
        assert accuracy[number] == pytest.approx(said["accuracy"], rel=1e-12)
        assert macro_f1[number] == pytest.approx(said["macro"]["f1"], rel=1e-12)


@settings(deadline=None)
@given(matrices())
def test_an_interval_lies_in_0_to_1_and_comes_out_the_same_again(matrix: np.ndarray) -> None:
    said = intervals(matrix)
    assert said == intervals(matrix)
    for name in ("accuracy", "macro_f1"):
        if said[name] is not None:
            low, high = said[name]
            assert 0 <= low <= high <= 1


def test_many_classes_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (30, 30))
    whole = intervals(matrix)
    monkeypatch.setattr("resnetlab.evaluation.intervals.AT_ONCE", 100_000)
    assert intervals(matrix) == whole


@pytest.mark.parametrize("right", [True, False])
def test_where_all_or_none_are_right_accuracy_still_has_a_width_and_macro_f1_has_none(right: bool) -> None:
    """All resamples are alike then; an interval of no width would claim a certainty that nobody has."""
    matrix = np.diag([10, 20]) if right else np.diag([10, 20])[::-1]
    said = intervals(matrix)
    low, high = said["accuracy"]
    assert (low, high) == pytest.approx((30 / (30 + 1.96**2), 1) if right else (0, 1.96**2 / (30 + 1.96**2)), abs=1e-4)
    assert said["macro_f1"] is None


def test_a_single_image_says_almost_nothing() -> None:
    low, high = intervals(np.array([[1, 0], [0, 0]]))["accuracy"]
    assert low < 0.21
    assert high == pytest.approx(1)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """Of 200 samples of 400 images each from a model that is right 80 times in 100."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(200):
        right = int(draw.binomial(400, 0.8))
        low, high = intervals(np.array([[right, 400 - right], [0, 0]]))["accuracy"]
        held += low <= 0.8 <= high
    assert 180 <= held <= 199


def test_scores_that_are_all_alike_have_no_percentiles() -> None:
    assert percentiles(np.ones(5)) is None
    assert percentiles(np.array([0.0, 1.0])) == pytest.approx([0.025, 0.975])


def test_no_global_generator_is_touched() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - this is the one that must stay
    intervals(np.array([[3, 1], [1, 3]]))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
