"""The training loop: `fit` repeats `train_step`, and scores the network after each epoch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn, optim
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from resnetlab.data.loaders import Batch
from resnetlab.data.random import derived_seed
from resnetlab.distributed import Processes
from resnetlab.errors import NonFinite, printable
from resnetlab.evaluation.evaluate import evaluate
from resnetlab.evaluation.metrics import Score
from resnetlab.runtime import Runtime
from resnetlab.training.ema import WeightAverage
from resnetlab.training.guard import Guard
from resnetlab.training.selection import has_stalled

CHECK_EVERY = 50  # steps between two readings of the guard's counts; each waits for the device


@dataclass
class TrainState:
    """Everything that changes during training, which is the content of a checkpoint.

    The network may be any module that maps images (N, C, H, W) to logits (N, classes).
    """

    model: nn.Module
    replica: nn.Module  # the network as it is called: itself or, with several processes, wrapped (`replicas.py`)
    average: WeightAverage
    optimizer: optim.Optimizer
    scaler: GradScaler
    guard: Guard
    sums: Tensor  # loss, correct answers and images of the unfinished epoch, on the device
    step: int = 0
    batch: int = 0  # finished batches of the unfinished epoch
    seconds: float = 0.0  # time spent on them
    scores: tuple[Score, ...] = ()  # validation scores of the finished epochs
    local_statistics: tuple[Tensor, ...] = ()  # running statistics that each process has of its own images only

    @classmethod
    def begin(
        cls, model: nn.Module, optimizer: optim.Optimizer, runtime: Runtime, *, ema: float = 0.0, skips: int = 0
    ) -> TrainState:
        """Return the state before the first step. `model` must be on the device.

        `ema` is the decay of the weight average (0: none), `skips` the number of non-finite steps that may be skipped.
        """
        return cls(
            model=model,
            replica=model,
            average=WeightAverage(model, ema),
            optimizer=optimizer,
            scaler=runtime.grad_scaler(),
            guard=Guard(model, optimizer, skips, runtime.device),
            sums=torch.zeros(3, dtype=torch.float32, device=runtime.device),
        )

    @property
    def epoch(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Plan:
    """The settings of a training run, which do not change while it runs."""

    steps: int
    schedule: Callable[[int, Sequence[Score]], float]
    loss_fn: nn.Module
    accumulate: int = 1
    clip_norm: float = math.inf
    criterion: str = "accuracy"
    patience: int = 0  # epochs without improvement before training stops early; 0: never
    seed: int | None = None  # for random numbers that the model draws (dropout); None: a model that draws none

    def is_over(self, state: TrainState) -> bool:
        """Return True after the last step, or between two epochs if training has stalled."""
        between_epochs = state.batch == 0
        return between_epochs and (state.step >= self.steps or has_stalled(state.scores, self.criterion, self.patience))


class TrainingBatches(Protocol):
    """Training batches of any epoch, from any position in it: `TrainBatches`, or any other class with these methods."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch from number `start` up to `stop` (default: all)."""
        ...

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in one batch."""
        ...


@dataclass(frozen=True)
class Batches:
    """Training batches, a fixed sample of the training images without augmentation, and validation batches."""

    train: TrainingBatches
    train_sample: Iterable[Batch]
    val: Iterable[Batch]


@dataclass(frozen=True)
class StepDone:
    """An optimiser step is complete: the state can be saved, and training may stop here."""

    epoch: int
    batch: int
    batches: int


@dataclass(frozen=True)
class EpochReport:
    """The record of one epoch. The `running` scores are means over augmented batches while the weights changed.

    In mixed images (MixUp, CutMix), `running_accuracy` counts a prediction by the share of its class in the image.
    """

    epoch: int  # from 1
    step: int
    lr: float
    running_loss: float
    running_accuracy: float
    train: Score
    val: Score
    train_seconds: float
    images_per_second: float
    left_out: int = 0  # non-finite steps of the run so far, which were skipped; the name is a key of metrics.jsonl


def fit(state: TrainState, batches: Batches, plan: Plan, runtime: Runtime) -> Iterator[StepDone | EpochReport]:
    """Train from `state` to the end of the plan, and yield events.

    Yields a `StepDone` after every optimiser step and an `EpochReport` after every epoch's validation. After each event
    `state` can be saved, and the caller may stop iterating.

    Raises NonFinite if more steps were skipped than the guard allows, or if the validation loss is not finite.
    """
    while not plan.is_over(state):
        state.model.train()
        began = time.perf_counter() - state.seconds
        stop = min(len(batches.train), state.batch + plan.steps - state.step)
        for batch in together(batches.train.epoch(state.epoch, state.batch, stop), runtime.processes):
            with runtime.deterministic_algorithms(), own_generators(plan.seed, "model", state.step, runtime.device):
                train_step(state, batch, plan, runtime)
            state.seconds = time.perf_counter() - began
            if state.step % CHECK_EVERY == 0:
                require_finite(state, batches, plan)
            yield StepDone(state.epoch, state.batch, stop)
        with runtime.deterministic_algorithms(), own_generators(plan.seed, "score", state.epoch, runtime.device):
            report = finish_epoch(state, batches, plan, runtime)
        yield report


def together(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch]:
    """Yield batches. An error in reading those of one process, such as a damaged image, is raised in all of them.

    Otherwise the others would only notice that it has ended.
    """
    while True:
        with processes.together():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def own_generators(seed: int | None, purpose: str, number: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for one step or evaluation, and restore them afterwards. Does nothing without a seed.

    A model with dropout then draws the same numbers in the same step, in a resumed training, too.
    """
    if seed is None:
        yield
        return
    derived = derived_seed(seed, purpose, number) % 2**63
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(derived)
        if device.type == "cuda":
            torch.cuda.manual_seed(derived)
        if device.type != "mps":
            yield
            return
        before = torch.mps.get_rng_state()
        torch.mps.manual_seed(derived)
        try:
            yield
        finally:
            torch.mps.set_rng_state(before)


