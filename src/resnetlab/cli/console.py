"""Output of a running command: the messages of the library and, on a terminal, a progress bar."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnetlab.cli.words import in_flags
from resnetlab.errors import printable
from resnetlab.runs.log import LOGGER, Lines

if TYPE_CHECKING:
    from resnetlab.runs.find_lr import RateTried
    from resnetlab.training.loop import EpochReport, StepDone


class Console(logging.Handler):
    """Context manager that prints the messages of runs on stdout and shows the events of their loops as a bar.

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
        self.print(in_flags(self.format(record)))

    def print(self, line: str) -> None:
        """Print a line. If stdout is a closed pipe or a full disk, nothing is printed from then on."""
        try:
            self.console.print(printable(line))
            if not self.console.is_terminal and sys.stdout is not None:  # None: it was closed before the program began
                sys.stdout.flush()  # a pipe or file may be read while the run continues
        except (OSError, SystemExit):  # rich raises SystemExit for a closed pipe
            self.console.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again

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

    def show_bar(self, description: str, done: int, total: int) -> None:
        self.bar = self.bar or Bar(self.console)
        self.bar.show(description, done, total)

    def hide_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Bar:
    """A progress bar; nothing is drawn if stdout is not a terminal."""

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
        with contextlib.suppress(OSError):  # the terminal may be closed
            self.progress.stop()
