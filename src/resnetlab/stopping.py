"""Being asked to stop: signals and a time limit become a question that is answered where the state is whole."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

from resnetlab.errors import BadInput, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
Item = TypeVar("Item")


class StopAsked(Exception):
    """Raised between two batches of an evaluation; whoever listens saves, and says how to go on."""


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
        """Turn the first signal into a request; a second one does what it always did, at once."""
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, _frame: FrameType | None) -> None:
            self.signal = signal.Signals(number).name
            for one, handler in before.items():
                signal.signal(one, handler)

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


def leave_on_sigterm() -> None:
    """Before a run listens, and outside of runs, let SIGTERM and SIGUSR1 end the program as cleanly as Ctrl-C."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name} before anything was begun")

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
