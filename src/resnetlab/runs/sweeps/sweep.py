"""Sweep: train many configurations of a search space, stop the poor ones early, and choose the best on validation."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnetlab.data.tree import require_outside
from resnetlab.errors import BadInput, DiskTrouble, LabError, NonFinite, NoSoundCheckpoint, Stopped, printable
from resnetlab.files import write_json
from resnetlab.runs.build import resolved
from resnetlab.runs.config import RunConfig, value_text
from resnetlab.runs.experiment import train
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import Row, row_of
from resnetlab.runs.resume import resume
from resnetlab.runs.saved_data import require_unchanged
from resnetlab.runs.score import evaluate
from resnetlab.runs.session import Event, OnEvent
from resnetlab.runs.stop import StopRequest
from resnetlab.runs.sweeps.space import SearchSpace, nested
from resnetlab.runs.sweeps.study import WHY, PrunerName, SweepStudy, handing_out, open_study, require_optuna
from resnetlab.training.loop import EpochReport

if TYPE_CHECKING:
    from optuna import Trial

LOGGER = logging.getLogger("resnetlab.runs.sweeps.sweep")
BEST = "best.json"
POLL_EVERY = 1.0  # seconds between two readings of the trials of other processes
MOST_FAILURES = 3  # in a row, after which something other than the trials is wrong
PATHS = {"accuracy": ("accuracy",), "macro_f1": ("macro", "f1"), "loss": ("loss",)}
AGAIN = "repeat the command to continue"


class Incompatible(BadInput):
    """Settings of a trial that do not go together."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial as tables and pages show it."""

    number: int
    state: str  # complete, pruned, failed, running, waiting
    values: Mapping[str, Any]  # by path
    score: float | None  # of a pruned trial: in its last epoch
    epochs: int
    seconds: float | None
    why: str


@dataclass(frozen=True)
class Sweep:
    """A sweep and its trials so far."""

    folder: Path
    config: RunConfig  # that the trials start from
    space: SearchSpace
    pruner: PrunerName
    trials: tuple[TrialRecord, ...]
    importances: Mapping[str, float]  # shares of the variance of the scores, by path; empty: too few trials
    test_scores: Mapping[str, Any] | None  # of the chosen trial, if it has been scored

    @property
    def score_name(self) -> str:
        return self.config.best_by

    @property
    def finished(self) -> list[TrialRecord]:
        """The complete trials, the best first."""
        sign = 1 if self.config.best_by == "loss" else -1
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.score is not None]
        return sorted(complete, key=lambda trial: (sign * (trial.score or 0.0), trial.number))

    @property
    def best(self) -> TrialRecord | None:
        return next(iter(self.finished), None)

    def run(self, trial: TrialRecord) -> RunFolder:
        return RunFolder(self.folder / f"trial-{trial.number:04d}")

    def config_of(self, trial: TrialRecord) -> RunConfig:
        """The settings of a trial, as `resnetlab train` uses them."""
        return self.config.changed(nested(trial.values))


def sweep(
    config: RunConfig,
    space: Mapping[str, Any],
    trials: int,
    folder: Path,
    *,
    storage: str | None = None,
    study: str | None = None,
    pruner: PrunerName = "median",
    final: bool = False,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
    on_stop: Callable[[Sweep], object] = lambda _: None,
) -> Sweep:
    """Run the trials of a sweep that are missing, up to `trials` in all, and return it.

    Each trial is a run in `folder`/trial-NNNN with the settings of `config`, changed by values from `space`, and is
    scored on validation only. Any number of processes may call this with the same arguments at once; they must see the
    same `folder` and `storage`. A trial whose process was killed is continued by another one. With `final`, the chosen
    trial is scored on the test split, once. `on_stop` is called with the trials so far before Stopped is raised.

    Raises BadInput, DiskTrouble, or Stopped, after which the same call continues the sweep.
    """
    require_optuna()
    stop = StopRequest.within(max_minutes, stop)
    checked = SearchSpace.of(space)
    if trials < 1:
        raise BadInput(f"`trials` is {trials}, but a sweep needs 1 trial or more")
    config = resolved(config)
    require_outside(folder, config.data.name)
    base = config.changed({"final_test": "never"})
    settings = {"config": base.to_json(), "space": checked.to_json(), "pruner": pruner}
    maximize = config.best_by != "loss"
    opened = open_study(folder, study or folder.resolve().name, storage, settings, config.seed, maximize=maximize)
    try:
        Worker(opened, base, trials, stop, on_event).work()
    except Stopped:
        on_stop(with_best_written(opened, config, pruner))
        raise
    found = with_best_written(opened, config, pruner)
    if final:
        with handing_out(folder):
            score_chosen(found)
            found = read_sweep(opened, config, pruner)
    return found


