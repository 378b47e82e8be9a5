"""Paired tests equal their definitions, and a difference that may be chance is not significant."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetlab.evaluation.comparison import (
    ComparedRun,
    Comparison,
    compare_with_best,
    difference_interval,
    discordant,
    holm,
    mcnemar,
    ranked,
)


def contender(name: str, correct: Any, **changes: Any) -> ComparedRun:
    correct = np.array(correct, dtype=bool)
    known: dict[str, Any] = {
        "name": name,
        "correct": correct,
        "accuracy": float(correct.mean()),
        "accuracy_interval": [0.0, 1.0],
        "macro_f1": 0.5,
        "macro_f1_interval": None,
        "loss": 1.0,
        "ece": 0.1,
        "test_set_uses": 1,
        "model": "resnet20",
        "weights_digest": name,
        "parameters": 1000,
        "macs": None,
        "epochs": 3,
        "train_seconds": 60.0,
        "images_per_second": 100.0,
        "machine": "here",
        "epoch_rows": [],
    }
    return ComparedRun(**known | changes)


def sign_test(one: int, other: int) -> Fraction:
    """Of all ways in which the images could have fallen, the share of those at least as uneven, counted out."""
    total, extreme = one + other, abs(one - other)
    ways = (math.comb(total, k) for k in range(total + 1) if abs(total - 2 * k) >= extreme)
    return Fraction(sum(ways), 2**total)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_sign_test_of_the_images_that_only_one_is_right_about(one: int, other: int) -> None:
    assert mcnemar(one, other) == pytest.approx(float(sign_test(one, other)), rel=1e-9)
    assert mcnemar(one, other) == mcnemar(other, one)


def test_mcnemar_of_many_images_is_near_its_usual_approximation() -> None:
    """Chi-squared with one degree of freedom and Edwards' correction: (|b - c| - 1)² / (b + c)."""
    statistic = (abs(520 - 440) - 1) ** 2 / (520 + 440)
    assert mcnemar(520, 440) == pytest.approx(math.erfc(math.sqrt(statistic / 2)), rel=0.02)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms())
def test_discordant_images_are_counted(one: list[bool], chance: Any) -> None:
    other = [chance.random() < 0.5 for _ in one]
    pairs = list(zip(one, other, strict=True))
    assert discordant(np.array(one), np.array(other)) == (pairs.count((True, False)), pairs.count((False, True)))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0.001, 0.5))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float], level: float) -> None:
    """Holm's procedure in words: the smallest p against level/m, the next against level/(m - 1) … until one fails."""
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[place] * (len(p_values) - rank) >= level:
            break
        rejected.add(place)
    adjusted = holm(p_values)
    assert {place for place, value in enumerate(adjusted) if value < level} == rejected
    assert all(p <= value <= 1 for p, value in zip(p_values, adjusted, strict=True))


def test_the_interval_of_the_difference_equals_drawing_image_by_image() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.random(300) < 0.8, draw.random(300) < 0.7
    low, high = difference_interval(*discordant(one, other), 300) or [0, 0]
    slow = [(one[i].mean() - other[i].mean()) for i in (draw.integers(0, 300, 300) for _ in range(4000))]
    assert [low, high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)
    assert low < one.mean() - other.mean() < high


def test_two_models_that_are_right_about_the_same_images_have_no_interval_between_them() -> None:
    assert difference_interval(0, 0, 50) is None


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=2, max_size=4))
def test_the_best_comes_first_and_is_compared_with_each_of_the_others(rows: list[list[bool]]) -> None:
    ordered = ranked([contender(str(place), hits) for place, hits in enumerate(rows)])
    pairs = compare_with_best(ordered)
    assert [pair.other for pair in pairs] == [other.name for other in ordered[1:]]
    everyone = [mcnemar(*discordant(one.correct, other.correct)) for one, other in itertools.combinations(ordered, 2)]
    for pair, other in zip(pairs, ordered[1:], strict=True):
        assert pair.best == ordered[0].name
        assert pair.difference == pytest.approx(ordered[0].accuracy - other.accuracy)
        assert pair.difference >= 0
        assert pair.p_value <= pair.adjusted_p_value <= min(1, len(everyone) * pair.p_value + 1e-12)
        assert pair.significant == (pair.adjusted_p_value < 0.05)


def test_equal_accuracies_are_ranked_by_loss() -> None:
    ordered = ranked([contender("a", [1, 0], loss=2.0), contender("b", [0, 1], loss=1.0)])
    assert [c.name for c in ordered] == ["b", "a"]


def test_the_same_run_twice_is_not_significant() -> None:
    hits = [True] * 80 + [False] * 20
    (pair,) = compare_with_best([contender("a", hits), contender("a (2)", hits)])
    assert (pair.p_value, pair.difference, pair.interval, pair.verdict) == (1.0, 0.0, None, "not significant")
    assert pair.sentence() == "the difference between a and a (2) is not significant on these images (p = 1)"


def test_models_far_apart_are_told_apart() -> None:
    one, other = [True] * 90 + [False] * 10, [True] * 60 + [False] * 40
    (pair,) = compare_with_best([contender("a", one), contender("b", other)])
    assert (pair.only_best, pair.only_other, pair.verdict) == (30, 0, "worse")
    assert pair.sentence() == f"a is better than b on these images (p = {2 * 0.5**30:.2g})"


def test_a_difference_that_passes_alone_may_not_pass_among_many() -> None:
    """Of twenty models that are equally good the luckiest is significantly better than the unluckiest, taken alone."""
    draw = np.random.default_rng(5)
    many = ranked([contender(str(i), draw.random(500) < 0.8) for i in range(20)])
    pairs = compare_with_best(many)
    assert min(pair.p_value for pair in pairs) < 0.05
    assert not any(pair.significant for pair in pairs)


def test_a_comparison_is_json_and_finds_its_pairs() -> None:
    ordered = ranked([contender("a", [1, 1, 0]), contender("b", [1, 0, 0]), contender("c", [0, 0, 0])])
    comparison = Comparison("test", "pets", "cd", 3, "none", 14, ordered, compare_with_best(ordered), ("a note",))
    assert comparison.pair(ordered[0]) is None
    assert [getattr(comparison.pair(c), "other", None) for c in ordered] == [None, "b", "c"]
    said = comparison.to_json()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert [run["name"] for run in said["runs"]] == ["a", "b", "c"]
    assert said["pairs"][0]["verdict"] == "not significant"
    assert not {"correct", "epoch_rows"} & set(said["runs"][0])
