"""The folder of a run: its files and its lock."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from resnetlab.errors import BadInput, BadSettings, Damaged, DiskTrouble, printable
from resnetlab.evaluation.access_log import AccessLog
from resnetlab.files import read_regular, write_json
from resnetlab.runs.config import RunConfig
from resnetlab.runs.evaluation_files import make_folder, read_metrics
from resnetlab.runs.history import read_rows

try:
    import fcntl
except ImportError:  # Windows: a second trainer is not prevented there
    fcntl = None  # type: ignore[assignment]

SHARED_ACCESS_LOG = "test-ledger.jsonl"
EXTENSIONS, ENVIRONMENT = "extensions.json", "environment.json"


class RunFolder:
    """A run on disk, accepted wherever a path is.

    Files are replaced whole or appended to; the checkpoint is written last and commits the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.checkpoints = path / "checkpoints"
        self.log = path / "log.txt"

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, path: Path | None, recipe: str) -> RunFolder:
        """Make the folder of a run; it must be new or empty. Without a path it is `runs/<recipe>-NNN`."""
        if path is None:
            path = claim_next(recipe)
        cls.require_free(path)
        make_folder(path)
        make_folder(path / "checkpoints")
        return cls(path)

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise BadInput unless `path` is new, empty, or of a run killed before its config was written."""
        if path.exists() and not path.is_dir():
            raise BadInput(f"{printable(path)} is a file; give a new or empty folder")
        if path.is_dir() and not is_beginning(path):
            hint = (
                f", or resume the run in it (`resnetlab.resume({str(path)!r})`)"
                if (path / "config.json").exists()
                else ""
            )
            raise BadInput(f"{printable(path)} is not empty; give a new or empty folder{hint}")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder."""
        if not (path / "config.json").is_file():
            if (path / "fit.json").is_file():
                raise BadInput(
                    f"{printable(path)} has a training of `resnetlab.fit`, no run; call fit again, with the same "
                    'network and images and resume="auto", to continue it'
                )
            what = "is not a run folder (it has no config.json)" if path.exists() else "does not exist"
            raise BadInput(f"{printable(path)} {what}; `resnetlab runs FOLDER` lists runs")
        return cls(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder against other trainers, and remove temporary files of a killed trainer.

        The lock is released when its process ends. Raises BadInput if another process holds it.
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
            with suppress(OSError):  # the disk is full: the first file that matters will raise
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
            raise BadSettings(f"{printable(self.path / 'config.json')}: {error}") from error

    @property
    def extended_at(self) -> tuple[int, ...]:
        """The steps at which the run was finished and then extended. Older runs have them in config.json."""
        name = EXTENSIONS if (self.path / EXTENSIONS).exists() else "config.json"
        steps = self.read_json(name)
        steps = steps.get("extended_at", ()) if isinstance(steps, dict) else None
        if not isinstance(steps, list | tuple) or not all(type(step) is int and step > 0 for step in steps):
            raise BadInput(f"{printable(self.path / name)}: extended_at is not a list of steps")
        return tuple(steps)

    def write_config(self, config: RunConfig, extended_at: tuple[int, ...] = ()) -> None:
        """Write the settings. config.json is written last: a folder that has it holds a run that can be resumed."""
        if extended_at:
            self.write(EXTENSIONS, {"extended_at": list(extended_at)})
        self.write("config.json", config.to_json())

    def read_json(self, name: str) -> Any:
        """The JSON in one of the run's files; BadInput if it is missing or damaged."""
        try:
            return json.loads(read_regular(self.path / name).decode())
        except (OSError, ValueError) as error:
            reason = printable(getattr(error, "strerror", None) or error)
            raise BadInput(f"could not read {printable(self.path / name)}: {reason}") from error

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        write_json(self.path / name, value)

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The sessions of the run in their order, from environment.json: machine, packages, command and time of each.

        The file is the record of the first session, as in earlier versions, with those of later ones in "resumed".
        Raises BadInput if it is missing, Damaged if it is something else.
        """
        first = self.read_json(ENVIRONMENT)
        later = first.pop("resumed", []) if isinstance(first, dict) else None
        if (
            not isinstance(later, list)
            or not all(isinstance(one, dict) for one in later)
            or not all(type(one.get("from_step", 0)) is int for one in (first, *later))
        ):
            raise Damaged(f"{printable(self.path / ENVIRONMENT)} is not the record of a run's sessions")
        return [first, *later]

    def add_session(self, session: Mapping[str, Any]) -> None:
        """Add a session to environment.json; the earlier ones stay. Raises BadInput if they cannot be read."""
        if not (self.path / ENVIRONMENT).exists():
            self.write(ENVIRONMENT, session)
            return
        try:
            first, *later = self.sessions
        except BadInput as error:
            raise type(error)(f"{error}; move that file away, and the run can be resumed without it") from error
        self.write(ENVIRONMENT, {**first, "resumed": [*later, session]})

    def seconds_since(self, name: str) -> float:
        """Seconds since one of the run's files was written; infinite if it was not."""
        try:
            return time.time() - (self.path / name).stat().st_mtime
        except FileNotFoundError:
            return math.inf

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The finished epochs, as in metrics.jsonl."""
        return read_rows(self.path)

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}.ckpt"

    def all_checkpoints(self) -> list[Path]:
        """Newest first."""
        found = [p for p in self.checkpoints.glob("*.ckpt") if re.fullmatch(r"step-\d{8,}", p.stem)]
        return sorted(found, key=step_of, reverse=True)

    def retain(self, count: int, step: int) -> None:
        """Keep the newest `count` checkpoints up to `step`. Later ones are damaged: they are kept and do not count."""
        done = [path for path in self.all_checkpoints() if step_of(path) <= step]
        for path in done[count:]:
            with suppress(OSError):  # one too many does no harm
                path.unlink()

    @property
    def is_scored(self) -> bool:
        """True for a finished run: its final scores are the last thing it writes."""
        last = "test" if self.config.final_test == "once" else "val"
        return self.final_metrics(last) is not None

    def evaluation(self, split: str, tta: str = "none", *, changed: bool = False) -> Path:
        """The folder for the scores of a split.

        Those with test-time augmentation, and those of data that has changed since, have a folder of their own.
        """
        name = split if tta == "none" else f"{split}-{tta}"
        return self.path / "evaluation" / (f"changed-{name}" if changed else name)

    def final_metrics(self, split: str, tta: str = "none") -> dict[str, Any] | None:
        """The content of metrics.json of a split; None if it has not been scored."""
        return cast(dict[str, Any] | None, read_metrics(self.evaluation(split, tta)))

    @property
    def access_log(self) -> AccessLog:
        """The log of test-set accesses, kept in the run and, for all runs of its parent folder, beside them."""
        path = self.path.resolve()
        return AccessLog(path.name, (path / "evaluation" / "ledger.jsonl", path.parent / SHARED_ACCESS_LOG))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def is_beginning(path: Path) -> bool:
    """True if a folder holds at most what a run writes before its config.json."""
    names = {
        entry.name for entry in path.iterdir() if not re.fullmatch(r"\.(split|config|fit)\.json\..*\.tmp", entry.name)
    }
    if "checkpoints" in names and any((path / "checkpoints").iterdir()):
        return False
    return names <= {"checkpoints", ".lock", "split.json"} and names != {"split.json"}


def claim_next(recipe: str, parent: Path = Path("runs")) -> Path:
    """Make `runs/<recipe>-NNN` with the next free number. Two processes at once get two folders."""
    make_folder(parent)
    pattern = re.compile(rf"{re.escape(recipe)}-(\d+)")
    number = max((int(match[1]) for entry in parent.iterdir() if (match := pattern.fullmatch(entry.name))), default=0)
    while True:
        number += 1
        path = parent / f"{recipe}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise DiskTrouble(f"could not make {printable(path)}: {error.strerror or error}") from error
        return path
