"""The loop equals a plain PyTorch loop, and a run that was interrupted equals one that was not."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resnetlab.data.augment import Augmentation, crop, flip
from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.mixing import Mixing
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables
from resnetlab.data.splits import Split
from resnetlab.errors import NonFinite
from resnetlab.evaluation.metrics import Score
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime, start
from resnetlab.training.checkpoint import load_checkpoint, optimizer_tensors, save_checkpoint
from resnetlab.training.loop import Batches, EpochReport, Plan, StepDone, TrainState, fit, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

# Not narrower: oneDNN's weight gradient of a strided 1×1 convolution of fewer than 8 channels writes past its memory on
# CPUs with AVX2 only, in channels_last (uxlfoundation/oneDNN, issue 6035).
TINY = Architecture("basic", (1, 1), width=8, stem="cifar")
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
STEPS = (Augmentation("crop", 2, partial(crop, padding=1)), Augmentation("flip", 1, flip))
MIXING = Mixing(3, mixup=0.4, cutmix=1.0)
FP32 = Runtime(torch.device("cpu"))
BF16 = Runtime(torch.device("cpu"), torch.bfloat16)


def random_split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3, tuple(f"{seed}/{i}" for i in range(count)))


def make_batches(
    runtime: Runtime = FP32, augmentations: Iterable[Augmentation] = STEPS, mixing: Mixing | None = None
) -> Batches:
    """Three batches of 8 in an epoch; the ragged tail of 2 is dropped."""
    return Batches(
        train=TrainBatches(random_split(26, 1), SEE, tuple(augmentations), 8, 7, runtime, mixing=mixing),
        train_sample=EvalBatches(random_split(10, 2), SEE, 4, runtime),
        val=EvalBatches(random_split(10, 3), SEE, 4, runtime),
    )


def make_state(
    optimizer: str = "sgd", *, ema: float = 0.0, runtime: Runtime = FP32, seed: int = 0, frozen: bool = False
) -> TrainState:
    model = runtime.place(build_model(TINY, 3, seed=seed))
    if frozen:
        model.freeze_backbone()
    rule = make_optimizer(model, optimizer, lr=0.0, weight_decay=0.01, decay_norms=False)
    return TrainState.begin(model, rule, runtime, ema=ema)


def constant(lr: float) -> Callable[..., float]:
    return Schedule("constant", lr, 1, 1)


def make_plan(steps: int, lr: float = 0.05) -> Plan:
    return Plan(steps=steps, schedule=constant(lr), loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1))


def weights(state: TrainState) -> dict[str, Tensor]:
    return copy.deepcopy(state.model.state_dict())


def displacement(state: TrainState, before: dict[str, Tensor]) -> Tensor:
    """How far the parameters moved, as one vector."""
    return torch.cat([(p.detach() - before[name]).flatten() for name, p in state.model.named_parameters()])


def reports(events: Iterable[StepDone | EpochReport]) -> list[EpochReport]:
    return [event for event in events if isinstance(event, EpochReport)]


def plain_epochs(epochs: int, lr: float) -> tuple[nn.Module, list[tuple[float, float]]]:
    """The same training as anyone would write it: the network, and each epoch's loss and accuracy on the way."""
    split = random_split(26, 1)
    model = build_model(TINY, 3).to(memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0}],
        lr=lr,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SEE.mean, SEE.std))
    found = []
    for epoch in range(epochs):
        tables = RandomTables(7, epoch, 26)
        mirrored = tables.uniform("flip", 1)[:, 0] < 0.5
        losses, correct = [], 0
        for indices in tables.permutation()[:24].split(8):
            images = torch.stack([split.images[i].flip(1) if mirrored[i] else split.images[i] for i in indices])
            x = images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
            y = split.labels[indices]
            optimizer.zero_grad()
            logits = model((x / 255 - mean) / std)
            loss = loss_fn(logits, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += int((logits.argmax(1) == y).sum())
        found.append((sum(losses) / 3, correct / 24))
    return model, found


def test_training_equals_a_plain_loop_bit_for_bit() -> None:
    state = make_state()
    told = reports(fit(state, make_batches(augmentations=STEPS[1:]), make_plan(6), FP32))
    model, expected = plain_epochs(2, 0.05)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name
    assert [report.running_accuracy for report in told] == [accuracy for _, accuracy in expected]
    assert [report.running_loss for report in told] == pytest.approx([loss for loss, _ in expected], rel=1e-6)


def test_mixed_images_are_trained_on_the_shares_of_their_classes() -> None:
    """The weights and the running scores of a plain loop, whose loss is written out."""
    batches = make_batches(mixing=MIXING)
    state = make_state()
    (told,) = reports(fit(state, batches, make_plan(3), FP32))
    model = build_model(TINY, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, "sgd", lr=0.05, weight_decay=0.01, decay_norms=False)
    losses, correct = [], 0.0
    for batch in batches.train.epoch(0):
        assert batch.shares is not None
        optimizer.zero_grad()
        logits = model(batch.images)
        loss = -((0.9 * batch.shares + 0.1 / 3) * logits.log_softmax(1)).sum(1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        correct += sum(float(share[k]) for share, k in zip(batch.shares, logits.argmax(1).tolist(), strict=True))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert told.running_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert told.running_accuracy == pytest.approx(correct / 24, rel=1e-5)


def test_deterministic_algorithms_are_on_while_it_computes_and_off_for_the_caller() -> None:
    runtime = start("cpu", "fp32", deterministic=True)
    seen = []

    class Loss(nn.CrossEntropyLoss):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(logits, labels)

    plan = dataclasses.replace(make_plan(3), loss_fn=Loss())
    for _ in fit(make_state(), make_batches(runtime), plan, runtime):
        assert not torch.are_deterministic_algorithms_enabled()
    assert seen == [True] * 3
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with runtime.deterministic_algorithms():
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_scores_come_from_the_network_in_evaluation_mode() -> None:
    state, batches = make_state(ema=0.5), make_batches()
    (report,) = reports(fit(state, batches, make_plan(3), FP32))
    network = state.average.model.eval()
    for score, split in ((report.train, random_split(10, 2)), (report.val, random_split(10, 3))):
        with torch.no_grad():
            logits = network(SEE.normalize(split.images))
        assert score.loss == pytest.approx(nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-5)
        assert score.accuracy == (logits.argmax(1) == split.labels).double().mean().item()
    assert state.scores == (report.val,)


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(parts: int) -> None:
    """In training mode batch norm sees the parts, so the norms are in evaluation mode here; parts differ in size."""
    batch = next(make_batches().train.epoch(0))
    moved = []
    for accumulate in (1, parts):
        state = make_state()
        state.model.eval()
        before = weights(state)
        train_step(state, batch, dataclasses.replace(make_plan(1), accumulate=accumulate), FP32)
        moved.append(displacement(state, before))
        assert state.sums[2] == 8
    assert moved[0].norm() > 1e-3
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("accumulate", "parts"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (8, [2] * 4), (99, [2] * 4)])
def test_no_part_of_a_batch_is_a_single_image(accumulate: int, parts: list[int]) -> None:
    """A norm cannot train on one image at one pixel, and there is nothing to average over."""
    state, seen = make_state(), []
    state.model.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    train_step(
        state, next(make_batches().train.epoch(0)), dataclasses.replace(make_plan(1), accumulate=accumulate), FP32
    )
    assert seen == parts


def test_clipping_bounds_the_gradient_and_keeps_its_direction() -> None:
    batch = next(make_batches().train.epoch(0))

    def step(clip_norm: float) -> Tensor:
        state = make_state()
        state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.0)  # at a rate of 1 it moves by the gradient
        before = weights(state)
        train_step(state, batch, dataclasses.replace(make_plan(1, lr=1.0), clip_norm=clip_norm), FP32)
        return displacement(state, before)

    free = step(math.inf)
    clipped = step(0.1)
    assert free.norm() > 0.2
    assert clipped.norm() == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-3, atol=1e-5)
    assert torch.equal(step(1e6), free)


