"""The end of a run completes its model file; an interruption leaves an intact file, and resume completes it."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from resnetlab.errors import BadInput, DiskTrouble, NonFinite, Stopped
from resnetlab.evaluation.selective import rejections_in
from resnetlab.inference.model_file import Model, read_model, save_model
from resnetlab.inference.predict import Classifier
from resnetlab.runs import completion, experiment, recipes, resume
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.score import evaluate
from resnetlab.runs.stop import StopRequest, StopRequested
from resnetlab.runtime import Runtime, reduced_precisions

pytestmark = pytest.mark.usefixtures("no_pictures")


def tiny(**changes: Any) -> RunConfig:
    base = {"model": {"name": "tiny"}, "epochs": 2, "batch_size": 64, "precision": "fp32", "license": "CC-BY-4.0"}
    return recipes.quickstart().changed(base | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "reduced_precisions", lambda _: {"bf16": torch.bfloat16})  # on any machine
        return experiment.train(tiny(), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(completion, "reduced_precisions", lambda _: {"bf16": torch.bfloat16})
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))


def scores(run: RunFolder, split: str) -> dict[str, Any]:
    found = run.final_metrics(split)
    assert found is not None
    return found


def as_of_an_older_version(run: RunFolder) -> Model:
    """Take away what older versions did not write, and return the model."""
    model = read_model(run.best)
    origin = {name: value for name, value in model.provenance.items() if name not in ("license", "settings")}
    save_model(run.best, model.network, model.classes, model.preprocessing, origin)
    for split in ("val", "test"):
        if (found := run.final_metrics(split)) is not None:
            del found["selective"]
            run.write(f"evaluation/{split}/metrics.json", found)
    return read_model(run.best)


def test_the_model_file_has_what_was_fitted_measured_and_scored(run: RunFolder) -> None:
    model, val, test = read_model(run.best), scores(run, "val"), scores(run, "test")
    found = model.validation
    assert found is not None
    assert found.temperature == val["calibration"]["temperature"]["value"] == val["selective"]["temperature"]
    assert (found.images, found.split_digest) == (val["images"], val["split_digest"])
    assert found.rejections == rejections_in(val["selective"]) == rejections_in(test["selective"])
    for score, metrics in zip(found.scores, (val, test), strict=True):
        assert (score.split, score.split_digest) == (metrics["split"], metrics["split_digest"])
        assert (score.accuracy, score.macro_f1, score.loss) == (
            *(metrics["accuracy"], metrics["macro"]["f1"], metrics["loss"]),
        )
        assert list(score.accuracy_interval or ()) == metrics["intervals"]["accuracy"]
    assert model.provenance["license"] == "CC-BY-4.0"
    assert model.provenance["settings"]["optim"] == run.config.optim.model_dump(mode="json")
    assert model.weights_digest == val["weights_digest"]
    assert "bf16 agrees with fp32 on" in run.log.read_text()


def test_the_agreement_is_counted_with_the_network_that_predicts(run: RunFolder) -> None:
    from resnetlab.data.datasets import open_dataset

    images = open_dataset("digits").val.images.numpy()
    model = read_model(run.best)
    fp32, bf16 = (
        Classifier(read_model(run.best), Runtime(torch.device("cpu"), precision)).logits(images).argmax(1)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert model.validation is not None
    assert model.validation.agreement == {"bf16": float((fp32 == bf16).double().mean())}


def test_an_output_that_is_not_finite_agrees_with_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object) -> None:
        raise NonFinite("the output is infinite")

    monkeypatch.setattr(Classifier, "logits", overflow)
    as_of_an_older_version(run)
    resume.resume(run.path)
    validation = read_model(run.best).validation
    assert validation is not None
    assert validation.agreement == {"bf16": 0}


def test_the_run_of_an_older_version_is_completed_and_keeps_its_scores(run: RunFolder) -> None:
    complete = read_model(run.best)
    older = as_of_an_older_version(run)
    assert older.validation is None
    before = {split: (run.evaluation(split) / "metrics.json").read_bytes() for split in ("val", "test")}
    accesses = run.access_log.count(older.weights_digest, scores(run, "test")["split_digest"]).accesses
    resume.resume(run.path)
    model = read_model(run.best)
    assert model.validation == complete.validation
    assert model.weights_digest == complete.weights_digest
    assert before == {split: (run.evaluation(split) / "metrics.json").read_bytes() for split in ("val", "test")}
    count = run.access_log.count(older.weights_digest, scores(run, "test")["split_digest"])
    assert count.accesses == accesses


@pytest.mark.parametrize("write", [1, 2])
def test_a_failure_while_the_file_is_completed_leaves_a_whole_one_and_resume_completes_it(
    write: int, trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "reduced_precisions", lambda _: {"bf16": torch.bfloat16})
    attempts = iter(range(1, 9))

    def failing(*arguments: Any, **named: Any) -> str:
        if next(attempts) == write:
            raise DiskTrouble("the disk is full")
        return save_model(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(completion, "save_model", failing)
        with pytest.raises(DiskTrouble):
            experiment.train(tiny(), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert not run.is_scored
    found = read_model(run.best)
    assert [score.split for score in (found.validation.scores if found.validation else ())] == ["val"][: write - 1]
    resume.resume(run.path)
    model, expected = read_model(run.best), read_model(trained.best)
    assert (model.validation, model.weights_digest) == (expected.validation, expected.weights_digest)


def test_a_stop_while_the_agreement_is_measured_is_resumed(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = read_model(run.best).validation
    as_of_an_older_version(run)

    def stopped(*_: object) -> None:
        raise StopRequested

    with monkeypatch.context() as patch:
        patch.setattr(completion, "agreement", stopped)
        stop = StopRequest()
        with pytest.raises(Stopped, match="while scoring; resume with"):
            resume.resume(run.path, stop=stop)
    assert read_model(run.best).validation is None
    resume.resume(run.path)
    assert read_model(run.best).validation == complete


def test_a_complete_file_is_not_written_again(run: RunFolder) -> None:
    before = run.best.read_bytes()
    resume.resume(run.path)
    assert run.best.read_bytes() == before


def test_the_licence_can_be_changed_later_and_the_weights_stay(run: RunFolder) -> None:
    before = read_model(run.best)
    resume.resume(run.path, changes={"license": "apache-2.0"})
    after = read_model(run.best)
    assert after.provenance == {**before.provenance, "license": "apache-2.0"}
    assert (after.weights_digest, after.validation) == (before.weights_digest, before.validation)


@pytest.mark.parametrize("license", ["", "a\nb", "x" * 101, "\x1b[2J"])
def test_a_licence_is_a_short_line(license: str) -> None:
    with pytest.raises(BadInput, match="license is"):
        tiny(license=license)


def test_a_new_best_epoch_gets_a_validation_of_its_own(run: RunFolder) -> None:
    before = read_model(run.best)
    resume.resume(run.path, changes={"epochs": 4})
    after = read_model(run.best)
    assert after.weights_digest != before.weights_digest
    assert after.validation is not None
    assert after.validation != before.validation
    assert [score.accuracy for score in after.validation.scores] == [
        scores(run, split)["accuracy"] for split in ("val", "test")
    ]


def test_the_score_of_a_later_test_is_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = experiment.train(tiny(epochs=1, final_test="never"), tmp_path / "run")
    before = read_model(run.best)
    assert before.validation is not None
    assert [score.split for score in before.validation.scores] == ["val"]
    evaluate(run.path, split="test", tta="flip")
    evaluate(run.path, split="test", out=tmp_path / "elsewhere")
    evaluate(run.path)
    assert read_model(run.best).validation == before.validation

    with caplog.at_level(logging.WARNING), run.claimed():
        evaluate(run.path, split="test")
    assert "the scores were not added to best.safetensors: " in caplog.text
    assert read_model(run.best).validation == before.validation
    evaluate(run.path, split="test")
    after = read_model(run.best)
    assert after.validation is not None
    assert [(score.split, score.accuracy) for score in after.validation.scores] == [
        (split, scores(run, split)["accuracy"]) for split in ("val", "test")
    ]
    assert dataclasses.replace(after.validation, scores=before.validation.scores) == before.validation
    assert after.weights_digest == before.weights_digest


def test_thresholds_of_validation_are_used_on_the_test_split(run: RunFolder) -> None:
    val, test = scores(run, "val"), scores(run, "test")
    assert rejections_in(test["selective"]) == rejections_in(val["selective"])
    with (run.evaluation("test") / "predictions.csv").open() as file:
        images = len(file.readlines()) - 1
    for row in test["selective"]["rejections"]:
        assert row["accepted"] == round(row["observed_coverage"] * images)


def test_on_a_cpu_the_precisions_besides_fp32_are_those_that_it_multiplies() -> None:
    assert set(reduced_precisions(torch.device("cpu"))) <= {"bf16"}
    assert reduced_precisions(torch.device("mps")) == {}
