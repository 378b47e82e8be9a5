"""The time that a training takes on this machine, from real steps; and the length of a run that fits into a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from resnetlab.data.loaders import TrainBatches
from resnetlab.errors import BadInput, printable
from resnetlab.runs.arguments import is_number
from resnetlab.runs.build import SAMPLE, Experiment, make_plan
from resnetlab.training.loop import StepDone, TrainState, fit

STEPS, WARM_UP = 20, 4  # steps that are timed, and steps before them
BACKWARD = 3  # a training step computes about three times as much as a forward pass
FINAL_PASSES = 3  # over the validation images at the end: scores, and the agreement of other precisions
FINISH = 7.0  # seconds for the first and the last figures and files, and for the end of the process
WRITING = 400e6  # bytes of checkpoints and model files per second; 300 to 600 million were measured
DRAWING = 0.025  # of the time of training: the curves, half a second every 20 s
MOST_MEASURING = 0.2  # of the time that is given


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of a run: a step, on average; scores and files after an epoch; scores at the end."""

    step: float
    epoch_end: float
    final_scores: float
    steps_per_epoch: int

    def of(self, steps: int) -> float:
        """Return the seconds of a run of so many steps, without its final scores.

        >>> Times(step=0.5, epoch_end=2.0, final_scores=9.0, steps_per_epoch=10).of(15)
        11.5
        """
        return steps * self.step + math.ceil(steps / self.steps_per_epoch) * self.epoch_end

    def steps_within(self, seconds: float) -> int:
        """Return the largest number of steps of a run, without its final scores, that ends within a time.

        >>> Times(step=0.5, epoch_end=2.0, final_scores=9.0, steps_per_epoch=10).steps_within(11.6)
        15
        """
        epoch = self.steps_per_epoch * self.step + self.epoch_end
        epochs = max(0, int(seconds // epoch))
        rest = int((seconds - epochs * epoch - self.epoch_end) / self.step)
        return epochs * self.steps_per_epoch + max(0, min(rest, self.steps_per_epoch - 1))


def seconds_per_step(experiment: Experiment, most_seconds: float = math.inf) -> float:
    """Return the time of a training step. The experiment cannot be used for training afterwards.

    Measuring ends early after `most_seconds`. Several processes measure the same steps, and the main one ends them.
    """
    seconds: list[float] = []
    processes = experiment.runtime.processes
    before, first, began = None, None, time.perf_counter()
    events = fit(experiment.state, experiment.batches, experiment.plan, experiment.runtime)
    for event in itertools.islice(events, STEPS + WARM_UP + 2):
        experiment.runtime.synchronize()
        now = time.perf_counter()
        if isinstance(event, StepDone) and before is not None:
            seconds.append(now - before)
        first = now - began if first is None else first
        is_enough = len(seconds) == STEPS + WARM_UP or (now - began > most_seconds and bool(seconds))
        if processes.broadcast(is_enough):
            break
        before = now if processes.is_alone else time.perf_counter()  # without the broadcast
    timed = seconds[WARM_UP:] or seconds
    if not timed and first is not None:  # a run of one step
        return first
    return typical(timed)


def typical(seconds: Sequence[float]) -> float:
    """Return the mean of times, in which one of more than twice their median, such as a pause, counts as much as that.

    The sum of many steps is that of their mean. The median would be a few percent less.

    >>> typical([1.0, 1.0, 1.5, 50.0])
    1.625
    """
    most = 2 * sorted(seconds)[len(seconds) // 2]
    return sum(min(one, most) for one in seconds) / len(seconds)


def times(experiment: Experiment, seconds: float) -> Times:
    """Extrapolate the time of a step to the parts of a run."""
    batches, data, config = experiment.batches, experiment.data, experiment.config
    assert isinstance(batches.train, TrainBatches)
    sizes = [side / data.preprocessing.image_size for side in batches.train.sizes] or [1.0]  # progressive resizing
    areas = [share**2 for share in sizes]
    step = seconds * sum(areas) / len(areas) / areas[0]
    passes = 1 if config.model.freeze else BACKWARD
    per_image = seconds / areas[0] / min(config.batch_size, len(data.train)) / passes
    scored = len(data.val) + min(SAMPLE, len(data.val), len(data.train))
    final = FINAL_PASSES * len(data.val) + (len(data.test) if config.final_test == "once" else 0)
    final *= experiment.runtime.processes.world_size  # the main process scores them alone
    written = sum(sizes_of_files(experiment.state)) / WRITING
    return Times(step, scored * per_image + written, final * per_image, len(batches.train))


def sizes_of_files(state: TrainState) -> tuple[int, int]:
    """Return the bytes of a checkpoint and of a model file."""
    moments = [t for values in state.optimizer.state.values() for t in values.values() if isinstance(t, Tensor)]
    weights = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    return weights * (2 if state.average.decay else 1) + sum(tensor.nbytes for tensor in moments), weights


def require_minutes(minutes: float) -> None:
    """Raise BadInput unless this is a length of time."""
    if not is_number(minutes) or not 0 < minutes < math.inf:
        raise BadInput(f"minutes is {printable(repr(minutes))[:60]}, but must be a number above 0")


def planned(experiment: Experiment, minutes: float, began: float) -> Experiment:
    """Return the experiment with the length with which the run that began at `began` ends after about `minutes`.

    A few real steps are measured, on a copy that is thrown away; then the length is a setting like any other, so that a
    run with the same config has the same bits. `began` is a time of `time.perf_counter`. Several processes measure
    together and use the length that the main one plans. Raises BadInput if the time is too short for one step.
    """
    processes = experiment.runtime.processes
    # The length does not matter for the steps that are measured; a short run would end before there are enough.
    with processes.together():
        config = experiment.config.changed({"steps": max(10_000, 2 * STEPS)})
        trial = Experiment.of(config, data=experiment.data, processes=processes)
    trial.replicate()
    seconds = seconds_per_step(trial, MOST_MEASURING * 60 * minutes)
    steps, sentence = processes.from_main(lambda: length(times(trial, seconds), minutes, time.perf_counter() - began))
    whole = of_length(experiment, steps)
    return dataclasses.replace(whole, notes=(*whole.notes, sentence))


def of_length(experiment: Experiment, steps: int) -> Experiment:
    """Return an experiment that has not begun with another length, as a config with that length describes it."""
    assert isinstance(experiment.batches.train, TrainBatches)
    config = experiment.config.changed({"steps": steps})
    train = dataclasses.replace(experiment.batches.train, steps=steps)
    plan = dataclasses.replace(make_plan(config, len(train)), loss_fn=experiment.plan.loss_fn)
    batches = dataclasses.replace(experiment.batches, train=train)
    return dataclasses.replace(experiment, config=config, batches=batches, plan=plan)


def length(found: Times, minutes: float, begin: float) -> tuple[int, str]:
    """Return the number of steps that fits into `minutes`, and a sentence about it.

    Training begins after `begin` seconds of them. Raises BadInput if the time is too short for one step.
    """
    finish = found.final_scores + FINISH
    steps = found.steps_within((60 * minutes - begin - finish) / (1 + DRAWING))
    if steps < 1:
        least = (begin + found.of(1) * (1 + DRAWING) + finish) / 60
        raise BadInput(
            f"minutes is {minutes:g}, but training begins after {begin:.0f} s, a step and its validation take "
            f"{found.of(1):.2g} s, and the scores at the end {finish:.0f} s; give "
            f"{math.ceil(least * 10) / 10:g} or more"
        )
    return steps, (
        f"length: {steps:,} steps, {steps / found.steps_per_epoch:.1f} epochs, to end in about {minutes:g} minutes: "
        f"training begins after {begin:.0f} s, a step takes {found.step * 1000:,.0f} ms, scores and files after an "
        f"epoch {found.epoch_end:.1f} s, those at the end {finish:.0f} s"
    )
