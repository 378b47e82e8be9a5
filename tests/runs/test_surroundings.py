"""Training as a library: in threads, beside other processes, without stdout; and what is left if it cannot begin."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import sklearn.metrics  # noqa: F401 - scipy adds warnings filters when it is first imported
import torch

import resnetlab
from resnetlab.cli.signals import SIGNALS
from resnetlab.errors import BadInput, Stopped
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder, claim_next
from resnetlab.runs.stop import StopRequest

pytestmark = pytest.mark.usefixtures("no_pictures")


def tiny(**changes: Any) -> RunConfig:
    base = {"model": {"name": "tiny"}, "steps": 2, "batch_size": 128, "precision": "fp32", "final_test": "never"}
    return recipes.quickstart().changed(base | changes)


def in_thread(work: Any) -> Any:
    """What a function returns, or raises, in a thread of its own."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(120)
    assert outcome
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def test_train_works_in_a_thread_prints_nothing_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    resnetlab.train(tiny(), tmp_path / "first")  # imports scipy, which adds warnings filters of its own
    caplog.clear()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    before = (warnings.filters[:], torch.get_default_dtype(), torch.get_num_threads(), list(logging.root.handlers))
    with caplog.at_level(logging.INFO, "resnetlab"):
        run = in_thread(lambda: resnetlab.train(tiny(), tmp_path / "run"))
    assert capfd.readouterr() == ("", "")
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    after = (warnings.filters[:], torch.get_default_dtype(), torch.get_num_threads(), list(logging.root.handlers))
    assert after == before
    lines = run.log.read_text().splitlines()
    assert [record.getMessage() for record in caplog.records if record.name == "resnetlab.runs"] == lines
    assert any(line.startswith("epoch 1/1") for line in lines)


def test_two_threads_train_at_once_and_each_run_has_its_own_log(tmp_path: Path) -> None:
    alone = resnetlab.train(tiny(), tmp_path / "alone")
    runs: list[RunFolder] = []
    threads = [
        threading.Thread(target=lambda name=name: runs.append(resnetlab.train(tiny(), tmp_path / name)))
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(runs) == 2
    for run in runs:
        assert len(run.log.read_text().splitlines()) == len(alone.log.read_text().splitlines())
        assert run.final_metrics("val") == alone.final_metrics("val")


def test_another_thread_stops_a_run(tmp_path: Path) -> None:
    stop = StopRequest()
    timer = threading.Timer(0.5, stop.request, ["the other thread"])
    timer.start()
    with pytest.raises(Stopped, match="stopped by the other thread at step"):
        resnetlab.train(tiny(steps=None, epochs=500), tmp_path / "run", stop=stop)


@pytest.mark.parametrize("minutes", [-1, float("nan")])
def test_a_time_limit_must_not_be_negative(minutes: float) -> None:
    with pytest.raises(BadInput, match="must not be negative"):
        StopRequest(minutes)


def test_the_earlier_of_two_time_limits_holds() -> None:
    stop = StopRequest.within(0)
    assert StopRequest.within(10, stop) is stop
    assert stop.reason == "the time limit"


def test_many_claims_at_once_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart-007").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart-extra").mkdir()
    claimed: list[Path] = []
    begin = threading.Barrier(8)

    def claim() -> None:
        begin.wait()
        claimed.append(claim_next("quickstart"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in claimed) == [f"quickstart-{number:03d}" for number in range(8, 16)]


def test_images_too_small_for_the_network_are_refused_before_anything_is_written(command: Any, tmp_path: Path) -> None:
    said = command.refuse("train", "--model", "fast_resnet8", "--steps", 2, "--out", "r")
    assert (
        "images of 8x8 px are too small for fast_resnet8: it needs 10 px or more; set --data.image-size to 16" in said
    )
    assert "too small for fast_resnet8" in command.refuse("find-lr", "--model", "fast_resnet8")
    sizes = ("--augment.sizes", "0.25", "1")
    said = command.refuse("train", "--model", "fast_resnet8", "--data.image-size", 16, *sizes)
    assert "images of 4x4 px, the smallest of --augment.sizes, are too small" in said
    assert not list(tmp_path.iterdir())


def test_what_an_older_run_folder_has_is_read(tmp_path: Path) -> None:
    """`extended_at` was a setting, and metrics.jsonl was written anew after each epoch."""
    run = resnetlab.train(tiny(steps=None, epochs=1), tmp_path / "run")
    resnetlab.resume(run.path, changes={"epochs": 2})
    (run.path / "extensions.json").unlink()
    config = run.read_json("config.json")
    (run.path / "config.json").write_text(json.dumps(config | {"extended_at": [10]}, indent=2))
    older = RunFolder.open(run.path)
    assert (older.extended_at, older.config.epochs) == ((10,), 2)
    resnetlab.resume(run.path, changes={"epochs": 3})
    assert RunFolder.open(run.path).extended_at == (10, 20)
    assert [row["epoch"] for row in run.rows] == [1, 2, 3]
    assert RunConfig.model_validate(config | {"extended_at": [10]}) == older.config


@pytest.mark.parametrize("content", ['{"extended_at": 3}', '{"extended_at": ["x"]}', "[]", "{"])
def test_damaged_extensions_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny().to_json()))
    (tmp_path / "extensions.json").write_text(content)
    with pytest.raises(BadInput, match=r"extensions\.json"):
        print(RunFolder.open(tmp_path).extended_at)


