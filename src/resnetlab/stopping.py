"""Being asked to stop: signals and a time limit become a question that is answered between two steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from resnetlab.errors import BadInput

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
