"""The study of a sweep: Optuna's trials in a storage that several processes share, and who works on which of them.

A process that works on a trial holds a lock on a file, which the system releases when the process ends.
So a running trial without a lock is one whose process was killed: it waits to be run again, under its own number.
Trials are handed out one at a time, under another lock.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.data.random import derived_seed
from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import write_json
from resnetlab.host import warnings_ignored
from resnetlab.runs.config import HARMLESS, RunConfig
from resnetlab.runs.differences import differences
from resnetlab.runs.evaluation_files import make_folder
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.sweeps.space import SearchSpace

try:
    import fcntl
except ImportError:  # Windows: one process alone may work on a sweep there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

SETTINGS = "sweep.json"
FOLDER = "resnetlab.folder"  # attribute of the study: the folder that it belongs to
INTERRUPTED = "interrupted"  # attribute of a trial: how often its process was killed
MOST_INTERRUPTIONS = 3
WHY = "why"  # attribute of a trial: the sentence with which it ended early
NAMES = {"space": "the search space", "study": "the name of the study", "pruner": "the pruner"}
LOCK_SECONDS = 60  # that a process waits for another one that writes to the same SQLite file
PrunerName = Literal["median", "hyperband", "none"]


class Lock:
    """A file that at most one process holds; it is free when that process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def take(self, *, wait: bool) -> bool:
        """Hold the file, or return False if another process holds it and we do not wait. Raises DiskTrouble."""
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if fcntl is not None:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.release()
            return False
        except OSError as error:
            self.release()
            raise DiskTrouble(f"could not lock {printable(self.path)}: {error.strerror or error}") from error
        return True

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class SweepStudy:
    """The trials of a sweep, and the values that they try."""

    def __init__(self, folder: Path, study: Study, storage: BaseStorage, space: SearchSpace, seed: int) -> None:
        self.folder, self.study, self.storage, self.space, self.seed = folder, study, storage, space, seed

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def run(self, number: int) -> RunFolder:
        return RunFolder(self.folder / f"trial-{number:04d}")

    def lock(self, number: int) -> Lock:
        return Lock(self.folder / ".locks" / f"trial-{number:04d}")

    def next_trial(self, count: int) -> tuple[Trial, Lock] | None:
        """Return the next of `count` trials with the lock on it, an interrupted one first; None if there is none now.

        Its values are drawn, if they are not yet.
        """
        from optuna.trial import TrialState

        with handing_out(self.folder):
            self.requeue_interrupted()
            trials = self.trials
            waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
            if not waiting and len(trials) >= count:
                return None
            number = min(waiting, default=len(trials))
            lock = self.lock(number)
            if not lock.take(wait=False):  # its process has put it back, and has not ended yet
                return None
            self.study.sampler = sampler(derived_seed(self.seed, "sweep", number))
            trial = self.study.ask()
            if trial.number != number:
                raise BadInput(f"trial {trial.number} of the study was added by another program; use another storage")
            self.space.suggested(trial)
            return trial, lock

    def requeue_interrupted(self) -> None:
        """Let running trials wait again whose process was killed; after `MOST_INTERRUPTIONS` times they have failed."""
        from optuna.trial import TrialState

        for trial in self.trials:
            if trial.state != TrialState.RUNNING or not (lock := self.lock(trial.number)).take(wait=False):
                continue
            lock.release()
            times = trial.user_attrs.get(INTERRUPTED, 0) + 1
            self.attribute(trial.number, INTERRUPTED, times)
            if times < MOST_INTERRUPTIONS:
                self.set_state(trial.number, TrialState.WAITING)
            else:
                self.attribute(trial.number, WHY, f"its process was killed {times} times")
                self.set_state(trial.number, TrialState.FAIL)

    def put_back(self, number: int) -> None:
        """Let a trial of ours that was stopped wait for the next process."""
        from optuna.trial import TrialState

        with handing_out(self.folder):
            self.set_state(number, TrialState.WAITING)

    def finish(self, number: int, state: TrialState, value: float | None = None, why: str = "") -> None:
        if why:
            self.attribute(number, WHY, why)
        self.study.tell(number, value, state=state)

    def attribute(self, number: int, name: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self.trial_id(number), name, value)

    def set_state(self, number: int, state: TrialState) -> None:
        self.storage.set_trial_state_values(self.trial_id(number), state)

    def trial_id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


@contextmanager
def handing_out(folder: Path) -> Iterator[None]:
    """Keep other processes of the sweep from starting, handing out and putting back trials."""
    lock = Lock(folder / ".locks" / "sweep")
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()


