"""TensorBoard: the numbers of each epoch as it reads them, beside metrics.jsonl. Needs the extra of that name."""

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
NEEDED = "--tensorboard needs another package: pip install 'resnetlab[tensorboard]'"


def boards(config: RunConfig, run: Path) -> list[Path]:
    """The runs to write for: this one, or none. Raises BadInput without the package."""
    if not config.tensorboard:
        return []
    if importlib.util.find_spec("tensorboard") is None:
        raise BadInput(NEEDED)
    return [run]


class TensorBoardWriter:
    """Writes what epochs report into `<run>/tensorboard`; `tensorboard --logdir runs` shows all runs side by side.

    It only copies: metrics.jsonl is the record, and a run is resumed from its checkpoint alone. A resumed run says as
    `purge_step` the first step that is to come; what an older event file has from there on is then not shown.
    Raises BadInput without the package, DiskTrouble where nothing can be written.
    """

    def __init__(self, run: Path, *, purge_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise BadInput(NEEDED) from error
        with told(run):
            self.writer = SummaryWriter(run / FOLDER, purge_step=purge_step)
        self.run = run

    def write(self, report: EpochReport) -> None:
        """An epoch's numbers, at its step, on the disk when this returns."""
        with told(self.run):
            for tag, value in scalars(report):
                self.writer.add_scalar(tag, value, report.step)
            self.writer.flush()

    def close(self) -> None:
        with told(self.run):
            self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def told(run: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise DiskTrouble(f"could not write {printable(run / FOLDER)}: {error.strerror or error}") from error


def scalars(report: EpochReport) -> Iterator[tuple[str, float]]:
    """Tags and values: training and validation of one score share a tag's first part, and so stand side by side."""
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
