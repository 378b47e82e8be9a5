"""Output of a running command: the messages of the library and, on a terminal, a progress bar."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from resnetlab import download
from resnetlab.cli.words import in_flags
from resnetlab.errors import printable
from resnetlab.runs.log import LOGGER, Lines

if TYPE_CHECKING:
    from resnetlab.runs.find_lr import RateTried
    from resnetlab.training.loop import EpochReport, StepDone


class Console(logging.Handler):
    """Context manager that prints the messages of runs on stdout and shows the events of their loops as a bar.

    Rich markup in a message is printed as it is. With `quiet` nothing is printed. With `stderr`, messages and bar are
    on stderr.
    """

    def __init__(self, *, quiet: bool = False, stderr: bool = False) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(Lines())
        self.stderr = stderr
        self.console = RichConsole(highlight=False, markup=False, soft_wrap=True, quiet=quiet, stderr=stderr)
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        self.before = LOGGER.level, LOGGER.propagate
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False  # printed here, and not on stderr as well
        LOGGER.addHandler(self)
        self.watching = contextlib.ExitStack()
        self.watching.enter_context(download.watched_by(self.on_download))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watching.close()
        LOGGER.removeHandler(self)
        level, LOGGER.propagate = self.before
        LOGGER.setLevel(level)
        self.hide_bar()

    def emit(self, record: logging.LogRecord) -> None:
        self.print(in_flags(self.format(record)))

    def print(self, line: str) -> None:
        """Print a line. If the stream is a closed pipe or a full disk, nothing is printed from then on."""
        stream = sys.stderr if self.stderr else sys.stdout
        try:
            self.console.print(printable(line))
            if not self.console.is_terminal and stream is not None:  # None: it was closed before the program began
                stream.flush()  # a pipe or file may be read while the run continues
        except (OSError, SystemExit):  # rich raises SystemExit for a closed pipe
            self.console.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or the flush at exit would fail again

    def on_event(self, event: StepDone | EpochReport | RateTried) -> None:
        """Show the progress of the loop; the bar of an epoch is removed when the epoch is reported."""
        from resnetlab.runs.find_lr import RateTried  # imports torch
        from resnetlab.training.loop import StepDone

        if isinstance(event, StepDone):
            self.show_bar(f"epoch {event.epoch + 1}", event.batch, event.batches)
        elif isinstance(event, RateTried):
            self.show_bar(f"learning rate {event.rate:.1e}", event.step, event.steps)
        else:
            self.hide_bar()

    def on_download(self, progress: download.Progress | None) -> None:
        """Show how much of a file has arrived, in MB; the bar is removed at the end."""
        if progress is None:
            self.hide_bar()
            return
        speed = f"{progress.bytes_per_second / 1e6:.2f} MB/s"
        total = None if progress.total is None else round(progress.total / 1e6)
        self.show_bar(f"{printable(progress.name)}, {speed}, MB", round(progress.received / 1e6), total)

    def show_bar(self, description: str, done: int, total: int | None, *columns: ProgressColumn) -> None:
        """Show how much is done of a total, which may be unknown; `columns` are further columns of a new bar."""
        self.bar = self.bar or Bar(self.console, *columns)
        self.bar.show(description, done, total)

    def hide_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class ImagesPerSecond(ProgressColumn):
    """A column with the speed."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


class Bar:
    """A progress bar; nothing is drawn if the stream of the console is not a terminal."""

    def __init__(self, console: RichConsole, *more: ProgressColumn) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            *more,
        )
        self.progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=not console.stderr,  # the results on stdout must not be written to stderr
        )
        self.task = self.progress.add_task("", total=None)
        self.progress.start()

    def show(self, description: str, done: int, total: int | None) -> None:
        self.progress.update(self.task, description=description, completed=done, total=total)

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be closed
            self.progress.stop()
