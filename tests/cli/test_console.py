"""The messages and the bar of a running command."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from resnetlab.cli.console import Console, ImagesPerSecond
from resnetlab.download import Progress
from resnetlab.evaluation.metrics import Score
from resnetlab.runs.find_lr import RateTried
from resnetlab.training.loop import EpochReport, StepDone

REPORT = EpochReport(1, 10, 0.1, 1.0, 0.5, Score(1.0, 0.5, 0.5), Score(1.0, 0.5, 0.5), 1.0, 100.0)


def test_console_without_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with Console() as console:
        console.print("a line")
        logging.getLogger("resnetlab.runs").warning("a warning")


def test_console_prints_the_messages_of_runs_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("resnetlab.runs")
    before = logger.level, logger.propagate, list(logger.handlers)
    with Console():
        logger.info("epoch 1 [bold]x[/bold]")
        logger.warning("the disk is full")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    assert capsys.readouterr().out == "epoch 1 [bold]x[/bold]\nwarning  the disk is full\n"


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_for_each_epoch_and_no_terminal_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stdout", terminal)
        with Console() as console:
            console.on_event(StepDone(0, 3, 10))
            assert console.bar is not None
            console.on_event(REPORT)
            assert console.bar is None
            console.on_event(RateTried(0.01, 2.3, 4, 20))
        assert console.bar is None
        assert ("epoch 1" in terminal.getvalue()) == is_shown
        assert ("learning rate 1.0e-02" in terminal.getvalue()) == is_shown


def test_a_terminal_shows_a_bar_for_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Console() as console:
        console.on_download(Progress("a.zip", 3_000_000, 8_000_000, 1_500_000.0))
        assert console.bar is not None
        task = console.bar.progress.tasks[0]
        assert (task.description, task.completed, task.total) == ("a.zip, 1.50 MB/s, MB", 3, 8)
        console.on_download(None)
        assert console.bar is None


def test_a_bar_on_stderr_leaves_stdout_to_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    results, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", results)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console(stderr=True) as console:
        for done in (0, 64, 128):
            console.show_bar("predicting", done, None if done == 0 else 1000, ImagesPerSecond())
            print("a result")
        logging.getLogger("resnetlab.runs").warning("a message")
    assert results.getvalue() == "a result\n" * 3
    assert "warning  a message" in terminal.getvalue()
    assert "128/1000" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()


def test_a_quiet_console_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(quiet=True) as console:
        console.print("a line")
        logging.getLogger("resnetlab.runs").info("a message")
    assert capsys.readouterr() == ("", "")