def train_step(state: TrainState, batch: Batch, plan: Plan, runtime: Runtime) -> None:
    """Do one optimiser step: forward and backward passes for each part of the batch, gradient clipping, update.

    Of several processes, each has a part of the batch; after the step all have the same state, bit for bit.
    """
    lr = plan.schedule(state.step, state.scores)
    for group in state.optimizer.param_groups:
        group["lr"] = lr

    before, sums = state.guard.snapshot(), torch.zeros_like(state.sums)
    parts = max(1, min(plan.accumulate, len(batch.labels) // 2))  # a norm cannot train on a single image
    pairs = zip(batch.images.tensor_split(parts), batch.targets.tensor_split(parts), strict=True)
    for number, (images, targets) in enumerate(pairs, 1):
        with averaged_gradient(state.replica, number == parts):
            with runtime.autocast():
                logits = state.replica(images)
            loss = plan.loss_fn(logits.float(), targets)
            state.scaler.scale(loss * (len(targets) / len(batch.labels))).backward()
        with torch.no_grad():
            correct = correct_answers(logits, targets)
            sums += torch.stack((loss * len(targets), correct, loss.new_full((), len(targets))))

    runtime.processes.reduce([sums], state.local_statistics)
    state.scaler.unscale_(state.optimizer)
    norm = state.guard.gradient_norm()
    checked = torch.zeros_like(norm) if state.scaler.is_enabled() else norm  # a scaler skips such steps by itself
    bad = state.guard.check_finite(state.step, before, sums[0], checked)
    if plan.clip_norm < math.inf:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), plan.clip_norm, norm)
    state.scaler.step(state.optimizer)  # a disabled scaler passes everything through
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)

    state.sums += torch.where(bad, 0, sums)
    state.average.update()
    state.step += 1
    state.batch += 1


def averaged_gradient(replica: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Average the gradient over the processes in the backward pass of the last part of a batch only."""
    if isinstance(replica, DistributedDataParallel) and not is_last:
        return replica.no_sync()
    return contextlib.nullcontext()


def correct_answers(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the number of correct predictions, a float scalar on the device.

    Targets are labels (N,), or shares of classes (N, classes): in a mixed image, a prediction counts by the share of
    its class.

    >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    >>> correct_answers(logits, torch.tensor([0, 1])).item()
    1.0
    >>> correct_answers(logits, torch.tensor([[0.75, 0.25], [0.0, 1.0]])).item()
    0.75
    """
    predicted = logits.argmax(1)
    if targets.ndim == 1:
        return (predicted == targets).sum().float()
    return targets.gather(1, predicted[:, None]).sum()


def finish_epoch(state: TrainState, batches: Batches, plan: Plan, runtime: Runtime) -> EpochReport:
    """Score the weights after an epoch, add the score to the state, and reset the sums for the next epoch."""
    require_finite(state, batches, plan)
    loss, correct, images = state.sums.tolist()
    seconds = state.seconds
    lr = plan.schedule(state.step - 1, state.scores)
    train = evaluate(state.average.model, batches.train_sample, runtime)
    val = evaluate(state.average.model, batches.val, runtime)
    if not math.isfinite(val.loss):  # the epoch's last step may have diverged
        raise NonFinite(f"the validation loss became {val.loss} in epoch {state.epoch + 1} ({advice(state.step, lr)})")
    state.scores += (val,)
    state.sums.zero_()
    state.batch, state.seconds = 0, 0.0
    return EpochReport(
        epoch=state.epoch,
        step=state.step,
        lr=lr,
        running_loss=loss / max(images, 1),  # 0 images if every step was skipped
        running_accuracy=correct / max(images, 1),
        train=train,
        val=val,
        train_seconds=seconds,
        images_per_second=images / max(seconds, 1e-9),
        left_out=state.guard.skipped_steps(),
    )


def require_finite(state: TrainState, batches: Batches, plan: Plan) -> None:
    """Raise NonFinite, naming the step and its images, if more steps were skipped than are allowed."""
    failed = state.guard.failed_step()
    if failed is None:
        return
    began = state.step - state.batch  # the step at which this epoch began
    names = batches.train.names(state.epoch, failed - began)
    shown = f"{', '.join(map(printable, names[:3]))}{f' and {len(names) - 3} more' * (len(names) > 3)}"
    when = advice(failed + 1, plan.schedule(failed, state.scores))
    raise NonFinite(
        f"the loss, its gradient or a running statistic became NaN or infinite in epoch {state.epoch + 1} ({when}); "
        f"its images: {shown}"
    )


def advice(step: int, lr: float) -> str:
    return f"step {step}, learning rate {lr:.3g}: try a smaller `lr`, a warm-up, or a `clip_norm` of 1"
