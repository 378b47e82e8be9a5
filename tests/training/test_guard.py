"""NaN and infinity never reach weights or running statistics, and a skipped step changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import NonFinite
from resnetlab.models import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runs.messages import epoch_line
from resnetlab.runtime import Runtime
from resnetlab.training.checkpoint import optimizer_tensors
from resnetlab.training.loop import Batches, EpochReport, Plan, TrainState, fit, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

RUNTIME = Runtime(torch.device("cpu"))
SEE = Preprocessing(8, 8, 1, (0.5,), (0.25,))
PLAN = Plan(steps=12, schedule=Schedule("constant", 0.05, 12, 4), loss_fn=torch.nn.CrossEntropyLoss())


def state(optimizer: str, *, skips: int) -> TrainState:
    model = build_model(Architecture("basic", (1, 1), width=8, stem="cifar"), 3, in_channels=1)
    return TrainState.begin(model, make_optimizer(model, optimizer, lr=0.05), RUNTIME, skips=skips)


def split(count: int = 32) -> Split:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 8, 8, 1), dtype=torch.uint8, generator=draw)
    return Split(pixels, torch.arange(count) % 3, tuple(f"image-{i}" for i in range(count)))


@dataclasses.dataclass(frozen=True)
class Poisoned(TrainBatches):
    """Training batches of which some have a pixel that is no number."""

    numbers: tuple[tuple[int, int], ...] = ()  # (epoch, batch)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch, start, stop), start):
            if (epoch, number) in self.numbers:
                batch.images[0, 0, 0, 0] = float("nan")
            yield batch


def batches(*numbers: tuple[int, int]) -> Batches:
    train = Poisoned(split(), SEE, (), 8, 0, RUNTIME, numbers=numbers)
    scored = EvalBatches(split(), SEE, 256, RUNTIME)
    return Batches(train, scored, scored)


def everything(state: TrainState) -> dict[str, Tensor]:
    tensors = state.model.state_dict() | optimizer_tensors(state.model, state.optimizer) | {"sums": state.sums}
    return {n: value.clone() for n, value in tensors.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_that_is_not_finite_changes_nothing(optimizer: str, steps_before: int) -> None:
    ours = state(optimizer, skips=1)
    train = batches((0, steps_before)).train
    *sound, bad = train.epoch(0, 0, steps_before + 1)
    for batch in sound:
        train_step(ours, batch, PLAN, RUNTIME)
    before = everything(ours)
    train_step(ours, bad, PLAN, RUNTIME)
    after = everything(ours)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert ours.guard.counts.tolist() == [1, -1]
    train_step(ours, next(iter(batches().train.epoch(1))), PLAN, RUNTIME)
    assert all(value.isfinite().all() for value in everything(ours).values())
    assert not torch.equal(everything(ours)["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize("skips", [0, 1])
def test_a_step_with_an_infinite_running_statistic_is_skipped_although_its_loss_is_finite(skips: int) -> None:
    ours = state("sgd", skips=skips)
    train_step(ours, next(batches().train.epoch(0)), PLAN, RUNTIME)
    with torch.no_grad():
        ours.model.conv1.weight.mul_(1e25)  # the variance overflows, and the norm divides by infinity: zeros
    before = copy.deepcopy(ours.model.state_dict())
    batch = next(batches().train.epoch(1))
    assert PLAN.loss_fn(copy.deepcopy(ours.model)(batch.images), batch.labels).isfinite()
    train_step(ours, batch, PLAN, RUNTIME)
    assert all(torch.equal(value, before[name]) for name, value in ours.model.state_dict().items())
    assert ours.guard.skipped_steps() == 1
    assert ours.guard.failed_step() == (None if skips else 1)


def test_buffers_of_any_shape_are_restored() -> None:
    class Counting(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 3))
            self.register_buffer("table", torch.zeros(3, 2).t())  # the only one of its dtype, and not contiguous
            self.register_buffer("calls", torch.tensor(0))
            self.register_buffer("empty", torch.zeros(0, 3))

        def forward(self, images: Tensor) -> Tensor:
            self.table += 1
            self.calls += 1
            return super().forward(images)

    model = Counting()
    ours = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.05), RUNTIME, skips=1)
    train = batches((0, 1)).train
    good, bad = train.epoch(0, 0, 2)
    train_step(ours, good, PLAN, RUNTIME)
    train_step(ours, bad, PLAN, RUNTIME)
    assert ours.guard.skipped_steps() == 1
    assert torch.equal(model.table, torch.ones(2, 3))
    assert model.calls == 1


def test_a_buffer_that_is_meant_to_be_infinite_skips_nothing_and_is_not_averaged() -> None:
    class Masked(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 3))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
            self.register_buffer("empty", torch.zeros(0))

    model = Masked()
    ours = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.05), RUNTIME, ema=0.5)
    train_step(ours, next(batches().train.epoch(0)), PLAN, RUNTIME)
    assert ours.guard.skipped_steps() == 0
    assert ours.average.model.state_dict()["mask"].tolist() == [0.0, -torch.inf]


def test_the_run_stops_at_the_first_one_and_names_its_images() -> None:
    ours, poisoned = state("sgd", skips=0), batches((1, 2))
    events = fit(ours, poisoned, PLAN, RUNTIME)
    names = poisoned.train.names(1, 2)
    assert len(names) == 8
    with pytest.raises(
        NonFinite, match=rf"in epoch 2 \(step 7, .*images: {names[0]}, {names[1]}, {names[2]} and 5 more"
    ):
        list(events)
    assert all(value.isfinite().all() for value in ours.model.state_dict().values())


def test_as_many_steps_as_allowed_are_skipped_and_one_more_is_an_error() -> None:
    ours = state("sgd", skips=2)
    reports = [e for e in fit(ours, batches((0, 1), (2, 0)), PLAN, RUNTIME) if isinstance(e, EpochReport)]
    assert len(reports) == 3
    assert [report.left_out for report in reports] == [1, 1, 2]
    assert "2 steps skipped so far" in epoch_line(reports[-1], 3, is_best=False)
    assert all(0 < report.running_loss < 10 for report in reports)
    with pytest.raises(NonFinite, match=r"in epoch 3 \(step 9"):
        list(fit(state("sgd", skips=1), batches((0, 1), (2, 0)), PLAN, RUNTIME))


def test_the_guard_changes_no_bit_of_finite_steps() -> None:
    watched, bare = state("sgd", skips=0), state("sgd", skips=0)
    for batch in batches().train.epoch(0):
        train_step(watched, batch, PLAN, RUNTIME)
        loss = PLAN.loss_fn(bare.model(batch.images), batch.labels)
        bare.optimizer.zero_grad()
        loss.backward()
        bare.optimizer.step()
    assert all(torch.equal(value, bare.model.state_dict()[n]) for n, value in watched.model.state_dict().items())
