"""Learning rates as pure functions equal the schedulers of torch, which keep state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim import lr_scheduler as oracle

from resnetlab.evaluation.metrics import Score
from resnetlab.training.schedule import SHAPES, Extended, Schedule

PEAK = 0.4


def rates(make: Callable[[SGD], oracle.LRScheduler], steps: int) -> list[float]:
    """What a scheduler of torch, stepped after every optimiser step, gives to each step."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(schedule: Schedule | Extended) -> list[float]:
    return [schedule(step) for step in range(schedule.steps)]


def scores(losses: list[float]) -> tuple[Score, ...]:
    return tuple(Score(loss, 0.5, 0.5) for loss in losses)


def test_constant_is_the_peak() -> None:
    assert ours(Schedule("constant", PEAK, 20, 5)) == [PEAK] * 20


@pytest.mark.parametrize(("per_epoch", "every", "gamma"), [(5, 1, 0.1), (3, 4, 0.5), (1, 7, 0.97), (40, 1, 0.1)])
def test_step_equals_torch(per_epoch: int, every: int, gamma: float) -> None:
    schedule = Schedule("step", PEAK, 40, per_epoch, every_epochs=every, gamma=gamma)
    assert ours(schedule) == pytest.approx(rates(lambda o: oracle.StepLR(o, per_epoch * every, gamma), 40), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 40, 101])
@pytest.mark.parametrize("milestones", [(), (0.5,), (0.5, 0.75), (0.3, 0.6, 0.9), (0.5, 0.5)])
def test_multistep_equals_torch(steps: int, milestones: tuple[float, ...]) -> None:
    schedule = Schedule("multistep", PEAK, steps, 5, milestones=milestones)
    places = [math.ceil(share * steps) for share in milestones]
    assert ours(schedule) == pytest.approx(rates(lambda o: oracle.MultiStepLR(o, places), steps), rel=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 40, 101])
def test_cosine_equals_torch(steps: int, final: float) -> None:
    theirs = rates(lambda o: oracle.CosineAnnealingLR(o, steps, eta_min=final * PEAK), steps)
    assert ours(Schedule("cosine", PEAK, steps, 5, final=final)) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 3, 10, 40, 101])
def test_one_cycle_equals_torch(steps: int, rise: float) -> None:
    if rise * steps == 1:  # there torch divides by zero; it rises within no step, so it begins at the peak
        assert Schedule("one_cycle", PEAK, steps, 5, rise=rise)(0) == PEAK
        return
    theirs = one_cycle_rates(steps, rise)
    assert ours(Schedule("one_cycle", PEAK, steps, 5, rise=rise)) == pytest.approx(theirs, rel=1e-9)


