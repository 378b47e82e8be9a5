"""Trackers: the numbers, pictures and model file of a run, sent to TensorBoard, MLflow or Weights & Biases.

Each tracker works in a thread of its own, so that a slow server delays no step. Whatever it raises is logged as one
sentence, and the run goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from resnetlab.errors import LabError, Stopped, printable
from resnetlab.runs.history import Row
from resnetlab.runs.log import RunLog
from resnetlab.runs.trackers.mlflow import MlflowTracker
from resnetlab.runs.trackers.tensorboard import TensorBoardTracker
from resnetlab.runs.trackers.tracker import Ending, TrackedRun, Tracker
from resnetlab.runs.trackers.wandb import WandbTracker

PATIENCE = 30.0  # seconds that the end of a run waits for a tracker
LONGEST = 300  # characters of a tracker's own message; some contain a page of HTML

OPENERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}
"""The class of each tracker. Their packages are imported when one is opened."""


class Channel:
    """Calls the methods of one tracker, in their order, in a thread. After the first error it calls none."""

    def __init__(self, name: str, run: TrackedRun, log: RunLog) -> None:
        self.name, self.run, self.log = name, run, log
        self.calls: SimpleQueue[Callable[[Tracker], object] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self.work, name=f"tracker {name}", daemon=True)
        self.is_late = False

    def work(self) -> None:
        tracker: Tracker | None = None
        try:
            tracker = OPENERS[self.name](self.run)
            while (call := self.calls.get()) is not None:
                call(tracker)
        except Exception as error:
            if not self.is_late:
                self.log.warning(f"{self.name} does not track this run any more: {reason(self.name, error)}; {GOES_ON}")
            if tracker is not None:
                leave(tracker)

    def close(self, ending: Ending) -> None:
        """Close the tracker when it has made all calls; wait for it, but not for ever."""
        self.calls.put(lambda tracker: tracker.close(ending))
        self.calls.put(None)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.is_late = True
            self.log.warning(f"{self.name} has not answered for {PATIENCE:g} seconds: it may lack numbers; {GOES_ON}")


GOES_ON = "the run goes on, and its folder has everything"


def leave(tracker: Tracker) -> None:
    """Close a tracker that has failed, as far as it can be closed."""
    try:
        tracker.close("failed")
    except Exception:  # it was reported already
        return


def reason(name: str, error: Exception) -> str:
    """Return an error of a tracker as the middle of a sentence."""
    if isinstance(error, ImportError):
        return f"it needs another package ({printable(error)[:LONGEST]}): pip install 'resnetlab[{name}]'"
    message = " ".join(str(error).split())[:LONGEST].rstrip(".")
    kind = "" if isinstance(error, LabError) and message else type(error).__name__
    return printable(": ".join(filter(None, (kind, message))))


class Tracking:
    """Sends what happens in a run to its trackers; without any, it does nothing. A context manager, which closes them.

    No method raises an error of a tracker or waits for one, except the end, which waits for `PATIENCE` seconds.
    """

    def __init__(self, channels: Sequence[Channel] = ()) -> None:
        self.channels = channels

    @classmethod
    def of(cls, names: Iterable[str], run: TrackedRun, log: RunLog) -> Self:
        return cls([Channel(name, run, log) for name in dict.fromkeys(names)])

    def __enter__(self) -> Self:
        for channel in self.channels:
            channel.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        ending: Ending = "finished" if error is None else "stopped" if stopped else "failed"
        for channel in self.channels:
            channel.close(ending)

    def send(self, call: Callable[[Tracker], object]) -> None:
        for channel in self.channels:
            channel.calls.put(call)

    def epoch(self, row: Row) -> None:
        """Send the numbers of an epoch."""
        self.send(lambda tracker: tracker.epoch(row))

    def results(self, folder: Path, scores: Mapping[str, Mapping[str, Any]], model: Path) -> None:
        """Send the final scores by split, all pictures in the folder of the run, and the model file."""
        names = {"accuracy": ("accuracy",), "loss": ("loss",), "macro_f1": ("macro", "f1")}
        flat = {f"final_{split}_{name}": at(one, path) for split, one in scores.items() for name, path in names.items()}
        self.send(lambda tracker: tracker.scores(flat))
        for file in sorted(folder.rglob("*.png")):
            if file.relative_to(folder).parts[0] in OPENERS:  # a tracker's own copies, of before the run was extended
                continue
            name = file.relative_to(folder).with_suffix("").as_posix().removeprefix("evaluation/")
            self.send(lambda tracker, name=name, file=file: tracker.picture(name, file))  # type: ignore[misc]
        self.send(lambda tracker: tracker.model(model))


def at(scores: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = scores
    for name in path:
        value = value[name]
    return float("nan") if value is None else float(value)
