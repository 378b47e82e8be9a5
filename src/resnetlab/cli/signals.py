"""Signals: a request to stop while a run checks for it, otherwise the end of the program with exit code 6."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from resnetlab.errors import Stopped
from resnetlab.runs.stop import StopRequest

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
ECHO = 0.2  # seconds; a wrapper may pass on a Ctrl-C that the terminal has already sent to us


class Interrupted(KeyboardInterrupt):
    """Ends the program at once with its exit code.

    With KeyboardInterrupt itself CPython would end with SIGINT instead of the exit code, even after the exception was
    caught, if it passed through an `exec`.
    """


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a stop request that signals set as soon as a run checks it; until then, signals end the program.

    Repeated signals are one request, but a second Ctrl-C ends the program at once. The previous handlers are restored
    at the end, except for `leave` after a run: nothing is left that a signal could stop.
    """
    stop = StopRequest()
    requested_at = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if not stop.is_watched:
            leave(number, frame)
        elif stop.requested is None:
            requested_at = time.monotonic()
            stop.request(signal.Signals(number).name)
        elif number == signal.SIGINT and time.monotonic() - requested_at > ECHO:
            raise Interrupted

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stop.is_watched and handler is leave else handler)


def leave(number: int, frame: FrameType | None) -> None:
    """End the program with exit code 6 and a sentence."""
    message = f"stopped by {signal.Signals(number).name}"
    if is_importing(frame):  # no file is being written, and some libraries abort or recurse if interrupted here
        os.write(2, f"resnetlab: {message}\n".encode())
        os._exit(Stopped.exit_code)
    raise Interrupted(message)


def leave_on_signals() -> None:
    """Let signals end the program at once with its exit code, until a run checks for them."""
    for number in SIGNALS:
        signal.signal(number, leave)


def ignore_signals() -> None:
    """Ignore signals from now on: everything is done, and the interpreter is about to exit."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
