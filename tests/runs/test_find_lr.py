"""The learning-rate range test: what it tries, what it concludes, and that it leaves nothing behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.errors import BadInput, NonFinite
from resnetlab.runs import recipes
from resnetlab.runs.build import Experiment
from resnetlab.runs.find_lr import RangeTest, Rising, ended, find_lr, smoothed

FAST = ("--model", "resnet20", "--batch-size", "64", "--precision", "fp32", "--tries", "40")


def test_rates_grow_by_the_same_factor_and_depend_on_the_step_alone() -> None:
    schedule = Rising(1e-6, 10, 100)
    rates = [schedule(step) for step in range(100)]
    assert np.allclose(rates, np.geomspace(1e-6, 10, 100), rtol=1e-12)
    assert [schedule(step) for step in reversed(range(100))] == rates[::-1]


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (-1, 1), (1, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_rates_that_do_not_grow_are_refused(lowest: float, highest: float) -> None:
    with pytest.raises(BadInput, match="above 0, and grow"):
        Rising(lowest, highest, 100)


def test_smoothing_keeps_a_level_and_a_slope_and_does_not_lag() -> None:
    assert np.allclose(smoothed([2.0] * 30), 2)
    line = np.linspace(3, 1, 50)
    assert np.allclose(smoothed(line)[15:-15], line[15:-15])
    peak = np.zeros(41)
    peak[20] = 1
    assert np.allclose(smoothed(peak)[10:31], smoothed(peak)[10:31][::-1])


def curve(steepest: float) -> tuple[list[float], list[float]]:
    """A loss that falls from 2.3 to 0.3, fastest at one rate."""
    rates = np.geomspace(1e-6, 10, 100)
    return rates.tolist(), (0.3 + 2 / (1 + (rates / steepest) ** 2)).tolist()


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.03])
def test_the_steepest_descent_is_found_where_it_is(rate: float) -> None:
    found = RangeTest.of(*curve(rate), None)
    assert found.steepest == pytest.approx(rate, rel=0.2)
    assert found.suggestion == found.steepest


def test_a_tenth_of_where_it_diverged_is_suggested_if_that_is_less() -> None:
    rates, losses = curve(0.01)
    assert RangeTest.of(rates, losses, 0.05).suggestion == 0.005
    assert RangeTest.of(rates, losses, 5.0).suggestion == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("seed", range(10))
def test_the_noise_of_small_batches_is_not_taken_for_a_descent(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, 100)
    rates, losses = curve(0.01)
    found = RangeTest.of(rates, (losses + noise).tolist(), None)
    assert found.steepest == pytest.approx(0.01, rel=1)
    assert found.steepest > 1e-3
    assert RangeTest.of(rates, (2.3 + noise).tolist(), None).suggestion is None


def test_a_second_fall_after_the_network_was_blown_up_is_not_the_one() -> None:
    rates, losses = curve(0.001)
    again = [*losses[:70], *[4.0] * 15, *np.geomspace(4.0, 0.1, 15).tolist()]
    assert RangeTest.of(rates, again, None).steepest == pytest.approx(0.001, rel=0.2)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    rates = np.geomspace(1e-6, 10, 100).tolist()
    for losses in ([2.3] * 100, np.linspace(2, 3, 100).tolist()):
        found = RangeTest.of(rates, losses, 1.0)
        assert (found.steepest, found.suggestion) == (None, None)
        assert "the loss did not fall by more than its noise" in found.lines()[0]
        assert "nothing" in found.lines()[1]


def test_no_loss_to_begin_with_is_an_error() -> None:
    with pytest.raises(NonFinite, match="is not finite at the first learning rate, 1e-06"):
        ended([], [], 1e-6)


def test_the_first_loss_is_that_of_the_network_a_run_begins_with() -> None:
    config = recipes.quickstart().changed({"model": {"name": "resnet20"}, "precision": "fp32", "seed": 3})
    found = find_lr(config, tries=10, highest=1e-5)
    experiment = Experiment.of(config)
    batch = next(experiment.batches.train.epoch(0))
    with torch.no_grad():
        loss = experiment.plan.loss_fn(experiment.state.model.train()(batch.images), batch.labels)
    assert found.losses[0] == pytest.approx(float(loss), rel=1e-5)
    assert len(found.losses) == 10  # more than an epoch's batches are never needed at once, and none is left out


def test_the_command_suggests_and_leaves_nothing_behind(command: Any, tmp_path: Path) -> None:
    code, out, err = command("find-lr", *FAST)
    assert code == 0, err
    assert "suggest  --lr " in out
    assert not list(tmp_path.iterdir())
    first = json.loads(command("find-lr", *FAST, "--json")[1])
    assert f"--lr {first['suggestion']:.2g}," in out
    assert 1e-3 < first["suggestion"] < 0.3
    assert len(first["rates"]) == len(first["losses"]) == len(first["smoothed"])
    assert not list(tmp_path.iterdir())


def test_more_steps_than_an_epoch_has_and_the_same_losses_each_time(command: Any) -> None:
    words = ("find-lr", *FAST, "--model", "tiny", "--tries", 20, "--batch-size", 512, "--json")
    found, again = (json.loads(command(*words)[1]) for _ in range(2))
    assert found == again
    assert len(found["losses"]) == 20  # of two batches an epoch
    assert found["diverged"] is None


def test_a_learning_rate_that_blows_up_ends_the_test(command: Any) -> None:
    code, out, err = command("find-lr", *FAST, "--model", "tiny", "--lowest", "1e30", "--highest", "1e35")
    assert code == 0, err
    assert "it diverged at " in out
    assert "suggest  nothing" in out


@pytest.mark.slow
def test_the_picture_is_saved_where_out_says(command: Any, tmp_path: Path) -> None:
    code, out, err = command("find-lr", *FAST, "--model", "tiny", "--out", "rates.png")
    assert code == 0, err
    assert "the figure is rates.png" in out
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs", "3"], "--epochs has no effect on find-lr"),
        (["--lr=0.1"], "--lr has no effect"),
        (["--schedule.warmup_steps", "3"], "--schedule.warmup-steps has no effect"),
        (["--out", "rates.jpg"], "must be a .png file in an existing folder"),
        (["--out", "nowhere/rates.png"], "must be a .png file in an existing folder"),
        (["--tries", "3"], "--tries is 3, but must be a whole number from 10 up"),
        (["--lowest", "1", "--highest", "0.1"], "learning rates from 1 to 0.1"),
        (["quickstrat"], "unknown recipe 'quickstrat'"),
        (["--model", "resnet43"], "unknown model"),
    ],
)
def test_bad_input_is_one_sentence(command: Any, tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in command.refuse("find-lr", *words)
    assert not list(tmp_path.iterdir())
