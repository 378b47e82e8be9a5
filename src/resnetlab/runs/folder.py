"""The folder of a run: what lies where, and how it stays whole."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.evaluation.access_log import AccessLog
from resnetlab.files import write_json, write_text
from resnetlab.runs.config import RunConfig
from resnetlab.runs.csv_files import write_csv
from resnetlab.runs.evaluation_files import read_metrics
from resnetlab.training.loop import EpochReport

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second trainer out there
    fcntl = None  # type: ignore[assignment]

SHARED_LEDGER = "test-ledger.jsonl"
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "train_seconds",
    "images_per_second",
)


class RunFolder:
    """A run on disk. Files are replaced whole; a checkpoint is written last and so commits what came before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.checkpoints = path / "checkpoints"
        self.log = path / "log.txt"

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder; it must be new or empty."""
        cls.require_free(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskTrouble(f"could not make {printable(path)}: {error.strerror or error}") from error
        return cls(path)

    @staticmethod
    def require_free(path: Path) -> None:
        """BadInput unless `path` is new, an empty folder, or one in which a run was killed before it had begun."""
        if path.exists() and not path.is_dir():
            raise BadInput(f"{printable(path)} is a file; --out must be a new or empty folder")
        if path.is_dir() and not is_beginning(path):
            goes_on = " (or --resume auto, to go on with the run in it)" if (path / "config.json").exists() else ""
            raise BadInput(f"{printable(path)} is not empty; give --out a new or empty folder{goes_on}")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder."""
        if not (path / "config.json").is_file():
            what = "is not a run folder (it has no config.json)" if path.exists() else "does not exist"
            raise BadInput(f"{printable(path)} {what}; `resnetlab runs FOLDER` lists the runs there are")
        return cls(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other trainers out of the folder while inside, and sweep what a dead one left half written.

        Raises BadInput if another one is in there. The lock ends with the process, however it ends.
        """
        try:
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise DiskTrouble(f"could not write into {printable(self.path)}: {error.strerror or error}") from error
        with lock:
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = printable(lock.read().strip())
                raise BadInput(f"{printable(self.path)} is in use by another run ({holder})") from error
            except OSError as error:
                raise DiskTrouble(f"could not lock {printable(self.path)}: {error.strerror or error}") from error
            with suppress(OSError):  # the disk is full, and will be told of by those who need it
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
                for stale in self.path.rglob(".*.tmp"):
                    stale.unlink()
            yield

    @cached_property
    def config(self) -> RunConfig:
        try:
            return RunConfig.model_validate(self.read_json("config.json"))
        except BadInput as error:
            raise BadInput(f"{printable(self.path / 'config.json')}: {error}") from error

    def read_json(self, name: str) -> Any:
        """The JSON in one of the run's files; BadInput if it is not there or not whole."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"could not read {printable(self.path / name)}: {printable(error)}") from error

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        write_json(self.path / name, value)

    def seconds_since(self, name: str) -> float:
        """How long ago one of the run's files was written; infinite if it was not."""
        try:
            return time.time() - (self.path / name).stat().st_mtime
        except FileNotFoundError:
            return math.inf

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The finished epochs, as in metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise BadInput(f"could not read {printable(file)}: {printable(error)}") from error

    def record(self, report: EpochReport) -> None:
        """Add an epoch; a record of the same epoch, from before a resume, is replaced."""
        self.write_rows([*self.rows[: report.epoch - 1], row_of(report)])

    def trim(self, epochs: int) -> None:
        """Forget epochs recorded after the checkpoint that the run goes on from."""
        if len(self.rows) > epochs:
            self.write_rows(self.rows[:epochs])

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_csv(self.path / "metrics.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in rows])

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}.ckpt"

    def all_checkpoints(self) -> list[Path]:
        """Newest first."""
        found = [p for p in self.checkpoints.glob("*.ckpt") if re.fullmatch(r"step-\d{8,}", p.stem)]
        return sorted(found, key=step_of, reverse=True)

    def retain(self, count: int, step: int) -> None:
        """Keep the newest `count` checkpoints up to `step`; a later one is damaged, and does not count as one."""
        done = [path for path in self.all_checkpoints() if step_of(path) <= step]
        for path in done[count:]:
            with suppress(OSError):  # one too many does no harm
                path.unlink()

    @property
    def is_scored(self) -> bool:
        """Whether the run is finished: its final scores are the last thing it writes."""
        last = "test" if self.config.final_test == "once" else "val"
        return self.final_metrics(last) is not None

    def evaluation(self, split: str, tta: str = "none") -> Path:
        """Where the scores of a split lie; those with test-time augmentation stand beside the final ones."""
        return self.path / "evaluation" / (split if tta == "none" else f"{split}-{tta}")

    def final_metrics(self, split: str, tta: str = "none") -> dict[str, Any] | None:
        """What metrics.json says of a split, if it has been scored."""
        return cast(dict[str, Any] | None, read_metrics(self.evaluation(split, tta)))

    @property
    def ledger(self) -> AccessLog:
        """Where looks at the test split are written down: in the run, and beside all runs of its folder."""
        path = self.path.resolve()
        return AccessLog(path.name, (path / "evaluation" / "ledger.jsonl", path.parent / SHARED_LEDGER))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def is_beginning(path: Path) -> bool:
    """Whether a folder holds at most what a run writes before its config.json, with which it begins to be one."""
    names = {entry.name for entry in path.iterdir() if not re.fullmatch(r"\.(split|config)\.json\..*\.tmp", entry.name)}
    if "checkpoints" in names and any((path / "checkpoints").iterdir()):
        return False
    return names <= {"checkpoints", ".lock", "split.json"} and names != {"split.json"}


def row_of(report: EpochReport) -> dict[str, Any]:
    """An epoch as a flat record: the columns of metrics.csv, and what only metrics.jsonl has."""
    flat = asdict(report)
    train, val = flat.pop("train"), flat.pop("val")
    return flat | {
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "val_loss": val["loss"],
        "val_accuracy": val["accuracy"],
        "val_macro_f1": val["macro_f1"],
    }


def next_folder(recipe: str, parent: Path = Path("runs")) -> Path:
    """`runs/<recipe>-NNN` with the next free number."""
    taken = [
        int(match.group(1))
        for entry in (parent.iterdir() if parent.is_dir() else ())
        if (match := re.fullmatch(rf"{re.escape(recipe)}-(\d+)", entry.name))
    ]
    return parent / f"{recipe}-{max(taken, default=0) + 1:03d}"
