"""Being asked to stop: signals and a time limit become a question that is answered where the state is whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

from resnetlab.errors import BadInput, Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
ECHO = 0.2  # seconds; a wrapper may pass on a Ctrl-C that the terminal has sent to us already
Item = TypeVar("Item")


class StopAsked(Exception):
    """Raised between two batches of an evaluation; whoever listens saves, and says how to go on."""


class Interrupted(KeyboardInterrupt):
    """Leave at once. Not KeyboardInterrupt itself: CPython remembers one that has passed through an `exec`.

    It then ends with SIGINT instead of the exit code, although the exception was caught.
    """


class StopRequest:
    """Whether someone wants the run to stop, and who."""

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not max_minutes >= 0:
            raise BadInput(f"the time limit is {max_minutes} minutes, but must not be negative")
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.signal: str | None = None

    @property
    def reason(self) -> str | None:
        """None, or what asked: the name of a signal, or the time limit."""
        if self.signal is None and self.deadline is not None and time.monotonic() >= self.deadline:
            return "the time limit"
        return self.signal

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Turn signals into a request. However often they come it is one, but a second Ctrl-C leaves at once."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        noted = 0.0

        def note(number: int, _frame: FrameType | None) -> None:
            nonlocal noted
            if self.signal is None:
                self.signal, noted = signal.Signals(number).name, time.monotonic()
            elif number == signal.SIGINT and time.monotonic() - noted > ECHO:
                raise Interrupted

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Watched(Generic[Item]):
    """The same items, as often as they are asked for; StopAsked between two of them if a stop has been requested."""

    items: Iterable[Item]
    stop: StopRequest

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            if self.stop.reason:
                raise StopAsked
            yield item


def is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def leave_on_sigterm() -> None:
    """Before a run listens, and outside of runs, let signals end the program at once and with our exit code."""

    def leave(number: int, frame: FrameType | None) -> None:
        told = f"stopped by {signal.Signals(number).name}"
        if is_importing(frame):  # nothing is being written, and some libraries abort, or recurse, when cut short here
            os.write(2, f"resnetlab: {told}\n".encode())
            os._exit(Stopped.exit_code)
        raise Interrupted(told)

    for number in SIGNALS:
        signal.signal(number, leave)


def ignore_signals() -> None:
    """All is done and told: a signal from here on would only make the interpreter stumble on its way out."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
