"""A run whose length is planned in minutes: the arithmetic, the stored length, its repeat, its resume, the refusals."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from resnetlab import recipes
from resnetlab.errors import BadInput
from resnetlab.runs import experiment, timing
from resnetlab.runs.build import Experiment
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.timing import Times, of_length, planned, seconds_per_step
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import fit


@pytest.fixture(autouse=True)
def steps_that_take_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "seconds_per_step", lambda *_: 1.0)


def tiny(**changes: Any) -> RunConfig:
    return recipes.quickstart().changed({"model": {"name": "tiny"}, "precision": "fp32", "batch_size": 256, **changes})


@pytest.mark.parametrize("seconds", [0.0, 2.4, 2.6, 6.9, 7.1, 9.6, 22.7, 1000.0])
def test_the_planned_length_is_the_longest_that_ends_in_time(seconds: float) -> None:
    """Compared with a search through all lengths."""
    times = Times(step=0.5, epoch_end=2.0, final_scores=9.0, steps_per_epoch=10)
    fitting = [steps for steps in range(2000) if times.of(steps) <= seconds]
    assert times.steps_within(seconds) == max(fitting)


def test_the_scores_after_each_epoch_and_at_the_end_have_their_share() -> None:
    whole = Experiment.of(tiny())
    found, one = timing.times(whole, 1.0), 1 / 256 / timing.BACKWARD
    written = sum(timing.sizes_of_files(whole.state)) / timing.WRITING
    assert found.steps_per_epoch == 1294 // 256
    assert found.epoch_end == pytest.approx((144 + 144) * one + written)
    assert found.final_scores == pytest.approx((3 * 144 + 359) * one)
    assert timing.times(Experiment.of(tiny(final_test="never")), 1.0).final_scores == pytest.approx(3 * 144 * one)
    model = {"name": "tiny", "freeze": True, "pretrained": "torchvision"}
    frozen = dataclasses.replace(whole, config=tiny(model=model))
    assert timing.times(frozen, 1.0).final_scores == pytest.approx(timing.BACKWARD * found.final_scores)


@pytest.mark.parametrize(
    ("changes", "steps", "per_image"),
    [({"batch_size": 2000}, 1.0, 1 / 1294), ({"augment": {"sizes": (0.5, 1)}}, (0.25 + 1) / 2 / 0.25, 4 / 256)],
    ids=["fewer images than a batch has", "measured on smaller images"],
)
def test_the_time_of_an_image_is_that_of_a_whole_one(changes: dict[str, Any], steps: float, per_image: float) -> None:
    found = timing.times(Experiment.of(tiny(**changes)), 1.0)
    assert found.step == pytest.approx(steps)
    assert found.final_scores == pytest.approx((3 * 144 + 359) * per_image / timing.BACKWARD)


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"optim": {"name": "adamw"}}])
def test_the_size_of_a_checkpoint_is_known_before(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = Experiment.of(tiny(model={"name": "resnet20"}, batch_size=8, steps=1, **changes))
    next(fit(whole.state, whole.batches, whole.plan, whole.runtime))
    save_checkpoint(tmp_path / "x", whole.state, {})
    checkpoint, model = timing.sizes_of_files(whole.state)
    assert checkpoint <= (tmp_path / "x").stat().st_size < 1.05 * checkpoint
    assert checkpoint > 1.9 * model


def test_another_length_makes_what_a_config_with_it_describes() -> None:
    config = tiny(augment={"sizes": (0.5, 1)}, data={"name": "digits", "balance": "weights"}, epochs=3)
    changed, built = of_length(Experiment.of(config), 7), Experiment.of(config.changed({"steps": 7}))
    assert changed.config == built.config
    assert changed.plan.steps == built.plan.steps == 7
    rates, others = ([one.plan.schedule(step, ()) for step in range(7)] for one in (changed, built))
    assert rates == others
    train: Any = changed.batches.train
    assert [train.size_at(step) for step in range(7)] == [4, 4, 4, 4, 8, 8, 8]
    logits, labels = torch.randn(20, 10), torch.arange(20) % 10
    assert changed.plan.loss_fn(logits, labels) == built.plan.loss_fn(logits, labels)


def test_the_time_is_counted_from_the_start_of_the_command(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    imported: list[float] = []
    monkeypatch.setattr(experiment, "train", lambda *_, **options: began.append(options["began"]))
    monkeypatch.setattr("resnetlab.cli.process.tune", lambda: imported.append(time.perf_counter()))
    before = time.perf_counter()
    assert command("train", "--minutes", 1)[0] == 0
    assert before <= began[0] < imported[0]


@pytest.mark.usefixtures("no_pictures")
def test_what_has_passed_is_not_left_for_training(tmp_path: Path) -> None:
    run = experiment.train(tiny(final_test="never"), tmp_path / "run", minutes=2, began=time.perf_counter() - 100)
    assert 1 <= (run.config.steps or 0) < 120 - 100 - timing.FINISH
    assert re.search(r"to end in about 2 minutes: training begins after 10\d s", run.log.read_text())


def test_the_length_is_stored_so_that_a_repeat_and_a_resumed_run_have_the_same_bits(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "seconds_per_step", lambda *_: 20.0)
    monkeypatch.setattr("resnetlab.runs.evaluation_files.draw", lambda folder, *_: (folder / "samples.png").touch())
    monkeypatch.setattr(experiment, "draw_curves", lambda _, run, __: (run.path / "curves.png").touch())
    words = ("train", "--model", "tiny", "--precision", "fp32", "--batch-size", 256, "--final-test", "never")
    words = (*words, "--minutes", 3)
    code, out, err = command(*words, "--out", "planned")
    assert code == 0, err
    run = RunFolder.open(tmp_path / "planned")
    assert run.config.epochs is None
    assert 1 <= (run.config.steps or 0) < 9  # with the scores, 3 minutes are shorter than 9 steps
    assert f"length: {run.config.steps:,} steps" in out
    assert run.rows[-1]["step"] == run.config.steps
    again = experiment.train(run.config, tmp_path / "again")
    assert again.final_metrics("val")["weights_digest"] == run.final_metrics("val")["weights_digest"]
    assert command(*words, "--out", "stopped", "--max-minutes", 0)[0] == 6
    stored = RunFolder.open(tmp_path / "stopped").config.steps
    code, _, err = command(*words[:-1], 2, "--out", "stopped", "--resume", "auto")
    assert code == 0, err
    assert RunFolder.open(tmp_path / "stopped").config.steps == stored


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs", 2], "--minutes plans the length of the run, and --epochs gives it; omit one of them"),
        (["--steps", 2], "--minutes plans the length of the run, and --steps gives it"),
        (["--seeds", 2], "--minutes plans one run, and all runs of --seeds have one length"),
        (["--folds", 2], "all runs of --folds have one length"),
        (["--print-config"], "so --print-config cannot show it"),
    ],
)
def test_minutes_beside_another_length_are_refused(command: Any, words: list[Any], sentence: str) -> None:
    code, _, err = command("train", "--minutes", 1, *words)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf])
def test_a_length_that_is_no_time_is_refused(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="must be a number above 0"):
        experiment.train(tiny(), tmp_path / "run", minutes=minutes)
    assert not (tmp_path / "run").exists()


def test_a_time_that_is_too_short_for_one_step_is_refused_with_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 100.0)
    with pytest.raises(BadInput, match=r"minutes is 0\.1, but training begins after 2 s, a step .* give 0\.2 or more"):
        planned(Experiment.of(tiny()), 0.1, began=98.0)
    found = planned(Experiment.of(tiny()), 0.2, began=98.0)
    assert found.config.steps is not None
    assert any(note.startswith("length: ") for note in found.notes)


def test_measuring_ends_early_where_steps_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Experiment.of(tiny(steps=100))
    assert seconds_per_step(measured, most_seconds=0.0) > 0
    assert measured.state.step == 2  # the first one has no beginning


def test_a_run_of_one_step_is_measured_too() -> None:
    assert seconds_per_step(Experiment.of(tiny(steps=1))) > 0
