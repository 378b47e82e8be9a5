"""The output of a running command: the messages of the library, and on a terminal a live bar below them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnetlab.errors import printable
from resnetlab.runs.log import LOGGER, Lines

if TYPE_CHECKING:
    from resnetlab.runs.find_lr import RateTried
    from resnetlab.training.loop import EpochReport, StepDone


class Console(logging.Handler):
    """Prints the messages of runs on stdout while it is entered, and shows the events of their loops as a bar.

    Rich markup in a message is printed as it is. With `quiet` nothing is printed.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(Lines())
        self.console = RichConsole(highlight=False, markup=False, soft_wrap=True, quiet=quiet)
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        self.before = LOGGER.level, LOGGER.propagate
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False  # printed here, and not on stderr as well
        LOGGER.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOGGER.removeHandler(self)
        level, LOGGER.propagate = self.before
        LOGGER.setLevel(level)
        self.hide_bar()

    def emit(self, record: logging.LogRecord) -> None:
        self.print(self.format(record))

    def print(self, line: str) -> None:
        """Print a line. If its reader has gone, or the disk behind stdout is full, nothing is printed from then on."""
        try:
            self.console.print(printable(line))
            if not self.console.is_terminal and sys.stdout is not None:  # None: it was closed before the program began
                sys.stdout.flush()  # someone may be following a pipe or a file
        except (OSError, SystemExit):  # rich leaves the program when its reader has gone
            self.console.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again

    def on_event(self, event: StepDone | EpochReport | RateTried) -> None:
        """Show how far the loop has come; the bar of an epoch goes when the epoch is reported."""
        from resnetlab.runs.find_lr import RateTried  # imports torch
        from resnetlab.training.loop import StepDone

        if isinstance(event, StepDone):
            self.show_bar(f"epoch {event.epoch + 1}", event.batch, event.batches)
        elif isinstance(event, RateTried):
            self.show_bar(f"learning rate {event.rate:.1e}", event.step, event.steps)
        else:
            self.hide_bar()

    def show_bar(self, description: str, done: int, total: int) -> None:
        self.bar = self.bar or Bar(self.console)
        self.bar.show(description, done, total)

    def hide_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Bar:
    """A bar for a number of steps; nothing is drawn where stdout is no terminal."""

    def __init__(self, console: RichConsole) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("", total=None)
        self.progress.start()

    def show(self, description: str, done: int, total: int) -> None:
        self.progress.update(self.task, description=description, completed=done, total=total)

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # the reader of a terminal may have gone, too
            self.progress.stop()