def test_the_learning_rate_of_each_step_is_what_the_schedule_says() -> None:
    asked: list[tuple[int, int]] = []

    def schedule(step: int, scores: tuple[Score, ...]) -> float:
        asked.append((step, len(scores)))
        return 0.01 * (step + 1)

    state = make_state()
    used = []
    told = []
    for event in fit(state, make_batches(), dataclasses.replace(make_plan(5), schedule=schedule), FP32):
        if isinstance(event, StepDone):
            used.append(state.optimizer.param_groups[0]["lr"])
        else:
            told.append(event.lr)
    assert used == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert told == [0.03, 0.05]  # an epoch is told with the rate of its last step
    assert {(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)} == set(asked)


def test_a_limit_of_steps_stops_within_an_epoch_and_still_reports_it() -> None:
    state = make_state()
    events = list(fit(state, make_batches(), make_plan(4), FP32))
    assert [(e.epoch, e.batch, e.batches) for e in events if isinstance(e, StepDone)] == [
        (0, 1, 3),
        (0, 2, 3),
        (0, 3, 3),
        (1, 1, 1),
    ]
    assert [(e.epoch, e.step) for e in reports(events)] == [(1, 3), (2, 4)]
    assert isinstance(events[-1], EpochReport)
    assert (state.step, state.batch, state.epoch) == (4, 0, 2)
    assert state.sums.tolist() == [0, 0, 0]
    assert not list(fit(state, make_batches(), make_plan(4), FP32))  # it is over


def test_the_running_sums_cover_the_epoch_and_nothing_else() -> None:
    state = make_state()
    images = []
    for event in fit(state, make_batches(), make_plan(5), FP32):
        images.append(state.sums[2].item())
        if isinstance(event, EpochReport):
            seen = 24 if event.epoch == 1 else 16
            correct = event.running_accuracy * seen
            assert correct == pytest.approx(round(correct))
            assert event.images_per_second * event.train_seconds == pytest.approx(seen)
    assert images == [8, 16, 24, 0, 8, 16, 0]


