"""The record of the epochs: appended, whole after every interruption, and trimmed to the checkpoint on resume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from resnetlab.errors import Damaged, DiskTrouble
from resnetlab.evaluation.metrics import Score
from resnetlab.runs.history import COLUMNS, History, read_rows
from resnetlab.training.loop import EpochReport


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, 10 * epoch, 0.1, 1.5, 0.5, Score(1.0, 0.6, 0.6), Score(1.2, 0.5, 0.4), 2.0, 100.0)


def filled(folder: Path, epochs: int) -> History:
    history = History(folder)
    for epoch in range(1, epochs + 1):
        history.add(report(epoch))
        history.write()
    return history


def test_epochs_are_appended_and_nothing_before_them_is_written_again(tmp_path: Path) -> None:
    history = filled(tmp_path, 2)
    files = [tmp_path / "metrics.jsonl", tmp_path / "metrics.csv"]
    before = [(file.stat().st_ino, file.read_bytes()) for file in files]
    history.add(report(3))
    history.write()
    for file, (inode, content) in zip(files, before, strict=True):
        assert file.stat().st_ino == inode
        assert file.read_bytes().startswith(content)
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1, 2, 3]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]


def test_reopening_keeps_what_the_checkpoint_has(tmp_path: Path) -> None:
    whole = filled(tmp_path / made(tmp_path / "whole"), 4)
    other = filled(tmp_path / made(tmp_path / "other"), 4)
    assert other.rows == whole.rows
    reopened = History.reopened(tmp_path / "other", 2)
    assert [row["epoch"] for row in read_rows(tmp_path / "other")] == [1, 2]
    for epoch in (3, 4):
        reopened.add(report(epoch))
        reopened.write()
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("torn", ["x", '{"epoch": 3', "3,30,"])
def test_a_torn_last_line_is_no_epoch_and_goes_on_resume(torn: str, tmp_path: Path) -> None:
    filled(tmp_path, 2)
    whole = {name: (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")}
    for name in whole:
        with (tmp_path / name).open("a") as file:
            file.write(torn)
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1, 2]
    History.reopened(tmp_path, 2)
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole


def test_what_the_disk_refused_is_written_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = filled(made(tmp_path / "twin"), 3)
    history, calls = filled(made(tmp_path / "run"), 1), []
    real = os.fsync

    def refuse(descriptor: int) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    for epoch in (2, 3):
        history.add(report(epoch))
        with pytest.raises(DiskTrouble, match=r"could not write .*metrics\.(jsonl|csv): No space left"):
            history.write()
    history.write()
    assert history.rows == twin.rows
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "twin" / name).read_bytes()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("")])
def test_a_file_that_was_removed_or_cut_is_written_anew(spoil: Any, tmp_path: Path) -> None:
    history = filled(tmp_path, 2)
    spoil(tmp_path / "metrics.jsonl")
    history.add(report(3))
    history.write()
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("content", ["{\n", "3\n", "[]\n", '{"a": 1}\n', "\xff\xfe\n"])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(Damaged, match=r"could not read .*metrics\.jsonl"):
        read_rows(tmp_path)
