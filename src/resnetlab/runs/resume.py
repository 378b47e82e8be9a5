"""Resume a run from its newest sound checkpoint, on the same images; changes of its settings must be allowed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

from resnetlab.data.datasets import ImageData
from resnetlab.data.splits import Split
from resnetlab.data.stored import StoredSplits
from resnetlab.errors import BadInput, Damaged, NoSoundCheckpoint
from resnetlab.files import as_path
from resnetlab.inference.model_file import read_model
from resnetlab.runs.build import Experiment, make_plan, open_data, resolved
from resnetlab.runs.config import HARMLESS, LENGTH, DataConfig, RunConfig, differences
from resnetlab.runs.experiment import begin, finish
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import RunLog
from resnetlab.runs.provenance import session_record
from resnetlab.runs.saved_data import TRAIN_ANEW, UNCHECKED, open_saved, require_unchanged, stored_splits
from resnetlab.runs.session import OnEvent
from resnetlab.runs.stop import StopRequest
from resnetlab.runtime import one_thread_after_fork
from resnetlab.training.checkpoint import load_checkpoint
from resnetlab.training.loop import TrainState, fit


@one_thread_after_fork()
def resume(
    folder: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (),
    strict: bool = False,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Continue a run from its newest checkpoint; the result equals that of an uninterrupted run bit for bit.

    `changes` are settings as for `RunConfig.changed`. A finished run may get a new length. Any other change that
    affects the result must be in `allowed`, by its path ("optim.lr"; "epochs" for the length of an unfinished run).
    A new `data.name` is accepted if the same images are there, with the same contents.
    If the environment makes the result inexact (another torch version, thread count, precision, …), the difference is
    logged, or refused with `strict`. `max_minutes`, `stop` and `on_event` are those of `train`.

    Raises BadInput, NoSoundCheckpoint, NonFinite, DiskTrouble or Stopped.
    """
    stop = StopRequest.within(max_minutes, stop)
    run = RunFolder.open(as_path(folder, "folder"))
    with run.claimed():
        log = RunLog(run.log)
        had = run.config
        wanted = resolved(had.changed(changes or {}))
        stored = stored_splits(run)
        checked = {"data.name"} if stored.has_contents else set()
        notes = accepted_changes(had, wanted, {*allowed, *checked})
        data = saved_data(run, wanted.data, stored)
        length = {name: getattr(had, name) for name in LENGTH}
        experiment = Experiment.of(wanted.changed(length), run.extended_at, data=data)
        before = load_newest(run, experiment.state, log)
        notes += inexact(before, experiment.runtime.facts(), strict=strict)
        experiment = with_length(experiment, wanted, allowed)
        for note in notes:
            log.info(f"note     {note}")
        with stop.watched():
            changed = differences(had, experiment.config)
            run.add_session(session_record(experiment.runtime, experiment.state.step, changed))
            run.write_config(experiment.config, experiment.extended_at)
            session = begin(experiment, run, stop, on_event)
            with session.running() as batches:
                for event in fit(experiment.state, batches, experiment.plan, experiment.runtime):
                    session.keep(event)
            finish(experiment, run, session)
    return run


def accepted_changes(had: RunConfig, wanted: RunConfig, allowed: Collection[str]) -> list[str]:
    """The changed settings in words, except for the length. Raises BadInput if one of them is not allowed."""
    changed = [difference for difference in differences(had, wanted) if difference.path not in LENGTH]
    refused = [difference.path for difference in changed if difference.path not in HARMLESS | set(allowed)]
    sentences = list(map(str, changed))
    if refused:
        raise BadInput(
            f"the settings of a run must stay the same: {'; '.join(sentences)}; undo the change, train in a new "
            f"folder, or add `allowed={refused}`"
        )
    return sentences


def load_newest(run: RunFolder, state: TrainState, log: RunLog) -> Mapping[str, Any]:
    """Fill `state` from the newest sound checkpoint, and return the environment in which it was written.

    A run without a checkpoint starts from the beginning. Raises NoSoundCheckpoint if all checkpoints are damaged.
    """
    damaged = []
    for path in run.all_checkpoints():
        try:
            return dict(load_checkpoint(path, state)["environment"])
        except Damaged as error:
            log.info(f"note     {error}; trying the one before")
            damaged.append(path.name)
    if damaged:
        raise NoSoundCheckpoint(f"none of the checkpoints in {run.path} is sound ({', '.join(damaged)})")
    return {}


def inexact(before: Mapping[str, Any], now: Mapping[str, Any], *, strict: bool) -> list[str]:
    """The changes that affect the bits of a result, in words. With `strict` raises BadInput if there are any.

    >>> inexact({"threads": 2, "torch": "2.15"}, {"threads": 4, "torch": "2.15"}, strict=False)
    ['threads was 2, now 4: from here on not exact to the bit']
    """
    found = [f"{name} was {before[name]}, now {now.get(name)}" for name in before if before[name] != now.get(name)]
    if found and strict:
        raise BadInput(f"the run would no longer be exact: {'; '.join(found)}; resume it without `strict=True`")
    return [f"{difference}: from here on not exact to the bit" for difference in found]


def with_length(experiment: Experiment, wanted: RunConfig, allowed: Collection[str]) -> Experiment:
    """The experiment with the wanted length: an extension of a finished run, otherwise a change of settings."""
    state, plan, extended_at = experiment.state, experiment.plan, experiment.extended_at
    steps_per_epoch = len(experiment.batches.train)
    config = experiment.config.changed({"epochs": wanted.epochs, "steps": wanted.steps})
    steps = make_plan(config, steps_per_epoch).steps
    if steps == plan.steps:
        return experiment
    if steps <= state.step:
        raise BadInput(f"the run has already trained {state.step} steps; a length of {steps} does not extend it")
    if plan.is_over(state):
        if state.step < plan.steps:
            raise BadInput("the run stopped early, because it no longer improved; it cannot be extended")
        extended_at = (*extended_at, state.step)
    elif "epochs" not in allowed:
        raise BadInput(
            f"the run is not finished (step {state.step} of {plan.steps}), and another length changes its schedule; "
            "finish it first, or add `allowed=['epochs']`"
        )
    plan = make_plan(config, steps_per_epoch, extended_at)
    return dataclasses.replace(experiment, config=config, plan=plan, extended_at=extended_at)


def saved_data(run: RunFolder, config: DataConfig, stored: StoredSplits) -> ImageData:
    """The stored splits of a run, all of them unchanged. Raises BadInput, Damaged if their record is damaged.

    Where the preprocessing was not recorded, or settings of the data have changed, the data set is opened anew.
    """
    place = {"name", "root", "download"}
    is_same = config.model_dump(exclude=place) == run.config.data.model_dump(exclude=place)
    if stored.preprocessing is not None and is_same:
        return open_saved(run, config, advice=TRAIN_ANEW).all_splits()
    require_unchanged(run, config)
    # A run of an older version has its preprocessing in its model file only; today another one might be chosen.
    data = open_data(config, read_model(run.best).preprocessing if is_same and run.best.exists() else None)
    for name, record in stored.splits.items():
        split: Split = getattr(data, name)
        if split.digest != record.digest:
            raise BadInput(
                f"the {name} split would have other images than when this run began ({len(record.names):,} then, "
                f"{len(split):,} now); undo the change of its settings, or train anew in a new folder"
            )
    return data if stored.has_contents else dataclasses.replace(data, notes=(*data.notes, UNCHECKED))
