"""Scoring: where looks at a test split are written down, which temperature is used, and what augmentation touches."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetlab.data.splits import Split
from resnetlab.errors import Stopped
from resnetlab.evaluation.access_log import read
from resnetlab.evaluation.calibration import tempered
from resnetlab.evaluation.metrics import losses
from resnetlab.inference.model_file import read_model
from resnetlab.runs import build, experiment, recipes, resume, saved_data, score
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import SHARED_ACCESS_LOG, RunFolder
from resnetlab.runs.score import evaluate

pytestmark = pytest.mark.usefixtures("no_pictures")


def tiny(**changes: Any) -> RunConfig:
    base = {"model": {"name": "tiny"}, "epochs": 1, "batch_size": 256, "precision": "fp32"}
    return recipes.quickstart().changed(base | changes)


def train(folder: Path, **changes: Any) -> RunFolder:
    return experiment.train(tiny(**changes), folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two epochs on digits: about 30 % right."""
    return train(tmp_path_factory.mktemp("trained") / "run", epochs=2)


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, alone in its folder of runs."""
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(trained.path.parent / SHARED_ACCESS_LOG, root)
    return RunFolder(Path(shutil.copytree(trained.path, root / "run")))


def looks(file: Path) -> list[Any]:
    found, notes = read(file)
    assert not notes
    return found


def test_the_end_of_a_run_is_one_look_in_the_run_and_at_the_root_of_its_runs(run: RunFolder) -> None:
    (look,) = looks(run.path / "evaluation" / "ledger.jsonl")
    assert looks(run.path.parent / SHARED_ACCESS_LOG) == [look]
    final = run.final_metrics("test")
    assert final is not None
    assert look.run == "run"
    for name in ("weights_digest", "split_digest", "images", "model", "data", "tta"):
        assert getattr(look, name) == final[name]
    assert look.command
    assert look.when.endswith("+00:00")
    assert "test set used 1 time by this model; 1 run was scored on it" in run.log.read_text()


def test_validation_is_not_in_the_ledger_and_every_look_at_the_test_split_is(run: RunFolder) -> None:
    evaluate(run.path)
    evaluate(run.path, split="val", data="digits")
    assert len(looks(run.access_log.files[0])) == 1
    for number, out in enumerate((None, run.path.parent / "elsewhere"), 2):
        scores = evaluate(run.path, split="test", out=out)
        assert len(looks(run.access_log.files[0])) == len(looks(run.access_log.files[1])) == number
    count = run.access_log.count(scores["weights_digest"], scores["split_digest"])
    assert (count.by_model, count.runs, count.accesses) == (3, 1, 3)


def test_a_run_given_as_here_knows_its_name_and_its_root(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    evaluate(".", split="test")
    evaluate("best.safetensors", data="digits", split="test")
    assert [look.run for look in looks(run.path.parent / SHARED_ACCESS_LOG)] == ["run"] * 3
    assert not (run.path / SHARED_ACCESS_LOG).exists()


def test_a_model_file_without_a_run_has_its_ledger_beside_it(run: RunFolder, tmp_path: Path) -> None:
    alone = tmp_path / "models" / "pets.safetensors"
    alone.parent.mkdir()
    shutil.copy(run.best, alone)
    scores = evaluate(alone, data="digits", split="test")
    (look,) = looks(alone.parent / SHARED_ACCESS_LOG)
    assert (look.run, look.weights_digest) == (None, scores["weights_digest"])
    assert score.access_log_of(alone).count(scores["weights_digest"], scores["split_digest"]).runs == 1
    assert len(looks(run.access_log.files[0])) == 1


def test_final_test_never_keeps_a_run_away_from_the_test_split(tmp_path: Path) -> None:
    run = train(tmp_path / "sweep" / "run", final_test="never")
    assert run.is_scored
    resume.resume(run.path)
    assert not any(file.exists() for file in run.access_log.files)
    assert not run.evaluation("test").exists()
    assert not list((tmp_path / "sweep").glob("*.jsonl"))
    evaluate(run.path, split="test")  # unless someone asks
    assert len(looks(run.access_log.files[1])) == 1


class Untouchable:
    """A split whose images may be counted and named, but not looked at."""

    def __init__(self, split: Split) -> None:
        self.names, self.labels, self.digest = split.names, split.labels, split.digest
        self.contents, self.contents_digest = split.contents, split.contents_digest

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> Any:
        raise AssertionError("the test images were touched")


def test_training_selecting_and_validating_touch_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = build.open_dataset

    def sealed(*arguments: Any, **options: Any) -> Any:
        data = real(*arguments, **options)
        return dataclasses.replace(data, test=Untouchable(data.test))

    monkeypatch.setattr(build, "open_dataset", sealed)
    with pytest.raises(AssertionError, match="were touched"):
        train(tmp_path / "tested")
    run = train(tmp_path / "run", final_test="never")
    read, open_stored = [], saved_data.open_stored

    def recorded(images: Any, stored: Any, parts: Any, **options: Any) -> Any:
        read.append(tuple(parts))
        return open_stored(images, stored, parts, **options)

    monkeypatch.setattr(saved_data, "open_stored", recorded)
    evaluate(run.path, split="val")
    assert read == [("val",)]


def test_a_finished_run_that_is_resumed_looks_no_second_time(run: RunFolder) -> None:
    resume.resume(run.path)
    assert len(looks(run.access_log.files[0])) == 1


def test_a_run_stopped_while_scoring_has_not_looked_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = score.probabilities, []

    def stop_at_test(model: Any, batches: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            batches.stop.request("SIGTERM")
        return real(model, batches, *rest)

    monkeypatch.setattr(score, "probabilities", stop_at_test)
    with pytest.raises(Stopped, match="while scoring"):
        train(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert not run.access_log.files[0].exists()
    resume.resume(run.path)
    assert len(looks(run.access_log.files[0])) == 1


def test_a_ledger_that_cannot_be_written_is_told_and_does_not_keep_the_numbers_back(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    shared = run.access_log.files[1]
    shared.unlink()
    shared.mkdir()
    with caplog.at_level(logging.WARNING, "resnetlab"):
        assert evaluate(run.path, split="test") == run.final_metrics("test")
    assert f"{shared} could not be written: Is a directory" in caplog.text
    assert len(looks(run.access_log.files[0])) == 2


def test_the_look_is_written_before_any_number(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "write_evaluation", die)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run.path, split="test")
    assert len(looks(run.access_log.files[0])) == 2


def test_the_temperature_comes_from_validation_wherever_the_test_split_is_scored(run: RunFolder) -> None:
    val, test = run.final_metrics("val"), run.final_metrics("test")
    assert val is not None
    assert test is not None
    temperature = val["calibration"]["temperature"]
    assert temperature["split_digest"] == val["split_digest"]
    assert temperature == test["calibration"]["temperature"]
    assert test["calibration"]["after"] is not None
    assert evaluate(run.path, split="test") == test
    assert evaluate(run.best, data="digits", split="test") == test


def test_a_temperature_of_other_weights_or_other_views_is_not_used(run: RunFolder) -> None:
    flipped = evaluate(run.path, split="test", tta="flip")
    assert flipped["calibration"]["temperature"] is None
    evaluate(run.path, split="val", tta="flip")
    flipped = evaluate(run.path, split="test", tta="flip")
    assert flipped["calibration"]["temperature"] is not None
    val = run.final_metrics("val")
    assert val is not None
    (run.evaluation("val") / "metrics.json").write_text(json.dumps(val | {"weights_digest": "another"}))
    assert evaluate(run.path, split="test")["calibration"]["temperature"] is None


@pytest.mark.parametrize("calibration", [None, 3, [], {}, {"temperature": "hot"}])
def test_a_foreign_temperature_is_none(run: RunFolder, calibration: Any) -> None:
    val = run.final_metrics("val")
    assert val is not None
    (run.evaluation("val") / "metrics.json").write_text(json.dumps(val | {"calibration": calibration}))
    assert evaluate(run.path, split="test")["calibration"]["temperature"] is None


def test_numbers_after_the_temperature_are_those_of_the_saved_probabilities(run: RunFolder) -> None:
    scores = evaluate(run.path, split="test", all_probabilities=True)
    lines = (run.evaluation("test") / "predictions.csv").read_text().splitlines()
    table = [line.split(",") for line in lines[1:]]
    probabilities = np.array([[float(cell) for cell in row[4:]] for row in table])
    labels = np.array([int(row[1]) for row in table])
    value = scores["calibration"]["temperature"]["value"]
    assert scores["loss"] == losses(probabilities, labels).mean()
    assert scores["calibration"]["after"]["loss"] == losses(tempered(probabilities, value), labels).mean()


@pytest.mark.parametrize("tta", ["flip", "flip-shift"])
def test_augmented_scores_stand_beside_the_final_ones_and_say_what_they_are(run: RunFolder, tta: Any) -> None:
    before = run.final_metrics("test")
    scores = evaluate(run.path, split="test", tta=tta)
    assert scores["tta"] == tta
    assert scores["loss"] != before["loss"] if before else False
    assert run.final_metrics("test") == before
    assert run.final_metrics("test", tta) == scores
    assert run.evaluation("test", tta) == run.path / "evaluation" / f"test-{tta}"
    assert looks(run.access_log.files[0])[-1].tta == tta


def test_mirror_images_that_training_did_not_have_are_warned_of(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(run.path, tta="none")
    assert "mirror" not in caplog.text
    evaluate(run.path, tta="flip")
    assert "tta flip averages over mirror images, but the model was trained without them" in caplog.text
    model = read_model(run.best)
    for settings, expected in (
        ({"augment": {"flip": False}}, False), ({"augment": {"flip": True}}, True), ({"augment": []}, True), (7, True),
    ):  # fmt: skip
        provenance = {**model.provenance, "settings": settings}
        assert score.had_flips(dataclasses.replace(model, provenance=provenance)) is expected
