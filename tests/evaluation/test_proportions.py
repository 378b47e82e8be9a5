"""Wilson's interval, against scipy's and against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from resnetlab.evaluation.intervals import Z, wilson


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys_and_holds_the_proportion(counts: tuple[int, int]) -> None:
    right, of = counts
    low, high = wilson(right, of)
    oracle = binomtest(right, of).proportion_ci(0.95, method="wilson")
    assert (float(low), float(high)) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert 0 <= low <= right / of <= high <= 1


def test_its_ends_are_where_the_score_test_just_rejects() -> None:
    for end in wilson(7, 50):
        assert abs(7 / 50 - end) / np.sqrt(end * (1 - end) / 50) == pytest.approx(Z)


def test_of_nothing_nothing_is_known() -> None:
    low, high = wilson([0, 1], [0, 2])
    assert np.isnan([low[0], high[0]]).all()
    assert not np.isnan([low[1], high[1]]).any()