@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_early_when_nothing_gets_better(patience: int) -> None:
    """A frozen network at a rate of 0 scores the same in every epoch: the first stays the best."""
    state = make_state(frozen=True)
    plan = dataclasses.replace(make_plan(30, lr=0.0), patience=patience)
    told = reports(fit(state, make_batches(), plan, FP32))
    assert len(told) == patience + 1
    assert plan.is_over(state)


def test_a_non_finite_loss_is_raised_before_the_epoch_is_reported() -> None:
    state = make_state()
    events = fit(state, make_batches(), make_plan(6, lr=1e30), FP32)
    assert [type(next(events)) for _ in range(3)] == [StepDone] * 3
    with pytest.raises(NonFinite, match=r"NaN or infinite in epoch 1 \(step 2, learning rate 1e\+30"):
        next(events)
    assert state.scores == ()


def test_a_non_finite_score_is_raised_before_the_epoch_is_reported() -> None:
    """The loss of the only step is finite; only what it did to the weights is not."""
    state = make_state()
    events = fit(state, make_batches(), make_plan(1, lr=1e38), FP32)
    assert isinstance(next(events), StepDone)
    with pytest.raises(NonFinite, match="validation loss became nan in epoch 1"):
        next(events)
    assert state.scores == ()


def test_a_frozen_backbone_keeps_every_bit() -> None:
    state = make_state("adamw", frozen=True)
    before = weights(state)
    list(fit(state, make_batches(), make_plan(6), FP32))
    moved = {name for name, value in weights(state).items() if not torch.equal(value, before[name])}
    assert moved == {"fc.weight", "fc.bias"}


def comparable(report: EpochReport) -> EpochReport:
    """All of a report but the clock."""
    return dataclasses.replace(report, train_seconds=0.0, images_per_second=0.0)


def everything(state: TrainState) -> dict[str, Tensor]:
    return {
        **{f"model.{name}": value for name, value in state.model.state_dict().items()},
        **{f"average.{name}": value for name, value in state.average.model.state_dict().items()},
        **{f"optimizer.{name}": value for name, value in optimizer_tensors(state.model, state.optimizer).items()},
        "sums": state.sums,
    }


@pytest.mark.parametrize(
    ("optimizer", "ema", "runtime", "mixing"),  # each value beside each value of the others
    [
        pytest.param("sgd", 0.0, FP32, None, id="sgd-plain-fp32", marks=pytest.mark.slow),
        pytest.param("sgd", 0.9, BF16, MIXING, id="sgd-ema-bf16-mixed"),
        pytest.param("adam", 0.0, BF16, None, id="adam-plain-bf16", marks=pytest.mark.slow),
        pytest.param("adam", 0.9, FP32, MIXING, id="adam-ema-fp32-mixed"),
        pytest.param("adamw", 0.0, FP32, MIXING, id="adamw-plain-fp32-mixed"),
        pytest.param("adamw", 0.9, BF16, None, id="adamw-ema-bf16", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    optimizer: str, ema: float, runtime: Runtime, mixing: Mixing | None, tmp_path: Path
) -> None:
    """From every state that `fit` yields, through a file, into a state that began with other weights."""
    batches = make_batches(runtime, mixing=mixing)
    plan = Plan(
        steps=8,  # two epochs and two thirds
        schedule=Schedule("plateau", 0.1 if optimizer == "sgd" else 0.02, 8, 3, patience=0, gamma=0.5),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1),
        accumulate=2,
        clip_norm=1.0,
    )
    whole = make_state(optimizer, ema=ema, runtime=runtime)
    told = []
    files = [tmp_path / "0.ckpt"]
    save_checkpoint(files[0], whole, {})
    for event in fit(whole, batches, plan, runtime):
        files.append(tmp_path / f"{len(files)}.ckpt")
        save_checkpoint(files[-1], whole, {})
        if isinstance(event, EpochReport):
            told.append(comparable(event))
    assert len(files) == 1 + 8 + 3

    for file in files:
        state = make_state(optimizer, ema=ema, runtime=runtime, seed=99)
        load_checkpoint(file, state)
        finished = state.epoch
        rest = reports(fit(state, batches, plan, runtime))
        assert list(map(comparable, rest)) == told[finished:], file.name
        assert state.scores == whole.scores
        assert (state.step, state.batch) == (whole.step, whole.batch)
        expected, found = everything(whole), everything(state)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (file.name, name)


def test_whoever_iterates_may_stop_between_any_two_steps() -> None:
    """Reading on after a pause is the same as never having paused: nothing runs ahead."""
    state = make_state()
    events = fit(state, make_batches(), make_plan(3), FP32)
    for expected in (1, 2, 3):
        next(events)
        assert (state.step, state.batch) == (expected, expected)
        assert all(parameter.grad is None for parameter in state.model.parameters())


def test_a_batch_is_what_the_network_gets() -> None:
    """No copy, no cast in between: the images of the loader are the input of the first layer."""
    state, seen = make_state(), []
    state.model.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    batch: Batch = next(make_batches().train.epoch(0))
    train_step(state, batch, make_plan(1), FP32)
    assert torch.equal(seen[0], batch.images)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
