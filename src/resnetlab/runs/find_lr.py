"""The learning-rate range test (Smith 2017): a short training whose learning rate grows until the loss goes up."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnetlab.data.loaders import Batch
from resnetlab.errors import BadInput, NonFinite, printable
from resnetlab.evaluation.metrics import Score
from resnetlab.runs.arguments import is_number, require_arguments
from resnetlab.runs.build import Experiment, resolved
from resnetlab.runs.config import RunConfig
from resnetlab.runtime import isolated
from resnetlab.training.loop import train_step

Floats: TypeAlias = NDArray[np.float64]

TOO_HIGH = 4.0  # the smoothed loss may be so many times its minimum before the test ends
REACH = 3.0  # steps: the standard deviation of the weights that smooth the loss
FEWEST = 10  # with fewer learning rates there is no slope to speak of


@dataclass(frozen=True)
class Rising:
    """A learning rate that grows by the same factor at every step, from `lowest` to `highest`.

    >>> [round(Rising(0.001, 1, 10)(step), 3) for step in (0, 3, 6, 9)]
    [0.001, 0.01, 0.1, 1.0]
    """

    lowest: float
    highest: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("lowest", "highest"):
            if not is_number(rate := getattr(self, name)):
                raise BadInput(f"{name} is {printable(repr(rate))[:60]}, but must be a number")
        if not 0 < self.lowest < self.highest < math.inf:
            raise BadInput(f"learning rates from {self.lowest:g} to {self.highest:g}: they must be above 0, and grow")
        if not isinstance(self.steps, Integral) or self.steps < FEWEST:
            given = printable(repr(self.steps))[:60]
            raise BadInput(f"`tries` is {given}, but must be a whole number from {FEWEST} up")

    def __call__(self, step: int, _scores: Sequence[Score] = ()) -> float:
        return float(self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1)))


@dataclass(frozen=True)
class RateTried:
    """One step of a range test."""

    rate: float
    loss: float
    step: int  # from 1
    steps: int


@dataclass(frozen=True)
class RangeTest:
    """The loss at each learning rate, and the learning rate that it suggests."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # of each step's batch, as it is trained on
    smoothed: tuple[float, ...]
    steepest: float | None  # the rate at which the smoothed loss falls fastest over the logarithm of the rate
    diverged: float | None  # the rate at which the test ended because the loss was too high or not finite
    suggestion: float | None

    @classmethod
    def of(cls, rates: Sequence[float], losses: Sequence[float], diverged: float | None) -> RangeTest:
        """Suggest the smaller of two rates: that of the steepest descent, and a tenth of that at which it diverged.

        Learning is fastest at the first; the second is a bound for networks that are only stable at lower rates. Both
        are for the peak of a schedule, and exact to a factor of two or three.
        """
        smooth = smoothed(losses)
        steepest = steepest_descent(np.asarray(rates), np.asarray(losses), smooth)
        suggestion = steepest
        if steepest is not None and diverged is not None:
            suggestion = min(steepest, diverged / 10)
        return cls(tuple(rates), tuple(losses), tuple(smooth.tolist()), steepest, diverged, suggestion)

    def lines(self) -> list[str]:
        """The suggestion and the reason for it, in words."""
        steepest = (
            "the loss did not fall by more than its noise"
            if self.steepest is None
            else f"the loss fell fastest at {self.steepest:.2g}"
        )
        diverged = "it did not diverge" if self.diverged is None else f"it diverged at {self.diverged:.2g}"
        tried = f"tried    {len(self.rates)} learning rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g}"
        if self.suggestion is None:
            return [
                f"{tried}: {steepest}; {diverged}",
                "suggest  nothing: try a smaller lowest rate, or another network or optimiser",
            ]
        why = "where the loss fell fastest" if self.suggestion == self.steepest else "a tenth of where it diverged"
        return [f"{tried}: {steepest}; {diverged}", f"suggest  `lr={self.suggestion:.2g}`, {why}"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@isolated(gradients=True)
def find_lr(
    config: RunConfig,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    tries: int = 100,
    on_event: Callable[[RateTried], object] | None = None,
) -> RangeTest:
    """Run a learning-rate range test on the network, data and optimiser of `config`; nothing is written.

    Takes one optimiser step at each of `tries` learning rates, from `lowest` to `highest`. The config's own learning
    rate, schedule and length are not used. `on_event` is called with a `RateTried` after each step.

    Raises NonFinite if the loss is not finite at the first rate, BadInput if the config cannot be trained.

    >>> find_lr(resnetlab.recipes.quickstart()).suggestion  # doctest: +SKIP
    """
    require_arguments(on_event=on_event)
    schedule = Rising(lowest, highest, tries)
    experiment = Experiment.of(resolved(config))
    state = experiment.state
    plan = dataclasses.replace(experiment.plan, steps=tries, schedule=schedule)
    rates: list[float] = []
    losses: list[float] = []
    state.model.train()
    for batch in itertools.islice(endless(experiment), tries):
        rate = schedule(state.step)
        state.sums.zero_()
        train_step(state, batch, plan, experiment.runtime)
        loss, _, images = state.sums.tolist()
        if not images:  # skipped by the guard: the loss or its gradient is not finite
            return ended(rates, losses, rate)
        rates.append(rate)
        losses.append(loss / images)
        smooth = smoothed(losses)
        if on_event is not None:
            on_event(RateTried(rate, losses[-1], state.step, tries))
        if smooth[-1] > TOO_HIGH * smooth.min():
            return ended(rates, losses, rate)
    return ended(rates, losses, None)


def ended(rates: Sequence[float], losses: Sequence[float], diverged: float | None) -> RangeTest:
    if not losses:
        raise NonFinite(f"the loss or its gradient is not finite at the first learning rate, {diverged:g}")
    return RangeTest.of(rates, losses, diverged)


def draw(config: RunConfig, found: RangeTest, path: Path) -> None:
    """Write the plot of a range test to a file."""
    from resnetlab.plots.rates import range_test  # matplotlib takes its time to import
    from resnetlab.plots.style import save

    title = f"{config.model.name} on {Path(config.data.name).name}, {config.optim.name}"
    numbers = (found.rates, found.losses, found.smoothed)
    figure = range_test(*numbers, title, steepest=found.steepest, diverged=found.diverged, suggestion=found.suggestion)
    save(figure, path)


def endless(experiment: Experiment) -> Iterator[Batch]:
    """The batches of a run, epoch after epoch."""
    for epoch in itertools.count():
        yield from experiment.batches.train.epoch(epoch)


def steepest_descent(rates: Floats, losses: Floats, smooth: Floats) -> float | None:
    """The rate at which the smoothed loss falls fastest over the rate's logarithm, before its minimum.

    The search begins after a fifth of the fall, because slopes before it are noise of small batches. It ends when the
    loss has risen by a tenth over its first values: a network that diverged may learn again later. None if the whole
    fall is no larger than the noise.
    """
    level = float(losses[: max(1, len(losses) // 10)].mean())
    (risen,) = np.nonzero(smooth > 1.1 * level)
    lowest = int(smooth[: risen[0] if len(risen) else None].argmin()) if smooth[0] <= 1.1 * level else 0
    fall, noise = level - smooth[lowest], float(np.median(np.abs(losses - smooth)[: lowest + 1]))
    if lowest == 0 or fall <= max(2 * noise, level / 100):
        return None
    (above,) = np.nonzero(smooth[:lowest] > level - fall / 5)
    begin = int(above[-1]) if len(above) else 0
    slope = np.gradient(smooth, np.log(rates))
    return float(rates[begin + int(slope[begin : lowest + 1].argmin())])


def smoothed(losses: Sequence[float]) -> Floats:
    """Each loss as a mean over those around it, weighted by a Gaussian; unlike a running mean, it does not lag."""
    step = np.arange(len(losses))
    weights = np.exp(-(((step[:, None] - step) / REACH) ** 2) / 2)
    return np.asarray((weights @ np.asarray(losses, np.float64)) / weights.sum(1))
