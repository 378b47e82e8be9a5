"""One session of a run: record, log and report the events of the loop until training ends or is asked to stop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from resnetlab.errors import NonFinite, Stopped
from resnetlab.runs.build import Training
from resnetlab.runs.log import RunLog
from resnetlab.runs.messages import epoch_line
from resnetlab.runs.stop import Interruptible, StopRequest, StopRequested
from resnetlab.runs.trackers.tracking import Tracking
from resnetlab.runs.writer import MemoryWriter
from resnetlab.training.loop import Batches, EpochReport, StepDone
from resnetlab.training.selection import best_epoch

Event: TypeAlias = StepDone | EpochReport
OnEvent: TypeAlias = Callable[[Event], object]


@dataclasses.dataclass
class Session:
    """Records the events that `training.loop.fit` yields:

        with session.running() as batches:
            for event in fit(state, batches, plan, runtime):
                session.keep(event)

    `on_event` is called with each event, in the thread that trains.
    """

    training: Training
    writer: MemoryWriter
    log: RunLog
    stop: StopRequest
    on_event: OnEvent | None = None
    resume_hint: str = ""
    draw: Callable[[], object] = lambda: None  # the curves, if they are old
    tracking: Tracking = dataclasses.field(default_factory=Tracking)

    def keep(self, event: Event) -> None:
        """Record an event of the loop, and write a checkpoint when one is due. Raises StopRequested if asked to stop.

        Raises DiskTrouble and NonFinite as `CheckpointWriter.commit` does. An error or a request to stop in one of
        several processes is raised in all of them, at the same step.
        """
        with self.training.runtime.processes.together():
            self.record(event)

    def record(self, event: Event) -> None:
        """Record an event in this process."""
        if isinstance(event, EpochReport):
            self.keep_epoch(event)
        if self.on_event is not None:
            self.on_event(event)
        if self.stop.reason:
            raise StopRequested(self.stop.reason)
        if self.writer.is_due():
            self.writer.commit()

    def keep_epoch(self, report: EpochReport) -> None:
        state, plan = self.training.state, self.training.plan
        is_best = best_epoch(state.scores, plan.criterion) == report.epoch - 1
        self.writer.keep_epoch(report, is_best=is_best)
        self.tracking.epoch(self.writer.history.rows[-1])
        epochs = math.ceil(plan.steps / len(self.training.batches.train))
        self.log.info(epoch_line(report, epochs, is_best=is_best))
        self.writer.attempt(self.draw)

    @contextmanager
    def running(self) -> Iterator[Batches]:
        """Yield the batches to train on, whose evaluation batches also react to a request to stop.

        Raises Stopped after writing a checkpoint, or NonFinite with the name of the last checkpoint.
        """
        state, plan, batches = self.training.state, self.training.plan, self.training.batches
        processes = self.training.runtime.processes
        try:
            yield dataclasses.replace(
                batches,
                train_sample=Interruptible(batches.train_sample, self.stop),
                val=Interruptible(batches.val, self.stop),
            )
        except StopRequested as request:
            with processes.together():
                self.writer.commit(last=True)
            where = f"stopped by {request} at step {state.step} of {plan.steps}"
            hint = f"; {self.resume_hint}" if self.resume_hint else ""
            raise Stopped(f"{where}{hint}") from None
        except NonFinite as error:
            raise NonFinite(f"{error}; {self.writer.last_checkpoint()}") from error
        with processes.together():
            self.writer.settle()