def one_cycle_rates(steps: int, rise: float) -> list[float]:
    """OneCycleLR refuses to be stepped after its last step."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = oracle.OneCycleLR(optimizer, PEAK, total_steps=steps, pct_start=rise, cycle_momentum=False)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@settings(deadline=None)
@given(
    losses=st.lists(st.floats(0.1, 2.0) | st.sampled_from([1.0, 1.0 - 1e-4, 1.0 - 1e-5]), max_size=40),
    patience=st.integers(0, 4),
    gamma=st.sampled_from([0.1, 0.5]),
)
def test_plateau_equals_torch(losses: list[float], patience: int, gamma: float) -> None:
    schedule = Schedule("plateau", PEAK, 1000, 5, patience=patience, gamma=gamma)
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = oracle.ReduceLROnPlateau(optimizer, "min", factor=gamma, patience=patience, threshold=1e-4, eps=0)
    for epoch, loss in enumerate(losses):
        optimizer.step()
        scheduler.step(loss)
        assert schedule(5 * epoch, scores(losses[: epoch + 1])) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9
        )


@pytest.mark.parametrize("warmup", [1, 5, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_warm_up_equals_torch_and_then_the_shape_takes_over(shape: str, warmup: int) -> None:
    schedule = Schedule(shape, PEAK, 40, 5, warmup_steps=warmup, warmup_from=0.1)
    linear = rates(lambda o: oracle.LinearLR(o, 0.1, 1.0, total_iters=warmup), warmup)
    assert ours(schedule)[:warmup] == pytest.approx(linear, rel=1e-9)
    if shape == "cosine":  # it begins after the warm-up, and still ends with the run
        rest = rates(lambda o: oracle.CosineAnnealingLR(o, 40 - warmup), 40 - warmup)
    elif shape == "linear":  # so does this one
        rest = rates(lambda o: oracle.LinearLR(o, 1.0, 0.0, total_iters=40 - warmup), 40 - warmup)
    else:
        rest = ours(Schedule(shape, PEAK, 40, 5))[warmup:]
    assert ours(schedule)[warmup:] == pytest.approx(rest, rel=1e-9)


def test_constant_warm_up_stays_low_and_then_jumps() -> None:
    """He et al. 2015, Section 4.2: ResNet-110 begins at a tenth of the learning rate."""
    schedule = Schedule("multistep", 0.1, 64_000, 391, warmup_steps=400, warmup_from=0.1, warmup_shape="constant")
    assert [schedule(step) for step in (0, 399, 400, 31_999)] == pytest.approx([0.01, 0.01, 0.1, 0.1])
    assert [schedule(step) for step in (32_000, 47_999, 48_000, 63_999)] == pytest.approx([0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("shape", SHAPES)
def test_an_extension_leaves_past_steps_as_they_were(shape: str) -> None:
    before = Schedule(shape, PEAK, 20, 5, warmup_steps=3)
    once = Extended(before, 20, 50)
    twice = Extended(once, 50, 60)
    assert ours(once)[:20] == ours(before)
    assert ours(twice)[:50] == ours(once)
    assert twice.first == before


@pytest.mark.parametrize("shape", SHAPES)
def test_an_extension_is_constant_or_a_cosine_from_a_tenth_of_the_peak(shape: str) -> None:
    tail = ours(Extended(Schedule(shape, PEAK, 20, 5, warmup_steps=3, final=0.5), 20, 50))[20:]
    cosine = [PEAK / 10 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert tail == pytest.approx([PEAK] * 30 if shape == "constant" else cosine, rel=1e-9)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    steps = draw(st.integers(1, 200))
    settings: dict[str, Any] = {
        "warmup_steps": draw(st.integers(0, 250)),
        "warmup_from": draw(st.floats(0, 1)),
        "warmup_shape": draw(st.sampled_from(["linear", "constant"])),
        "milestones": tuple(sorted(draw(st.lists(st.floats(0.01, 0.99), max_size=4)))),
        "every_epochs": draw(st.integers(1, 20)),
        "gamma": draw(st.floats(0.01, 1)),
        "patience": draw(st.integers(0, 5)),
        "rise": draw(st.floats(0.01, 0.99) | st.sampled_from([0.1, 0.2, 0.5])),
        "final": draw(st.floats(0, 1)),
    }
    return Schedule(
        draw(st.sampled_from(list(SHAPES))), draw(st.floats(1e-6, 10)), steps, draw(st.integers(1, 50)), **settings
    )


@settings(deadline=None)
@given(schedules(), st.lists(st.floats(0, 5), max_size=20), st.integers(0, 100))
def test_every_rate_lies_between_zero_and_the_peak_and_is_a_pure_function(
    schedule: Schedule, losses: list[float], more: int
) -> None:
    extended = Extended(schedule, schedule.steps, schedule.steps + more)
    seen = scores(losses)
    once = [extended(step, seen) for step in range(extended.steps)]
    backwards = [extended(step, list(seen)) for step in reversed(range(extended.steps))]
    assert once == backwards[::-1]
    assert all(0 <= rate <= schedule.peak * (1 + 1e-12) for rate in once)
