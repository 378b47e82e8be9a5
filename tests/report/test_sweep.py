"""The page of a sweep shows its trials, escaped, with and without those that it takes to draw something."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from resnetlab.plots.sweep import Axis
from resnetlab.report.sweep import write_sweep
from resnetlab.runs import recipes
from resnetlab.runs.sweeps.space import SearchSpace
from resnetlab.runs.sweeps.sweep import Sweep, TrialRecord

SPACE = SearchSpace.of(
    {
        "optim.lr": {"low": 0.001, "high": 1.0, "log": True},
        "augment.crop": {"low": 0, "high": 4},
        "optim.betas": [[0.9, 0.99], [0.9, 0.999]],
        "clip_norm": ["none", 1.0],
    }
)


def trial(number: int, state: str, score: float | None, why: str = "") -> TrialRecord:
    values = {"optim.lr": 0.001 * (1 + number), "augment.crop": number % 5, "optim.betas": [0.9, 0.99]}
    return TrialRecord(number, state, values | {"clip_norm": None}, score, 3, 12.5, why)


def made(folder: Path, *trials: TrialRecord, **changes: Any) -> Sweep:
    found = Sweep(folder, recipes.quickstart(), SPACE, "median", trials, {}, None)
    return dataclasses.replace(found, **changes)


def test_every_trial_is_in_the_table_and_the_best_is_named(tmp_path: Path) -> None:
    trials = [trial(0, "complete", 0.5), trial(1, "pruned", 0.25), trial(2, "complete", 0.75)]
    trials += [trial(3, "failed", None, "<b>why</b>"), trial(4, "running", None)]
    found = made(tmp_path, *trials, importances={"optim.lr": 0.75, "augment.crop": 0.25})
    page = write_sweep(found).read_text()
    assert page.count('<th scope="row">') >= 5 + 4
    assert ">2 ★<" in page
    assert "75.00 %" in page
    assert "failed: &lt;b&gt;why&lt;/b&gt;" in page
    assert "5 trials: 2 complete, 1 pruned, 1 failed, 1 running" in page
    assert page.count("<figure>") == 3
    assert "0.9 0.99" in page
    assert 'src="http' not in page


def test_lower_is_better_for_the_loss(tmp_path: Path) -> None:
    config = recipes.quickstart().changed({"best_by": "loss"})
    found = made(tmp_path, trial(0, "complete", 0.5), trial(1, "complete", 0.25), config=config)
    assert found.best is not None
    assert found.best.number == 1
    assert ">1 ★<" in write_sweep(found).read_text()


@pytest.mark.parametrize(
    "trials", [[], [trial(0, "running", None)], [trial(0, "pruned", 0.1)], [trial(0, "complete", 0.1)]], ids=str
)
def test_a_page_of_few_trials(trials: list[TrialRecord], tmp_path: Path) -> None:
    page = write_sweep(made(tmp_path, *trials)).read_text()
    assert ("No trial is complete" in page) == (not any(one.state == "complete" for one in trials))


def test_the_test_score_is_shown_when_there_is_one(tmp_path: Path) -> None:
    scores = {"accuracy": 0.625, "images": 359, "macro": {"f1": 0.5}, "loss": 1.0}
    page = write_sweep(made(tmp_path, trial(0, "complete", 0.5), test_scores=scores)).read_text()
    assert json.dumps(scores["accuracy"]) in page
    assert "--final" not in page


def test_axes_place_numbers_and_names() -> None:
    assert Axis("lr", [0.01, 0.1, 1.0], log=True).heights() == pytest.approx([0, 0.5, 1])
    assert Axis("name", ["b", "a"], choices=["a", "b"]).heights() == [0.75, 0.25]
    assert Axis("crop", [0, 1, 2]).ticks() == [(0, "0"), (0.5, "1"), (1, "2")]
    assert Axis("crop", [3, 3]).ticks() == [(0.5, "3")]
