"""The training loop. Read `fit`, then `train_step`; there is nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim
from torch.amp import GradScaler

from resnetlab.data.loaders import Batch, TrainBatches
from resnetlab.errors import NonFinite
from resnetlab.evaluation.evaluate import evaluate
from resnetlab.evaluation.metrics import Score
from resnetlab.models.resnet import ResNet
from resnetlab.runtime import Runtime
from resnetlab.training.average import WeightAverage
from resnetlab.training.selection import has_stalled


@dataclass
class TrainState:
    """Everything that changes during training, so everything a checkpoint holds."""

    model: ResNet
    average: WeightAverage[ResNet]
    optimizer: optim.Optimizer
    scaler: GradScaler
    sums: Tensor  # loss, correct answers and images of the unfinished epoch, on the device
    step: int = 0
    batch: int = 0  # batches of the unfinished epoch that are done
    seconds: float = 0.0  # spent on them
    scores: tuple[Score, ...] = ()  # validation scores of the finished epochs

    @property
    def epoch(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Plan:
    """Everything that stays the same."""

    steps: int
    schedule: Callable[[int, Sequence[Score]], float]
    loss_fn: nn.Module
    accumulate: int = 1
    clip_norm: float = math.inf
    criterion: str = "accuracy"
    patience: int = 0  # epochs without a better one before training stops early; 0 is never

    def is_over(self, state: TrainState) -> bool:
        between_epochs = state.batch == 0
        return between_epochs and (state.step >= self.steps or has_stalled(state.scores, self.criterion, self.patience))


@dataclass(frozen=True)
class Batches:
    """What the network sees: training batches, a fixed sample of the same images unaugmented, and validation."""

    train: TrainBatches
    train_sample: Iterable[Batch]
    val: Iterable[Batch]


@dataclass(frozen=True)
class StepDone:
    """The state is between two steps: it can be saved, and training may stop here. Reading this waits for nothing."""

    epoch: int
    batch: int
    batches: int


@dataclass(frozen=True)
class EpochReport:
    """One epoch as it is recorded; `running` scores average over augmented batches while the weights change."""

    epoch: int  # from 1
    step: int
    lr: float
    running_loss: float
    running_accuracy: float
    train: Score
    val: Score
    train_seconds: float
    images_per_second: float


def fit(state: TrainState, batches: Batches, plan: Plan, runtime: Runtime) -> Iterator[StepDone | EpochReport]:
    """Train from wherever `state` is to the end of the plan; the caller records, saves, plots, and may stop listening.

    Raises NonFinite, before the report of an epoch whose loss is not a number.
    """
    while not plan.is_over(state):
        state.model.train()
        began = time.perf_counter() - state.seconds
        stop = min(len(batches.train), state.batch + plan.steps - state.step)
        for batch in batches.train.epoch(state.epoch, state.batch, stop):
            train_step(state, batch, plan, runtime)
            state.seconds = time.perf_counter() - began
            yield StepDone(state.epoch, state.batch, stop)
        yield finish_epoch(state, batches, plan, runtime)


def train_step(state: TrainState, batch: Batch, plan: Plan, runtime: Runtime) -> None:
    """One optimiser step: forward and backward over the parts of a batch, clip, update."""
    lr = plan.schedule(state.step, state.scores)
    for group in state.optimizer.param_groups:
        group["lr"] = lr

    parts = max(1, min(plan.accumulate, len(batch.labels) // 2))  # a norm cannot train on a single image
    for images, labels in zip(batch.images.tensor_split(parts), batch.labels.tensor_split(parts), strict=True):
        with runtime.autocast():
            logits = state.model(images)
        loss = plan.loss_fn(logits.float(), labels)
        state.scaler.scale(loss * (len(labels) / len(batch.labels))).backward()
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            state.sums += torch.stack((loss * len(labels), correct.float(), loss.new_full((), len(labels))))

    if plan.clip_norm < math.inf:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), plan.clip_norm)
    state.scaler.step(state.optimizer)  # a disabled scaler passes everything through
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)

    state.average.update()
    state.step += 1
    state.batch += 1


def finish_epoch(state: TrainState, batches: Batches, plan: Plan, runtime: Runtime) -> EpochReport:
    """Score the epoch's weights, count the epoch as done, and begin the next one's sums."""
    loss, correct, images = state.sums.tolist()  # the one place of an epoch that waits for the device
    seconds = state.seconds
    lr = plan.schedule(state.step - 1, state.scores)
    require_finite("training", loss / images, state, lr)
    train = evaluate(state.average.model, batches.train_sample, runtime)
    val = evaluate(state.average.model, batches.val, runtime)
    require_finite("validation", val.loss, state, lr)  # the epoch's last step may be the one that blew up
    state.scores += (val,)
    state.sums.zero_()
    state.batch, state.seconds = 0, 0.0
    return EpochReport(
        epoch=state.epoch,
        step=state.step,
        lr=lr,
        running_loss=loss / images,
        running_accuracy=correct / images,
        train=train,
        val=val,
        train_seconds=seconds,
        images_per_second=images / seconds,
    )


def require_finite(which: str, loss: float, state: TrainState, lr: float) -> None:
    """NonFinite, with what to try, if a loss is not a number."""
    if not math.isfinite(loss):
        raise NonFinite(
            f"the {which} loss became {loss} in epoch {state.epoch + 1} (step {state.step}, learning rate {lr:.3g}); "
            "try a smaller --lr, a warm-up, or --clip-norm 1"
        )
