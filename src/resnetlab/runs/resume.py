"""Going on with a run: from its newest sound checkpoint, with the same images, and no silent change of recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from resnetlab.data.datasets import ImageData
from resnetlab.errors import BadInput, Damaged, NoSoundCheckpoint
from resnetlab.runs.build import Experiment, make_plan
from resnetlab.runs.config import RunConfig, differences
from resnetlab.runs.console import Voice
from resnetlab.runs.experiment import carry_out
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.stopping import StopRequest
from resnetlab.training.checkpoint import load_checkpoint
from resnetlab.training.loop import TrainState

LENGTH = {"epochs", "steps", "extended_at"}
HARMLESS = {"checkpoint.keep", "checkpoint.every_steps", "checkpoint.every_minutes", "final_test", "tensorboard"}
HARMLESS |= {"data.root", "data.download"}  # where the same images are found


def resume(
    folder: Path | str,
    *,
    changes: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (),
    strict: bool = False,
    voice: Voice | None = None,
    max_minutes: float | None = None,
) -> RunFolder:
    """Go on with a run from its newest checkpoint, to the same bits as if it had never stopped.

    `changes` are settings as for `RunConfig.changed`. A finished run may get a new length; any other change that
    matters makes another run of it, and must be `allowed` by its path ("optim.lr"; "epochs" for the length of an
    unfinished run). What keeps the bits from being the same (another torch, thread count, precision …) is said, or with
    `strict` refused.
    """
    voice, stop = voice or Voice(), StopRequest(max_minutes)
    run = RunFolder.open(Path(folder))
    with run.claimed():
        voice.keep(run.log)
        had = run.config
        wanted = had.changed({name: value for name, value in (changes or {}).items() if name != "extended_at"})
        changed = accepted_changes(had, wanted, allowed)
        length = {name: getattr(had, name) for name in LENGTH}
        experiment = Experiment.of(wanted.changed(length))
        require_same_splits(run, experiment.data)
        before = load_newest(run, experiment.state, voice)
        changed += inexact(before, experiment.runtime.facts(), strict=strict)
        experiment = with_length(experiment, wanted, allowed)
        for line in changed:
            voice.say(f"note     {line}")
        with stop.listening():
            run.trim(experiment.state.epoch)
            run.write("config.json", experiment.config.to_json())
            carry_out(experiment, run, voice, stop)
    return run


def accepted_changes(had: RunConfig, wanted: RunConfig, allowed: Collection[str]) -> list[str]:
    """The changed settings in words, the length apart; BadInput if one of them is not allowed."""
    changed = [difference for difference in differences(had, wanted) if difference.path not in LENGTH]
    refused = [difference.path for difference in changed if difference.path not in HARMLESS | set(allowed)]
    told = list(map(str, changed))
    if refused:
        raise BadInput(
            f"the run would become another one: {'; '.join(told)}; leave that as it was, train in a new folder, or "
            f"resume with --allow-change {' '.join(refused)}"
        )
    return told


def load_newest(run: RunFolder, state: TrainState, voice: Voice) -> Mapping[str, Any]:
    """Fill `state` from the newest checkpoint that is whole, and return the environment it was written in.

    A run that has no checkpoint yet begins anew.

    Raises NoSoundCheckpoint if there are some and all are damaged: starting over would hide what was lost.
    """
    damaged = []
    for path in run.all_checkpoints():
        try:
            return dict(load_checkpoint(path, state)["environment"])
        except Damaged as error:
            voice.say(f"note     {error}; trying the one before")
            damaged.append(path.name)
    if damaged:
        raise NoSoundCheckpoint(f"none of the checkpoints in {run.path} is whole ({', '.join(damaged)})")
    return {}


def inexact(before: Mapping[str, Any], now: Mapping[str, Any], *, strict: bool) -> list[str]:
    """What decides the bits of a run and is not as it was, in words; with `strict` BadInput, if there is anything.

    >>> inexact({"threads": 2, "torch": "2.15"}, {"threads": 4, "torch": "2.15"}, strict=False)
    ['threads was 2, now 4: not exact to the bit from here on']
    """
    found = [f"{name} was {before[name]}, now {now.get(name)}" for name in before if before[name] != now.get(name)]
    if found and strict:
        raise BadInput(f"the run would no longer be exact: {'; '.join(found)}; without --strict-resume it goes on")
    return [f"{difference}: not exact to the bit from here on" for difference in found]


def with_length(experiment: Experiment, wanted: RunConfig, allowed: Collection[str]) -> Experiment:
    """The experiment with the wanted length: an extension if it was finished, else a changed recipe."""
    state, plan = experiment.state, experiment.plan
    config = experiment.config.changed({"epochs": wanted.epochs, "steps": wanted.steps})
    steps = make_plan(config, len(experiment.batches.train)).steps
    if steps == plan.steps:
        return experiment
    if steps <= state.step:
        raise BadInput(f"the run has done {state.step} steps already; a length of {steps} is no further")
    if plan.is_over(state):
        if state.step < plan.steps:
            raise BadInput("the run stopped early, because it no longer got better; it cannot be extended")
        config = config.model_copy(update={"extended_at": (*config.extended_at, state.step)})
    elif "epochs" not in allowed:
        raise BadInput(
            f"the run is not finished (step {state.step} of {plan.steps}), and another length changes its schedule; "
            "finish it first, or add --allow-change epochs"
        )
    return dataclasses.replace(experiment, config=config, plan=make_plan(config, len(experiment.batches.train)))


def require_same_splits(run: RunFolder, data: ImageData) -> None:
    """BadInput if the images are not those that the run began with."""
    for name, facts in run.read_json("split.json")["splits"].items():
        if facts["digest"] != getattr(data, name).digest:
            raise BadInput(
                f"the {name} split has changed since this run began: it had {facts['images']} images, now it has "
                f"{len(getattr(data, name))}, or others; bring the images back, or train anew in a new folder"
            )
