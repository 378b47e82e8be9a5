"""Contenders take turns, and their numbers are medians, spreads and ratios by round."""

from __future__ import annotations

import doctest
import importlib
import statistics

import pytest
from benchmarks.rounds import Failed, Outcome, group, interleaved, ratio, spread


def test_contenders_take_turns() -> None:
    turns: list[str] = []

    def contender(name: str):
        return lambda: turns.append(name) or {"turn": len(turns)}

    outcomes = interleaved({name: contender(name) for name in "ABC"}, 3, say=lambda _: None)
    assert "".join(turns) == "ABCABCABC"
    assert [sample["turn"] for sample in outcomes["B"].samples] == [2, 5, 8]


def test_who_has_failed_is_not_asked_again_and_says_why() -> None:
    asked = []

    def fails() -> dict[str, object]:
        asked.append(1)
        raise Failed("no compiler was found")

    outcomes = interleaved({"good": lambda: {"x": 1}, "bad": fails}, 3, say=lambda _: None)
    assert len(asked) == 1
    assert len(outcomes["good"].samples) == 3
    found = group("net", "a net", "images/s", outcomes, lambda sample: sample["x"], more_is_better=True)
    assert found["contenders"][1] == {"name": "bad", "values": [], "failed": "no compiler was found"}


@pytest.mark.parametrize("values", [[4.0], [1.0, 2.0], [5.0, 1.0, 3.0], [1.0, 9.0, 2.0, 8.0, 3.0]])
def test_spread_says_what_statistics_says(values: list[float]) -> None:
    found = spread(values)
    assert found["median"] == statistics.median(values)
    assert (found["lowest"], found["highest"]) == (min(values), max(values))
    assert found["lowest"] <= found["quartile_1"] <= found["median"] <= found["quartile_3"] <= found["highest"]


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was ten times slower in the second round: no single round says anything but 2.
    assert ratio([200.0, 20.0, 198.0], [100.0, 10.0, 99.0]) == 2.0


def test_a_group_compares_with_the_first_one() -> None:
    outcomes = {"ours": Outcome([{"x": 6.0}, {"x": 8.0}]), "other": Outcome([{"x": 2.0}, {"x": 2.0}])}
    ours, other = group("net", "a net", "images/s", outcomes, lambda s: s["x"], more_is_better=True)["contenders"]
    assert "first_against_it" not in ours
    assert other["first_against_it"] == 3.5


def test_nothing_is_compared_with_nought() -> None:
    outcomes = {"ours": Outcome([{"x": 10.0}]), "other": Outcome([{"x": 0.0}])}
    _, other = group("net", "a net", "% of test images", outcomes, lambda s: s["x"], more_is_better=True)["contenders"]
    assert other["median"] == 0.0
    assert "first_against_it" not in other


@pytest.mark.parametrize(
    "module", ["rounds", "pictures", "scaling_page", "page", "results", "rounding", "beside_script"]
)
def test_examples_run(module: str) -> None:
    done = doctest.testmod(importlib.import_module(f"benchmarks.{module}"))
    assert done.attempted
    assert not done.failed
