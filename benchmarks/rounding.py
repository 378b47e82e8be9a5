"""Measure the rounding of bf16: logits and gradients of a training step, ours and torch's own bf16, against float64.

The same network, weights and batch of random images in float64, in torch's fp32, in torch's bf16 (autocast,
channels_last), and in ours (`resnetlab.accelerate`). The error is the norm of the difference, divided by the norm of
the float64 result: for the logits, and for the gradients of all weights together. Each round has another seed. Nothing
is timed, so other work on the machine does not change the result.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import resnetlab
from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, details, group
from resnetlab.models import build_model

OURS, TORCH, FP32 = "resnetlab, bf16", "torch, bf16", "torch, fp32"
CLASSES = 10


class Task(NamedTuple):
    """A network, its image size in pixels, and its batch."""

    model: str
    image_size: int
    batch: int


TASKS = {
    "resnet20": Task("resnet20", 32, 64),
    "resnet56": Task("resnet56", 32, 64),
    "resnet18": Task("resnet18", 32, 32),
    "resnet50": Task("resnet50", 224, 4),
}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for name in options.left(["resnet20"] if options.quick else TASKS):
        task = TASKS[name]
        options.say(name)
        outcomes = {contender: Outcome() for contender in (OURS, TORCH, FP32)}
        for seed in range(options.rounds):
            for contender, found in errors(task._replace(batch=4) if options.quick else task, seed).items():
                outcomes[contender].samples.append({"seed": seed, **found})
        title = f"{task.model}, {task.image_size} px, batch {task.batch}: one training step"
        for part in ("logits", "gradients"):
            unit = f"error of the {part}, % of float64's norm"
            value = functools.partial(percent, part)
            result["groups"].append(group(name, title, unit, outcomes, value, more_is_better=False))
        result["samples"][name] = details(outcomes)
        options.keep(result)
    return result


def percent(part: str, sample: Sample) -> float:
    return 100 * float(sample[part])


def errors(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """Relative errors of logits and gradients, for each way to compute them."""
    network = build_model(task.model, CLASSES, image_size=task.image_size, seed=seed).train()
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(task.batch, 3, task.image_size, task.image_size, generator=draw)
    labels = torch.randint(0, CLASSES, (task.batch,), generator=draw)
    exact = list(step(copy.deepcopy(network).double(), images.double(), labels, half=False))
    found = {}
    for title in (OURS, TORCH, FP32):
        model, pictures = copy.deepcopy(network), images
        if title != FP32:
            model, pictures = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
        if title == OURS:
            resnetlab.accelerate(model)
        logits, gradients = step(model, pictures, labels, half=title != FP32)
        found[title] = {"logits": apart(logits, exact[0]), "gradients": apart(gradients, exact[1])}
    return found


def step(model: nn.Module, images: Tensor, labels: Tensor, *, half: bool) -> Iterator[Tensor]:
    """Logits (N, classes), and the gradients of all weights as one vector."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(images)
    loss = nn.functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    yield logits.detach()
    yield torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def apart(value: Tensor, exact: Tensor) -> float:
    """Norm of the difference, divided by the norm of the exact value.

    >>> apart(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0], dtype=torch.float64))
    0.2
    """
    return float((value.double() - exact).norm() / exact.norm())
