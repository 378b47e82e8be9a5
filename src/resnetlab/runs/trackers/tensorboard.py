"""TensorBoard event files: the numbers of each epoch, and the pictures, beside metrics.jsonl. Needs [tensorboard]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnetlab.runs.history import Row
from resnetlab.runs.trackers.tracker import Ending, TrackedRun, numbers

FOLDER = "tensorboard"
SECTIONS = {"lr": "optim/lr", "left_out": "optim/steps_left_out", "epoch": "time/epoch"}
SECTIONS |= {name: f"time/{name}" for name in ("images_per_second", "train_seconds")}


class TensorBoardTracker:
    """Writes to `<run>/tensorboard`; `tensorboard --logdir runs` shows all runs side by side.

    Of a resumed run, TensorBoard hides older events of the epochs that are trained again. The model file has no place
    in event files; it lies in the folder of the run.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(run.folder / FOLDER, purge_step=run.step + 1)
        self.step = run.step

    def epoch(self, row: Row) -> None:
        """Write an epoch's numbers, at its step, and flush them to disk."""
        self.step = row["step"]
        for name, value in numbers(row).items():
            if name != "step":
                self.writer.add_scalar(tag(name), value, self.step)
        self.writer.flush()

    def picture(self, name: str, file: Path) -> None:
        from PIL import Image

        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, self.step, dataformats="HWC")

    def scores(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self.writer.add_scalar(f"final/{name.removeprefix('final_')}", value, self.step)

    def model(self, file: Path) -> None: ...

    def close(self, ending: Ending) -> None:  # noqa: ARG002 - event files have no ending
        self.writer.close()


def tag(name: str) -> str:
    """Return the tag of a number of metrics.jsonl. Training and validation values of a score share a section.

    >>> tag("val_macro_f1"), tag("running_loss"), tag("lr")
    ('macro_f1/val', 'loss/running', 'optim/lr')
    """
    for part in ("train", "val", "running"):
        if name.startswith(f"{part}_") and name not in SECTIONS:
            return f"{name.removeprefix(f'{part}_')}/{part}"
    return SECTIONS.get(name, f"other/{name}")