def require_optuna() -> None:
    """Raise BadInput if the package is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise BadInput("a sweep needs another package: pip install 'resnetlab[sweep]'") from error


@contextmanager
def opening() -> Iterator[None]:
    """Raise any error of a storage as BadInput."""
    try:
        yield
    except Exception as error:  # of any data base
        raise BadInput(f"could not open the storage of the sweep: {storage_reason(error)}") from error


def open_study(
    folder: Path, name: str, storage: str | None, settings: Mapping[str, Any], seed: int, *, maximize: bool
) -> SweepStudy:
    """Open or begin the study of a sweep whose settings are compared with those in its folder. Raises BadInput."""
    import optuna

    space, pruner = SearchSpace.of(settings["space"]), settings["pruner"]
    make_folder(folder)
    make_folder(folder / ".locks")
    with handing_out(folder):
        record = {"study": name, **settings}
        path = folder / SETTINGS
        had = RunFolder(folder).read_json(SETTINGS) if path.exists() else None
        if had is not None:
            require_same(folder, had, record)
        with opening():
            opened = open_storage(storage, folder)
            study = optuna.create_study(
                study_name=name,
                storage=opened,
                direction="maximize" if maximize else "minimize",
                pruner=pruner_of(pruner, settings["config"]["epochs"]),
                load_if_exists=True,
            )
            identity = had["id"] if had is not None else uuid.uuid4().hex
            owner = study.user_attrs.get(FOLDER)
            is_free = owner is None and not study.get_trials(deepcopy=False)
        if not is_free and owner != identity:
            raise BadInput(
                f"the storage has a study {name!r} that does not belong to {printable(folder)}; give `study` another "
                "name, or the folder of that study: all processes of a sweep share one folder and one storage"
            )
        if had is None:
            write_json(path, {"id": identity, **record})
        if is_free:  # last: a process that is killed before it leaves a study that is free
            with opening():
                study.set_user_attr(FOLDER, identity)
    return SweepStudy(folder, study, opened, space, seed)


def require_same(folder: Path, had: Any, record: Mapping[str, Any]) -> None:
    """Raise BadInput unless a sweep keeps its settings."""
    if not isinstance(had, dict) or not {"id", *record} <= had.keys():
        raise BadInput(f"{printable(folder / SETTINGS)} is not the record of a sweep; give another folder")
    configs = [RunConfig.model_validate(settings["config"]) for settings in (had, record)]
    changed = [str(difference) for difference in differences(*configs) if difference.path not in HARMLESS]
    changed += [
        f"{NAMES.get(name, name)} was {had[name]!r}, now {record[name]!r}"
        for name in record
        if name != "config" and had[name] != record[name]
    ]
    if changed:
        raise BadInput(
            f"{printable(folder)}: all trials of a sweep have the same settings, but {'; '.join(changed)}; undo the "
            "change, or give another folder"
        )


def open_storage(text: str | None, folder: Path) -> BaseStorage:
    """Return the storage at an address such as sqlite:///FILE, or in a journal file; default: SQLite in the folder."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if text is not None and "://" not in text:
        if not Path(text).absolute().parent.is_dir():
            raise BadInput(f"the journal is {printable(text)}, but must be a file in an existing folder")
        return JournalStorage(JournalFileBackend(text))
    if text is None:
        from sqlalchemy import URL

        text = URL.create("sqlite", database=str(folder.resolve() / "study.db")).render_as_string()
    options = {"connect_args": {"timeout": LOCK_SECONDS}} if text.startswith("sqlite") else {"pool_pre_ping": True}
    return RDBStorage(text, engine_kwargs=options)


def storage_reason(error: Exception) -> str:
    """Return an error of a storage on one line, without the statement that failed."""
    if isinstance(error, BadInput):
        return str(error)
    with suppress(Exception):
        cause = getattr(error, "orig", None) or error.__cause__ or error
        return printable(" ".join(str(getattr(cause, "orig", None) or cause).split())[:200].rstrip("."))
    return type(error).__name__


def sampler(seed: int) -> Any:
    """Return the sampler of one trial: random for the first ten, then by a tree of Parzen estimators (TPE)."""
    from optuna.samplers import TPESampler

    with warnings_ignored():
        return TPESampler(seed=seed % 2**32, constant_liar=True)  # running trials are taken into account


def pruner_of(name: PrunerName, epochs: int | None) -> BasePruner:
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=5)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs or "auto", reduction_factor=3)
    return pruners.NopPruner()