def test_listing_runs_imports_no_torch(tmp_path: Path) -> None:
    resnetlab.train(tiny(model={"name": "resnet20"}), tmp_path / "runs" / "one")
    program = """
import sys
from resnetlab.cli.main import main
code = main(["runs", sys.argv[1]])
assert not sys.modules.keys() & {"torch", "torchvision", "sklearn", "matplotlib"}
sys.exit(code)
"""
    words = [sys.executable, "-c", program, str(tmp_path / "runs")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "resnet20" in done.stdout


def test_runs_are_compared_and_reported_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnetlab.report import write  # the package of the same name stays one

    one, other = (resnetlab.train(tiny(seed=seed), tmp_path / f"seed-{seed}") for seed in (0, 1))
    comparison = resnetlab.compare([str(one.path), other.path], split="val")
    assert {run.name for run in comparison.runs} == {"seed-0", "seed-1"}
    monkeypatch.setattr(write, "build", lambda facts: f"a report on {facts.run.path}")  # tests/report look at pages
    page = resnetlab.report(str(one.path))
    assert page == one.path / "report.html"
    assert "report" in page.read_text()
    assert write.write_report(one.path, tmp_path / "page.html").exists()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_computed_whatever_the_mode_of_the_caller(mode: Any, tmp_path: Path) -> None:
    config = tiny(steps=None, epochs=1)
    alone = resnetlab.train(config, tmp_path / "alone")
    rates = resnetlab.find_lr(config, tries=10)
    with mode():
        run = resnetlab.train(config, tmp_path / "run")
        assert resnetlab.find_lr(config, tries=10) == rates
        assert not torch.is_grad_enabled()
    assert run.final_metrics("val") == alone.final_metrics("val")
    for changed in (alone, run):
        with mode() if changed is run else torch.enable_grad():
            resnetlab.resume(changed, changes={"epochs": 2})
    assert run.rows[1]["val_loss"] == alone.rows[1]["val_loss"] != run.rows[0]["val_loss"]
    with mode():
        assert resnetlab.evaluate(run)["loss"] == resnetlab.evaluate(alone)["loss"]
        assert resnetlab.explain(run, np.zeros((8, 8), np.uint8), similar=0).classes[0].grad_cam.shape == (8, 8)


def test_numpys_errors_may_be_exceptions_for_the_caller(tmp_path: Path) -> None:
    alone = resnetlab.train(tiny(), tmp_path / "alone")
    with np.errstate(all="raise"):
        run = resnetlab.train(tiny(), tmp_path / "run")
        assert np.geterr()["under"] == "raise"
    assert run.final_metrics("val") == alone.final_metrics("val")


def test_the_default_dtype_of_the_caller_does_not_matter(tmp_path: Path) -> None:
    shapes = {"resized_crop": 0.5, "rotation": 10, "policy": "trivial", "sizes": (0.75, 1)}
    augment = {"crop": 1, "flip": True, "mixup": 0.2, "brightness": 0.2, "erasing": 0.5, "cutout": 2, **shapes}
    config = tiny(augment=augment, optim={"name": "muon"}, steps=None, epochs=1)
    alone = resnetlab.train(config, tmp_path / "alone")
    torch.set_default_dtype(torch.float64)
    try:
        run = resnetlab.train(config, tmp_path / "run")
    finally:
        torch.set_default_dtype(torch.float32)
    assert run.final_metrics("val") == alone.final_metrics("val")
    for changed in (alone, run):  # the checkpoint is that of any other run
        resnetlab.resume(changed, changes={"epochs": 2})
    assert run.rows[1]["val_loss"] == alone.rows[1]["val_loss"]


def test_data_may_be_a_path_and_what_is_none_is_refused(tmp_path: Path) -> None:
    run, image = resnetlab.train(tiny(), tmp_path / "run"), np.zeros((8, 8), np.uint8)
    for call in (lambda data: resnetlab.evaluate(run, data), lambda data: resnetlab.explain(run, image, data=data)):
        with pytest.raises(BadInput, match="data is 3, but must be the path"):
            call(3)
        with pytest.raises(BadInput, match="photos"):
            call(tmp_path / "photos")
