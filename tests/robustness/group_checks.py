"""What several processes compute together, to be compared with what one computes alone; see test_processes.py.

No test itself: fork_server.py calls a function in each process of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.distributed import Processes
from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.evaluation.evaluate import evaluate, probabilities
from resnetlab.evaluation.metrics import confusion
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime
from resnetlab.training.loop import Batches, Plan, TrainState, fit, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.replicas import replicate
from resnetlab.training.sync_norm import synchronized

CPU = torch.device("cpu")
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
SIZES = (*range(1, 18), 101)


def everything(processes: Processes) -> dict[str, Any]:
    """All checks, so that one set of processes does for them."""
    checks = (exchange, errors, evaluation, norms, accelerated, training, reading)
    return {check.__name__: check(processes) for check in checks}


def exchange(processes: Processes) -> dict[str, Any]:
    total, mean = torch.tensor([1.0, processes.rank]), torch.full((2, 2), float(processes.rank))
    processes.reduce([total], [mean])
    return {
        "total": total.tolist(),
        "mean": mean.flatten().tolist(),
        "broadcast": processes.broadcast(f"of {processes.rank}"),
        "gather": processes.gather(processes.rank),
        "from_main": processes.from_main(lambda: processes.rank),
    }


def errors(processes: Processes) -> list[str]:
    """Errors in one process, or in several, and nothing, as each process sees them."""

    def raised(function: Callable[[], object]) -> str:
        try:
            with processes.together():
                function()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    def fail_in(ranks: list[int], error: Exception) -> None:
        if processes.rank in ranks:
            raise error

    found = [
        raised(lambda: fail_in([1], BadInput("no such folder"))),
        raised(lambda: fail_in([0, 1], DiskTrouble(f"full on {processes.rank}"))),
        raised(lambda: fail_in([1], KeyError("a fault"))),
        raised(lambda: None),
    ]
    try:
        processes.require_same({"settings": "the same", "images": str(processes.rank)})
    except BadInput as error:
        found.append(str(error))
    return found


def evaluation(processes: Processes) -> dict[int, Any]:
    """For each size of a split: its score, and how often each image was counted, by label and prediction."""
    model, found = build_model(Architecture("basic", (1, 1), width=8, stem="cifar"), 3, seed=1), {}
    runtime = Runtime(CPU, processes=processes)
    for size in SIZES:
        images = torch.randint(0, 256, (size, 8, 8, 3), generator=torch.Generator().manual_seed(size))
        split = Split(images.to(torch.uint8), torch.arange(size) % 3, tuple(map(str, range(size))))
        batches = EvalBatches(split, SEE, 4, runtime)
        parts = processes.gather(probabilities(model, batches, runtime))
        counts = [confusion(scores, labels) for scores, labels in parts if len(labels)]
        found[size] = evaluate(model, batches, runtime), sum(counts).tolist() if counts else None
    return found


def norms(processes: Processes) -> dict[str, Tensor]:
    """A norm that sees all images: its output and gradients, as one process has them, and its running statistics."""
    draw = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 12, 5, 4, 3, generator=draw)
    x = (3 * x + 100).requires_grad_()  # far from zero, where sums of squares lose digits
    norm = nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=draw)
        norm.bias.uniform_(-1, 1, generator=draw)
    norm = synchronized(norm, Runtime(CPU, processes=processes))
    mine = slice(*[(part := processes.share(len(x))).start, part.stop])
    y = norm(x[mine])
    (y * weights[mine]).sum().backward()
    whole, gradient = torch.zeros_like(x), x.grad
    whole[mine] = y.detach()
    assert gradient is not None
    processes.reduce([whole, gradient, norm.weight.grad, norm.bias.grad])
    return {
        "y": whole,
        "x": gradient,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


def accelerated(processes: Processes) -> list[Tensor]:
    """The running statistics of a network in bfloat16 after a step over images that differ from process to process.

    Its fast classes normalise the images of one process; norms that see all images must take their place.
    """
    runtime = Runtime(CPU, torch.bfloat16, processes=processes)
    model = build_model(Architecture("bottleneck", (1, 1), width=16, stem="cifar"), 3, seed=1)
    model = synchronized(runtime.place(model, training=True), runtime).train()
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (images + torch.arange(12.0)[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    mine = slice(*[(part := processes.share(len(images))).start, part.stop])
    with runtime.autocast():
        model(images[mine]).float().sum().backward()
    return [buffer for name, buffer in model.named_buffers() if "running" in name]


def training(processes: Processes) -> dict[str, Any]:
    """The summed loss and the weights after nine steps, with gradients exchanged as they are and in bfloat16."""
    images = torch.randint(0, 256, (36, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    split = Split(images.to(torch.uint8), torch.arange(36) % 3, tuple(map(str, range(36))))
    runtime, found = Runtime(CPU, processes=processes), {}
    plan = Plan(steps=9, schedule=lambda _step, _scores: 0.05, loss_fn=nn.CrossEntropyLoss())
    for compress in ("none", "bf16"):
        model = build_model(Architecture("basic", (1, 1), width=8, stem="cifar"), 3, seed=1)
        state = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.05), runtime)
        replicate(state, torch.zeros(2, 3, 8, 8), runtime, compress=compress)
        model.train()
        for epoch in range(3):
            for batch in TrainBatches(split, SEE, (), 12, 0, runtime).epoch(epoch):
                train_step(state, batch, plan, runtime)
        found[compress] = {"loss": float(state.sums[0]), "weights": [each.detach() for each in model.parameters()]}
    return found


def reading(processes: Processes) -> tuple[int, str]:
    """The steps before process 1 cannot read its part of the third batch, and the error that each process sees."""
    images = torch.zeros(36, 8, 8, 3, dtype=torch.uint8)
    split = Split(images, torch.arange(36) % 3, tuple(map(str, range(36))))
    runtime = Runtime(CPU, processes=processes)

    class Damaged(TrainBatches):
        def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            for number, batch in enumerate(super().epoch(epoch, start, stop)):
                if number == 2 and processes.rank == 1:
                    raise BadInput("000.tar does not agree with its index")
                yield batch

    model = build_model(Architecture("basic", (1, 1), width=8, stem="cifar"), 3, seed=1)
    state = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.05), runtime)
    replicate(state, torch.zeros(2, 3, 8, 8), runtime)
    plan = Plan(steps=3, schedule=lambda _step, _scores: 0.05, loss_fn=nn.CrossEntropyLoss())
    scored = EvalBatches(split, SEE, 4, runtime)
    steps = 0
    try:
        for _ in fit(state, Batches(Damaged(split, SEE, (), 12, 0, runtime), scored, scored), plan, runtime):
            steps += 1
    except BadInput as error:
        return steps, str(error)
    return steps, ""