@dataclass
class Worker:
    """One process of a sweep: it runs trials until all are finished."""

    study: SweepStudy
    config: RunConfig
    count: int
    stop: StopRequest
    on_event: OnEvent | None
    failures: int = 0  # in a row

    def work(self) -> None:
        """Run trials until `count` of them are finished, those of other processes included. Raises Stopped."""
        from optuna.exceptions import OptunaError

        try:
            while not self.is_finished():
                if self.stop.reason:
                    raise Stopped(f"stopped by {self.stop.reason}; {AGAIN}")
                if (given := self.study.next_trial(self.count)) is None:
                    time.sleep(POLL_EVERY)
                    continue
                trial, lock = given
                try:
                    self.run(trial)
                finally:
                    lock.release()
        except OptunaError as error:
            raise DiskTrouble(f"the storage of the sweep failed: {printable(error)[:200]}; {AGAIN}") from error

    def is_finished(self) -> bool:
        trials = self.study.trials
        return len(trials) >= self.count and all(trial.state.is_finished() for trial in trials)

    def run(self, trial: Trial) -> None:
        """Run one trial to its end, early or not, and record it."""
        from optuna import TrialPruned
        from optuna.exceptions import OptunaError
        from optuna.trial import TrialState

        number, values = trial.number, self.study.space.suggested(trial)
        self.require_same_images(number)
        self.log(number, ", ".join(f"`{path}` {shown(value)}" for path, value in values.items()))
        state, value, why = TrialState.COMPLETE, None, ""
        try:
            value = self.train(trial, values)
            if not math.isfinite(value):
                state, value, why = TrialState.FAIL, None, f"its {self.config.best_by} is undefined"
        except TrialPruned:
            state = TrialState.PRUNED
        except NonFinite as error:
            state, why = TrialState.PRUNED, str(error).split(";")[0]
        except Stopped as error:
            self.study.put_back(number)
            where = str(error).split("; ")[0]
            raise Stopped(f"trial {number}: {where}; {AGAIN}") from None
        except DiskTrouble:  # no fault of the trial; the storage may be on the same disk
            with suppress(OptunaError):
                self.study.put_back(number)
            raise
        except (BadInput, NoSoundCheckpoint, torch.OutOfMemoryError) as error:
            self.require_some_success(number, error)
            state, why = TrialState.FAIL, str(error) if isinstance(error, LabError) else "out of memory"
        self.failures = self.failures + 1 if state == TrialState.FAIL else 0
        self.study.finish(number, state, value, why)
        self.log(number, self.outcome(number))

    def require_same_images(self, number: int) -> None:
        """Raise BadInput, and put the trial back, if the images are no longer those of the trials before it."""
        runs = (self.study.run(trial.number) for trial in self.study.trials if trial.number < number)
        earlier = next(
            (run for run in runs if {"config.json", "split.json"} <= {path.name for path in run.path.glob("*.json")}),
            None,
        )
        if earlier is None:
            return
        try:
            require_unchanged(earlier, earlier.config.data)
        except BadInput:
            self.study.put_back(number)
            raise

    def require_some_success(self, number: int, error: Exception) -> None:
        """Raise an error that is hardly the fault of the trial: before any trial has trained, or the third in a row."""
        if isinstance(error, Incompatible):
            return
        if self.failures + 1 >= MOST_FAILURES or not any(self.study.run(t.number).rows for t in self.study.trials):
            self.study.put_back(number)
            raise error

    def train(self, trial: Trial, values: Mapping[str, Any]) -> float:
        """Train the run of a trial, or continue it, and return its validation score. Raises optuna.TrialPruned."""
        try:
            config = self.config.changed(nested(values))
        except BadInput as error:
            raise Incompatible(str(error)) from error
        run = self.study.run(trial.number)
        reported = set(next(t for t in self.study.trials if t.number == trial.number).intermediate_values)

        def report(row: Row) -> None:
            from optuna import TrialPruned

            epoch, score = row["epoch"], row[f"val_{config.best_by}"]
            is_last = epoch == config.epochs or row["step"] == config.steps
            if epoch not in reported and math.isfinite(score):
                trial.report(score, epoch)  # the resource of hyperband, which begins at 1
                if trial.should_prune() and not is_last:
                    raise TrialPruned

        def watch(event: Event) -> None:
            if self.on_event is not None:
                self.on_event(event)
            if isinstance(event, EpochReport):
                report(row_of(event))

        is_begun = (run.path / "config.json").exists()
        for row in run.rows if is_begun else []:
            report(row)
        if not is_begun:
            train(config, run.path, stop=self.stop, on_event=watch)
        elif not run.is_scored:
            resume(run.path, stop=self.stop, on_event=watch)
        return score_of(run, "val", config.best_by)

    def outcome(self, number: int) -> str:
        trials = self.study.trials
        trial = trials[number]
        done = f"{sum(t.state.is_finished() for t in trials)} of {max(self.count, len(trials))} trials done"
        score = "" if trial.value is None else f" {self.config.best_by} {trial.value:.4f}"
        state = STATES[trial.state.name]
        text = {"complete": f"val{score}", "pruned": f"pruned after epoch {len(trial.intermediate_values)},{score}"}
        why = f": {trial.user_attrs[WHY]}" if WHY in trial.user_attrs else ""
        return f"{text.get(state, state)}{why}; {done}"

    def log(self, number: int, text: str) -> None:
        LOGGER.info("%s", printable(f"trial {number:>4}  {text}"))


STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def score_of(run: RunFolder, split: str, name: str) -> float:
    """Return a score of the best weights of a run; NaN if it is undefined."""
    return score_in(run.final_metrics(split) or {}, name)


def score_in(metrics: Mapping[str, Any], name: str) -> float:
    """Return a score in the content of metrics.json; NaN if it is undefined."""
    value: Any = metrics
    for key in PATHS[name]:
        value = value[key]
    return math.nan if value is None else float(value)


def with_best_written(opened: SweepStudy, config: RunConfig, pruner: PrunerName) -> Sweep:
    """Return the sweep, after its best settings are written as a config file."""
    with handing_out(opened.folder):
        found = read_sweep(opened, config, pruner)
        if found.best is not None:
            write_json(opened.folder / BEST, found.config_of(found.best).to_json())
    return found


def read_sweep(opened: SweepStudy, config: RunConfig, pruner: PrunerName) -> Sweep:
    """Return all trials in the storage."""
    records = []
    for trial in opened.trials:
        known = [dimension for dimension in opened.space.dimensions if dimension.path in trial.params]
        values = {dimension.path: dimension.value(trial.params[dimension.path]) for dimension in known}
        state, attributes = STATES[trial.state.name], trial.user_attrs
        seconds = None if trial.duration is None else trial.duration.total_seconds()
        epochs, why = len(trial.intermediate_values), str(attributes.get(WHY, ""))
        score = trial.value if state in ("complete", "pruned") else None
        records.append(TrialRecord(trial.number, state, values, score, epochs, seconds, why))
    scored = [opened.run(record.number) for record in records if opened.run(record.number).final_metrics("test")]
    test = scored[0].final_metrics("test") if scored else None
    return Sweep(opened.folder, config, opened.space, pruner, tuple(records), importances(opened), test)


def importances(opened: SweepStudy) -> dict[str, float]:
    """Return the share of each setting in the variance of the scores, by fANOVA; empty if there are too few trials."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in opened.trials if trial.state.name == "COMPLETE"]
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    try:
        return dict(get_param_importances(opened.study, evaluator=FanovaImportanceEvaluator(seed=0)))
    except (ValueError, RuntimeError):  # no variance in the settings
        return {}


def score_chosen(found: Sweep) -> None:
    """Score the best trial on the test split, unless it was. Raises BadInput if another trial was."""
    best = found.best
    if best is None:
        raise BadInput("no trial is complete, so there is nothing to score on the test split")
    for trial in found.trials:
        if trial.number != best.number and found.run(trial).final_metrics("test") is not None:
            raise BadInput(
                f"the test split was used for trial {trial.number}, and trial {best.number} is better on validation "
                "now; a second use would choose by the test split. Keep that score, or score the better trial on "
                "images that no trial has used: `resnetlab evaluate RUN --data FOLDER`"
            )
    if found.run(best).final_metrics("test") is None:
        evaluate(found.run(best).path, None, "test")
