"""TensorBoard shows what the epoch reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnetlab.runs.config import RunConfig
from resnetlab.runs.trackers.tensorboard import TensorBoardTracker, tag
from resnetlab.runs.trackers.tracker import TrackedRun, numbers


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "running_loss": 0.6, "train_loss": 0.5 / epoch} | {
        "val_loss": 0.7 / epoch,
        "val_macro_f1": 0.79,
        "train_seconds": 12.0,
        "images_per_second": 345.0,
        "left_out": 1,
    }


def opened(run: Path, step: int = 0) -> TensorBoardTracker:
    pytest.importorskip("tensorboard")
    return TensorBoardTracker(TrackedRun(run, RunConfig(epochs=1), (), step))


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads, as steps and values by tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_every_number_of_an_epoch_is_shown_at_its_step(tmp_path: Path) -> None:
    board = opened(tmp_path)
    for epoch in (1, 2):
        board.epoch(row(epoch))
        assert len(shown(tmp_path)["loss/val"]) == epoch, "it is on the disk when `epoch` returns"
    board.close("finished")
    names = [name for name in row(1) if name != "step"]
    found = shown(tmp_path)
    assert found.keys() == {tag(name) for name in names}
    for name in names:
        assert found[tag(name)] == [(10 * epoch, pytest.approx(numbers(row(epoch))[name])) for epoch in (1, 2)]


def test_a_resumed_run_shows_no_epoch_twice(tmp_path: Path) -> None:
    board = opened(tmp_path)
    for epoch in (1, 2, 3):
        board.epoch(row(epoch))
    board.close("stopped")
    board = opened(tmp_path, step=10)  # gone on with after epoch 1
    board.epoch(row(2))
    board.close("finished")
    assert [step for step, _ in shown(tmp_path)["loss/val"]] == [10, 20]
