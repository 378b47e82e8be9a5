"""Request to stop a run, made by a thread, a signal handler or a time limit; a run stops between two steps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Generic, Self, TypeVar

from resnetlab.errors import BadInput, printable

Item = TypeVar("Item")


class StopRequested(Exception):
    """Raised between two batches, with the reason; the run writes a checkpoint and ends with `Stopped`."""


class StopRequest:
    """A request to stop a run, and its reason. `request` may be called from any thread.

    >>> stop = StopRequest()
    >>> stop.reason
    >>> stop.request("the user")
    >>> stop.reason
    'the user'
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.requested: str | None = None
        self.deadline: float | None = None  # on the clock of time.monotonic()
        self.is_watched = False
        self.limit(max_minutes)

    @classmethod
    def within(cls, max_minutes: float | None, stop: Self | None = None) -> Self:
        """Return `stop`, or a new request, with a time limit. Raises BadInput if `max_minutes` is negative."""
        if stop is None:
            return cls(max_minutes)
        stop.limit(max_minutes)
        return stop

    def limit(self, minutes: float | None) -> None:
        """Set a time limit from now; an earlier one stays. Raises BadInput for a negative one."""
        if minutes is None:
            return
        if isinstance(minutes, bool) or not isinstance(minutes, Real):
            raise BadInput(f"max_minutes is {printable(repr(minutes))[:60]}, but must be a number")
        if not minutes >= 0:
            raise BadInput(f"the time limit is {minutes} minutes, but must not be negative")
        deadline = time.monotonic() + 60 * minutes
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def request(self, reason: str = "a request") -> None:
        """Ask the run to stop; the first reason is kept."""
        self.requested = self.requested or reason

    @property
    def reason(self) -> str | None:
        """The reason to stop: a given one, or "the time limit"; None without a request."""
        if self.requested is None and self.deadline is not None and time.monotonic() >= self.deadline:
            return "the time limit"
        return self.requested

    def watch(self) -> None:
        """Mark that a run checks for the request from now on; a signal no longer ends the program at once.

        The mark stays until the end: a signal after the last check must not turn a finished run into a stopped one.
        """
        self.is_watched = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Mark a stretch after which the request is checked; before and after it, a signal ends the program at once."""
        before, self.is_watched = self.is_watched, True
        try:
            yield
        finally:
            self.is_watched = before


@dataclass(frozen=True)
class Interruptible(Generic[Item]):
    """The same items, any number of times; iteration raises StopRequested after a request to stop."""

    items: Iterable[Item]
    stop: StopRequest

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            if self.stop.reason:
                raise StopRequested(self.stop.reason)
            yield item
