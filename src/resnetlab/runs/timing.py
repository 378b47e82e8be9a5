"""The time that a training takes on this machine, from real steps; and the length of a run that fits into a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from dataclasses import dataclass

from resnetlab.data.loaders import TrainBatches
from resnetlab.errors import BadInput, printable
from resnetlab.runs.arguments import is_number
from resnetlab.runs.build import SAMPLE, Experiment
from resnetlab.training.loop import StepDone, fit

STEPS, WARM_UP = 20, 4  # steps that are timed, and steps before them
BACKWARD = 3  # a training step computes about three times as much as a forward pass
FINAL_PASSES = 3  # over the validation images at the end: scores, and the agreement of other precisions
FINISH = 5.0  # seconds for the figures and files at the end
MOST_MEASURING = 0.2  # of the time that is given


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of a run: a step, on average over the run; scores after an epoch; scores at the end."""

    step: float
    epoch_scores: float
    final_scores: float
    steps_per_epoch: int

    def of(self, steps: int) -> float:
        """Return the seconds of a run of so many steps, without its final scores.

        >>> Times(step=0.5, epoch_scores=2.0, final_scores=9.0, steps_per_epoch=10).of(15)
        11.5
        """
        return steps * self.step + math.ceil(steps / self.steps_per_epoch) * self.epoch_scores

    def steps_within(self, seconds: float) -> int:
        """Return the largest number of steps of a run, without its final scores, that ends within a time.

        >>> Times(step=0.5, epoch_scores=2.0, final_scores=9.0, steps_per_epoch=10).steps_within(11.6)
        15
        """
        epoch = self.steps_per_epoch * self.step + self.epoch_scores
        epochs = max(0, int(seconds // epoch))
        rest = int((seconds - epochs * epoch - self.epoch_scores) / self.step)
        return epochs * self.steps_per_epoch + max(0, min(rest, self.steps_per_epoch - 1))


def seconds_per_step(experiment: Experiment, most_seconds: float = math.inf) -> float:
    """Return the median time of a training step. The experiment cannot be used for training afterwards.

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
    return sorted(timed)[len(timed) // 2]


def times(experiment: Experiment, seconds: float) -> Times:
    """Extrapolate the time of a step to the parts of a run."""
    batches, data = experiment.batches, experiment.data
    assert isinstance(batches.train, TrainBatches)
    sizes = batches.train.sizes
    larger = sum(side**2 for side in sizes) / len(sizes) / sizes[0] ** 2 if sizes else 1.0  # progressive resizing
    per_image = seconds / experiment.config.batch_size / BACKWARD
    scored = len(data.val) + min(SAMPLE, len(data.val), len(data.train))
    final = FINAL_PASSES * len(data.val) + (len(data.test) if experiment.config.final_test == "once" else 0)
    final *= experiment.runtime.processes.world_size  # the main process scores them alone
    return Times(seconds * larger, scored * per_image, final * per_image, len(batches.train))


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

    def of_steps(steps: int) -> Experiment:
        with processes.together():
            config = experiment.config.changed({"steps": steps})
            return Experiment.of(config, data=experiment.data, processes=processes)

    # The length does not matter for the steps that are measured; a short run would end before there are enough.
    trial = of_steps(max(10_000, 2 * STEPS))
    trial.replicate()
    seconds = seconds_per_step(trial, MOST_MEASURING * 60 * minutes)
    steps, sentence = processes.from_main(lambda: length(times(trial, seconds), minutes, time.perf_counter() - began))
    whole = of_steps(steps)
    return dataclasses.replace(whole, notes=tuple(dict.fromkeys((*experiment.notes, *whole.notes, sentence))))


def length(found: Times, minutes: float, passed: float) -> tuple[int, str]:
    """Return the number of steps that fits into `minutes`, of which `passed` seconds are over, and a sentence about it.

    Raises BadInput if the time is too short for one step.
    """
    finish = found.final_scores + FINISH
    steps = found.steps_within(60 * minutes - passed - finish)
    if steps < 1:
        least = (passed + found.of(1) + finish) / 60
        raise BadInput(
            f"minutes is {minutes:g}, but {passed:.0f} s have passed, a step and its validation take "
            f"{found.of(1):.2g} s, and the scores at the end {finish:.0f} s; give "
            f"{math.ceil(least * 10) / 10:g} or more"
        )
    return steps, (
        f"length: {steps:,} steps, {steps / found.steps_per_epoch:.1f} epochs, to end in about {minutes:g} minutes: a "
        f"step takes {found.step * 1000:,.0f} ms, validation {found.epoch_scores:.1f} s, the scores at the end "
        f"{finish:.0f} s; {passed:.0f} s have passed"
    )
