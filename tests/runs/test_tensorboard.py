"""What TensorBoard is given is what the epoch reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.evaluation.metrics import Score
from resnetlab.runs.tensorboard import TensorBoardWriter, scalars
from resnetlab.training.loop import EpochReport

pytestmark = pytest.mark.usefixtures("no_pictures")


def report(epoch: int) -> EpochReport:
    train, val = Score(0.5 / epoch, 0.9, 0.89), Score(0.7 / epoch, 0.8, 0.79)
    return EpochReport(epoch, 10 * epoch, 0.1, 0.6, 0.85, train, val, 12.0, 345.0, left_out=1)


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads, as steps and values by tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_of_an_epoch_is_shown_at_its_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardWriter(tmp_path) as board:
        for epoch in (1, 2):
            board.write(report(epoch))
            assert len(shown(tmp_path)["loss/val"]) == epoch, "it is on the disk when `write` returns"
    found = shown(tmp_path)
    assert set(found) == dict(scalars(report(1))).keys()
    for tag, events in found.items():
        assert events == [(10 * epoch, pytest.approx(dict(scalars(report(epoch)))[tag])) for epoch in (1, 2)]


def test_a_resumed_run_shows_no_epoch_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardWriter(tmp_path) as board:
        for epoch in (1, 2, 3):
            board.write(report(epoch))
    with TensorBoardWriter(tmp_path, purge_step=11) as board:  # gone on with after epoch 1, whose last step was 10
        board.write(report(2))
    assert [step for step, _ in shown(tmp_path)["loss/val"]] == [10, 20]


def test_what_the_disk_refuses_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(DiskTrouble, match="could not write"):
        TensorBoardWriter(tmp_path)


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(BadInput, match=r"resnetlab\[tensorboard\]"):
        TensorBoardWriter(tmp_path)


def test_training_and_validation_share_a_chart() -> None:
    tags = [tag for tag, _ in scalars(report(1))]
    assert len(set(tags)) == len(tags)
    assert {"loss/train", "loss/val", "loss/running", "accuracy/val", "macro_f1/val", "optim/lr"} <= set(tags)


def test_a_run_with_tensorboard_leaves_its_epochs_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from resnetlab.runs import recipes
    from resnetlab.runs.experiment import train

    config = recipes.quickstart().changed({"tensorboard": True, "epochs": 1, "model": {"name": "tiny"}})
    run = train(config, tmp_path / "run")
    assert [step for step, _ in shown(run.path)["loss/val"]] == [run.rows[-1]["step"]]


def test_without_the_package_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnetlab.runs import recipes
    from resnetlab.runs.experiment import train

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install"):
        train(recipes.quickstart().changed({"tensorboard": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
