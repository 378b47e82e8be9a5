"""Learning rates as pure functions of the step and the scores of finished epochs, without state to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from resnetlab.evaluation.metrics import Score


@dataclass(frozen=True)
class Schedule:
    """`schedule(step, scores)` returns the learning rate of a step; steps count from 0.

    A shape uses the fields that its docstring names, and ignores the others.

    >>> Schedule("cosine", 0.1, steps=100, steps_per_epoch=10)(50)
    0.05
    """

    shape: str
    peak: float
    steps: int  # the length of the run
    steps_per_epoch: int
    warmup_steps: int = 0
    warmup_from: float = 0.0  # where warm-up begins, as a share of the peak
    warmup_shape: str = "linear"  # or "constant": stay at `warmup_from`, then jump (Section 4.2 for ResNet-110)
    milestones: tuple[float, ...] = (0.5, 0.75)  # as shares of the run
    every_epochs: int = 10
    gamma: float = 0.1
    patience: int = 3  # epochs
    rise: float = 0.3
    final: float = 0.0  # as a share of the peak

    def __call__(self, step: int, scores: Sequence[Score] = ()) -> float:
        if step < self.warmup_steps:
            done = step / self.warmup_steps if self.warmup_shape == "linear" else 0.0
            return self.peak * (self.warmup_from + (1 - self.warmup_from) * done)
        return self.peak * SHAPES[self.shape](self, step, scores)


def constant(_schedule: Schedule, _step: int, _scores: Sequence[Score]) -> float:
    """Return 1: the peak throughout."""
    return 1.0


def linear(schedule: Schedule, step: int, _scores: Sequence[Score]) -> float:
    """A straight line from the peak to `final`, beginning after the warm-up."""
    progress = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return 1 + (schedule.final - 1) * min(1.0, progress)


def step_decay(schedule: Schedule, step: int, _scores: Sequence[Score]) -> float:
    """Multiply by `gamma` after every `every_epochs` epochs."""
    return schedule.gamma ** (step // schedule.steps_per_epoch // schedule.every_epochs)


def multistep(schedule: Schedule, step: int, _scores: Sequence[Score]) -> float:
    """Multiply by `gamma` at each of the `milestones` (He et al. 2015, Section 4.2: at 1/2 and 3/4)."""
    return schedule.gamma ** sum(step >= milestone * schedule.steps for milestone in schedule.milestones)


def cosine(schedule: Schedule, step: int, _scores: Sequence[Score]) -> float:
    """Half a cosine from the peak to `final` (Loshchilov and Hutter 2016), beginning after the warm-up."""
    progress = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return between(1.0, schedule.final, progress)


def one_cycle(schedule: Schedule, step: int, _scores: Sequence[Score]) -> float:
    """A cosine from 1/25 of the peak up to it over `rise` of the run, then one down to 1/250,000 (Smith 2017)."""
    top = schedule.rise * schedule.steps - 1
    if step <= top:
        return between(1 / 25, 1.0, step / top if top else 1.0)  # a rise within one step begins at the peak
    return between(1.0, 1 / 25e4, (step - top) / (schedule.steps - 1 - top))


def plateau(schedule: Schedule, _step: int, scores: Sequence[Score]) -> float:
    """Multiply by `gamma` whenever the validation loss has not fallen by 0.01 % for more than `patience` epochs."""
    factor, best, waited = 1.0, math.inf, 0
    for score in scores:
        if score.loss < best * (1 - 1e-4):
            best, waited = score.loss, 0
        else:
            waited += 1
        if waited > schedule.patience:
            factor, waited = factor * schedule.gamma, 0
    return factor


def between(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


Shape = Callable[[Schedule, int, Sequence[Score]], float]
SHAPES: dict[str, Shape] = {
    "constant": constant,
    "linear": linear,
    "step": step_decay,
    "multistep": multistep,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "plateau": plateau,
}


@dataclass(frozen=True)
class Extended:
    """A schedule that ended at `start` and was extended to `steps`; earlier steps keep their learning rates.

    A constant schedule stays constant; after any other, a cosine falls from a tenth of the peak to zero.
    """

    before: Schedule | Extended
    start: int
    steps: int

    def __call__(self, step: int, scores: Sequence[Score] = ()) -> float:
        if step < self.start:
            return self.before(step, scores)
        if self.first.shape == "constant":
            return self.first.peak
        tail = replace(self.first, shape="cosine", peak=self.first.peak / 10, warmup_steps=0, final=0.0)
        return replace(tail, steps=self.steps - self.start)(step - self.start)

    @property
    def first(self) -> Schedule:
        return self.before if isinstance(self.before, Schedule) else self.before.first
