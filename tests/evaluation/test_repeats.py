"""Several runs of one recipe, against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnetlab.evaluation.intervals import Repeats


@given(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=12))
def test_mean_deviation_and_interval_are_those_of_numpy_and_scipy(scores: list[float]) -> None:
    repeats = Repeats.of(scores)
    assert repeats is not None
    assert repeats.mean == pytest.approx(np.mean(scores))
    assert repeats.std == pytest.approx(np.std(scores, ddof=1), abs=1e-12)
    assert (repeats.min, repeats.max) == (min(scores), max(scores))
    bounded = Repeats.of(scores, "accuracy")
    assert bounded is not None
    if min(scores) == max(scores) or len(scores) < 3:
        assert repeats.interval is bounded.interval is None
    else:
        low, high = stats.t.interval(0.95, len(scores) - 1, np.mean(scores), stats.sem(scores))
        assert repeats.interval == pytest.approx((low, high))
        assert bounded.interval == pytest.approx((max(0, low), min(1, high)))


@pytest.mark.parametrize(("score", "values"), [("accuracy", [0.98, 0.99, 1.0]), ("loss", [0.01, 0.02, 0.1])])
def test_an_interval_does_not_leave_the_range_of_its_score(score: str, values: list[float]) -> None:
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = Repeats.of(values, score)
    assert found is not None
    assert found.interval == pytest.approx((low, 1.0) if score == "accuracy" else (0.0, high))


def test_two_runs_have_no_interval() -> None:
    assert Repeats.of([0.89, 0.91], "accuracy") == Repeats(0.9, pytest.approx(0.0141, abs=1e-4), 0.89, 0.91, None)


def test_the_interval_covers_the_truth_in_19_of_20_series_of_three() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.01, (2000, 3))
    found = [Repeats.of(row) for row in draws.tolist()]
    covered = np.mean([repeats.interval[0] <= 0.9 <= repeats.interval[1] for repeats in found])
    assert 0.935 < covered < 0.965


def test_one_run_says_nothing_of_how_much_runs_vary() -> None:
    assert Repeats.of([0.5]) == Repeats(0.5, None, 0.5, 0.5, None)


@pytest.mark.parametrize("scores", [[], [None], [0.5, None, 0.7]])
def test_an_undefined_score_leaves_all_undefined(scores: list[float | None]) -> None:
    assert Repeats.of(scores) is None
