"""The interface of a tracker, and the run that it is opened for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from resnetlab.runs.config import RunConfig
from resnetlab.runs.history import Row

Ending: TypeAlias = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for."""

    folder: Path
    config: RunConfig
    rows: Sequence[Row] = ()  # the epochs before this session
    step: int = 0  # after which this session begins


class Tracker(Protocol):
    """A receiver of a run's numbers. It is opened with a `TrackedRun`; all its methods may fail and take any time."""

    def epoch(self, row: Row) -> None:
        """Record the numbers of an epoch, as in metrics.jsonl, at its step."""

    def picture(self, name: str, file: Path) -> None: ...

    def scores(self, scores: Mapping[str, float]) -> None:
        """Record the final scores of the run."""

    def model(self, file: Path) -> None:
        """Keep the model file."""

    def close(self, ending: Ending) -> None: ...


def numbers(row: Row) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl.

    >>> numbers({"epoch": 1, "val_loss": 0.5, "note": "x"})
    {'epoch': 1.0, 'val_loss': 0.5}
    """
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
