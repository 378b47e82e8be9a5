"""What a run says while it runs: plain lines, and on a terminal a live bar below them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnetlab.errors import printable


class Voice:
    """Says lines on stdout, and from `keep` on also writes them to a run's log. Markup in names is never obeyed."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(highlight=False, markup=False, soft_wrap=True, quiet=quiet)
        self.log: Path | None = None

    def say(self, line: str) -> None:
        line = printable(line)
        self.show(line)
        if self.log is not None:
            try:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:  # a full disk is told of by whoever needs it; the log goes without
                self.console.print(f"warning  {printable(self.log)} could not be written: {error.strerror}")
                self.log = None

    def show(self, line: str) -> None:
        """Print a line. Whoever was reading may have gone, or the disk be full that stdout goes to: we work on."""
        try:
            self.console.print(line)
            if not self.console.is_terminal:
                sys.stdout.flush()  # someone may be following a pipe or a file
        except (OSError, SystemExit):  # rich leaves the program when its reader has gone
            self.console.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush of all would fail again

    def keep(self, log: Path) -> None:
        self.log = log

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        """A bar for the steps of an epoch; nothing at all where stdout is no terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            yield Bar(progress)


class Bar:
    """The bar of the current epoch."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=None)

    def show(self, description: str, done: int, total: int) -> None:
        self.progress.update(self.task, description=description, completed=done, total=total)
