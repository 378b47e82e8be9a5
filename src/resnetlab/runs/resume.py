"""Resume a run from its newest sound checkpoint, on the same images; changes of its settings must be allowed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

from resnetlab.data.datasets import ImageData
from resnetlab.data.splits import Split
from resnetlab.data.stored import StoredSplits
from resnetlab.distributed import ALONE, Processes
from resnetlab.errors import BadInput, Damaged, NoSoundCheckpoint
from resnetlab.inference.model_file import read_model
from resnetlab.inference.sources import Run, run_source
from resnetlab.runs.arguments import require_arguments
from resnetlab.runs.build import Experiment, make_plan, open_data, resolved
from resnetlab.runs.config import HARMLESS, LENGTH, DataConfig, RunConfig
from resnetlab.runs.differences import differences
from resnetlab.runs.experiment import begin, train_and_score
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import RunLog, SilentLog
from resnetlab.runs.probes import settled
from resnetlab.runs.provenance import session_record
from resnetlab.runs.saved_data import TRAIN_ANEW, UNCHECKED, moved_to, open_saved, require_unchanged, stored_splits
from resnetlab.runs.session import OnEvent
from resnetlab.runs.stem import same_network
from resnetlab.runs.stop import StopRequest
from resnetlab.runtime import isolated
from resnetlab.training.checkpoint import load_checkpoint
from resnetlab.training.loop import TrainState


@isolated(gradients=True)
def resume(
    folder: str | os.PathLike[str] | Run,
    *,
    changes: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (),
    strict: bool = False,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
    processes: Processes = ALONE,
) -> RunFolder:
    """Continue a run from its newest checkpoint; the result equals that of an uninterrupted run bit for bit.

    `folder` is that of the run, the run itself, or its name in the folder `runs`.
    `changes` are settings as for `RunConfig.changed`. A finished run may get a new length. Any other change that
    affects the result must be in `allowed`, by its path ("optim.lr"; "epochs" for the length of an unfinished run).
    A new `data.name` is accepted if the same images are there, with the same contents.
    If the environment makes the result inexact (another torch version, thread count, precision, number of processes,
    …), the difference is logged, or refused with `strict`. The other arguments are those of `train`; all `processes`
    read the folder, and the main one reads the checkpoint.

    Raises BadInput, NoSoundCheckpoint, NonFinite, DiskTrouble or Stopped.

    >>> resume("runs/quickstart-001", changes={"epochs": 20})  # doctest: +SKIP
    """
    require_arguments(max_minutes=max_minutes, stop=stop, on_event=on_event, changes=changes)
    allowed = [allowed] if isinstance(allowed, str) else allowed
    stop = StopRequest.within(max_minutes, stop)
    with ExitStack() as claim:
        with processes.together():
            run = RunFolder.open(run_source(folder))
            if processes.is_main:
                claim.enter_context(run.claimed())
            log = RunLog(run.log) if processes.is_main else SilentLog()
            had = run.config
            wanted = same_network(settled(had.changed(changes or {}), had), had)
            if wanted.data.name != had.data.name and wanted.data.root == had.data.root:
                wanted = wanted.changed({"data": {"root": moved_to(wanted.data.name, had.data).root}})
            wanted = resolved(wanted)
            stored = stored_splits(run)
            checked = {"data.name"} if stored.has_contents else set()
            notes = accepted_changes(had, wanted, {*allowed, *checked})
            data = saved_data(run, wanted.data, stored)
            length = {name: getattr(had, name) for name in LENGTH}
            experiment = Experiment.of(wanted.changed(length), run.extended_at, data=data, processes=processes)
            before = load_newest(run, experiment.state, log) if processes.is_main else {}
        experiment.replicate()
        with processes.together():
            notes += inexact(before, experiment.runtime.facts(), strict=strict)
            notes += other_norms(before, processes, experiment.config)
            experiment = with_length(experiment, wanted, allowed)
            for note in notes:
                log.info(f"note     {note}")
            stop.watch()
            if processes.is_main:
                changed = differences(had, experiment.config)
                run.add_session(session_record(experiment.runtime, experiment.state.step, changed))
                run.write_config(experiment.config, experiment.extended_at)
            session = begin(experiment, run, stop, on_event)
        train_and_score(experiment, run, session)
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
            return {"processes": 1, **load_checkpoint(path, state)["environment"]}  # older ones do not have it
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


def other_norms(before: Mapping[str, Any], processes: Processes, config: RunConfig) -> list[str]:
    """A sentence about batch norm if the number of processes has changed, unless it normalises over all of them.

    >>> other_norms({"processes": 2}, ALONE, RunConfig(epochs=1))
    ['without sync_bn, each process normalises its own images: with another number of them the curves differ too']
    """
    if before.get("processes", processes.world_size) == processes.world_size or config.sync_bn:
        return []
    return [
        "without sync_bn, each process normalises its own images: with another number of them the curves differ too"
    ]


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
    plan = dataclasses.replace(make_plan(config, steps_per_epoch, extended_at), loss_fn=plan.loss_fn)
    return dataclasses.replace(experiment, config=config, plan=plan, extended_at=extended_at)


def saved_data(run: RunFolder, config: DataConfig, stored: StoredSplits) -> ImageData:
    """The stored splits of a run, all of them unchanged. Raises BadInput, Damaged if their record is damaged.

    Where the preprocessing was not recorded, or settings of the data have changed, the data set is opened anew.
    """
    place = {"name", "root", "download", "balance", "store", "memory", "shuffle_window"}  # change no image
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
                f"{len(split):,} now); undo the change of its settings, or train again in a new folder"
            )
    return data if stored.has_contents else dataclasses.replace(data, notes=(*data.notes, UNCHECKED))
