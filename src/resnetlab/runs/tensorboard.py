"""TensorBoard event files: the numbers of each epoch, beside metrics.jsonl. Needs the extra [tensorboard]."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.runs.config import RunConfig
from resnetlab.training.loop import EpochReport

FOLDER = "tensorboard"
NEEDED = "`tensorboard=True` needs another package: pip install 'resnetlab[tensorboard]'"


def require_tensorboard(config: RunConfig) -> None:
    """Raise BadInput if the run is to write for TensorBoard and the package is missing."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise BadInput(NEEDED)


class TensorBoardWriter:
    """Writes the reports of epochs to `<run>/tensorboard`; `tensorboard --logdir runs` shows all runs side by side.

    A resumed run passes its next step as `purge_step`; TensorBoard then hides older events from that step on.

    Raises BadInput if the package is missing, DiskTrouble if the files cannot be written.
    """

    def __init__(self, run: Path, *, purge_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise BadInput(NEEDED) from error
        with disk_errors_named(run):
            self.writer = SummaryWriter(run / FOLDER, purge_step=purge_step)
        self.run = run

    def write(self, report: EpochReport) -> None:
        """Write an epoch's numbers, at its step, and flush them to disk."""
        with disk_errors_named(self.run):
            for tag, value in scalars(report):
                self.writer.add_scalar(tag, value, report.step)
            self.writer.flush()

    def close(self) -> None:
        with disk_errors_named(self.run):
            self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def disk_errors_named(run: Path) -> Iterator[None]:
    """Raise DiskTrouble, with a sentence, for an OSError."""
    try:
        yield
    except OSError as error:
        raise DiskTrouble(f"could not write {printable(run / FOLDER)}: {error.strerror or error}") from error


def scalars(report: EpochReport) -> Iterator[tuple[str, float]]:
    """Tags and values. Training and validation values of a score share the first part of their tag, a section."""
    for score in ("loss", "accuracy", "macro_f1"):
        yield f"{score}/train", getattr(report.train, score)
        yield f"{score}/val", getattr(report.val, score)
    yield "loss/running", report.running_loss
    yield "accuracy/running", report.running_accuracy
    yield "optim/lr", report.lr
    yield "optim/steps_left_out", report.left_out
    yield "time/epoch", report.epoch
    yield "time/images_per_second", report.images_per_second
    yield "time/train_seconds", report.train_seconds
