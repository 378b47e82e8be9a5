"""Run a script written for CUDA on the CPU: half precision, and events that record their times."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn


class Moment(NamedTuple):
    """Seconds of wall-clock time, and of processor time, which other processes do not affect."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.perf_counter(), time.process_time())


class Clock:
    """Records the peer's timings and the times of its batches."""

    def __init__(self) -> None:
        self.spans: list[Moment] = []  # whitening, each epoch, the scores with test-time augmentation
        self.epochs: list[list[Moment]] = []  # when it began, when each batch was ready, when it ended

    def event(self, **_: object) -> Event:
        """Replacement of torch.cuda.Event."""
        return Event(self)

    def watched(self, iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
        """Wrap a loader's `__iter__` to record the times of its batches."""

        def batches(loader: Any) -> Iterator[Any]:
            moments = [Moment.now()]
            self.epochs.append(moments)
            try:
                for batch in iterate(loader):
                    moments.append(Moment.now())
                    yield batch
            finally:  # the peer leaves the last epoch early
                moments.append(Moment.now())

        return batches

    def steps(self) -> list[Moment]:
        """Time of each step, with the next batch."""
        return [since(*pair) for moments in self.epochs for pair in pairwise(moments[1:])]


class Event:
    """A point in time with the interface of a CUDA event."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.at = clock, Moment(0.0, 0.0)

    def record(self) -> None:
        self.at = Moment.now()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds; the clock records them."""
        self.clock.spans.append(since(self.at, end.at))
        return 1e3 * self.clock.spans[-1].wall


def since(begin: Moment, end: Moment) -> Moment:
    return Moment(end.wall - begin.wall, end.cpu - begin.cpu)


@contextlib.contextmanager
def cpu_for_cuda(clock: Clock, weights: torch.dtype, *, compiled: bool) -> Iterator[None]:
    """Redirect CUDA calls to the CPU; half precision becomes `weights` for a network, bfloat16 otherwise."""
    load, compiler = torch.load, torch.compile

    def uncompiled(given: Any = None, **_: Any) -> Any:
        return given if given is not None else uncompiled

    answers: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch.Tensor, "cuda", lambda tensor: tensor),
        (torch.Tensor, "half", torch.Tensor.bfloat16),
        (nn.Module, "cuda", lambda module: module),
        (nn.Module, "half", lambda module: module.to(weights)),
        (torch.cuda, "Event", clock.event),
        (torch.cuda, "synchronize", lambda: None),
        (torch, "load", lambda file, **_: load(file, map_location="cpu")),
        (torch, "compile", compiler if compiled else uncompiled),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer))
        yield
