"""The copies of a network in several processes: the same state in all of them, and the mean of their gradients."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from resnetlab.evaluation.evaluate import evaluating
from resnetlab.files import apart
from resnetlab.runtime import Runtime
from resnetlab.training.checkpoint import content_of, restore
from resnetlab.training.loop import TrainState
from resnetlab.training.sync_norm import SyncNorm

# The argument by its name from torch 2.14 on, or before. The running statistics are averaged by the step itself
# (`train_step`), which also guards them.
NAMES = ("forward_sync_buffers", "broadcast_buffers")
OPTIONS: Any = {next(name for name in NAMES if name in inspect.signature(DistributedDataParallel).parameters): False}


def replicate(state: TrainState, images: Tensor, runtime: Runtime, *, compress: str = "none") -> None:
    """Give all processes the state of the main process, and let the steps that follow average their gradients.

    `images` (N, C, H, W) on the device are an example of the network's input. With `compress` "bf16", gradients are
    exchanged in bfloat16. Does nothing for a process alone.
    """
    processes = runtime.processes
    if processes.is_alone:
        return
    tensors, facts = content_of(state)
    tensors, facts = processes.broadcast((apart(tensors), facts))
    if not processes.is_main:
        restore(state, tensors, facts, Path("process 0"))
    state.replica = DistributedDataParallel(state.model, **OPTIONS)
    if compress == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        # In a lambda: torch refuses its hook, by its name, in a build without NCCL, but gloo sums bfloat16 as well.
        state.replica.register_comm_hook(None, lambda group, bucket: bf16_compress_hook(group, bucket))  # noqa: PLW0108
    state.local_statistics = local_statistics(state.model)
    # The first backward pass decides in which order and groups gradients are summed from the second on. Without this
    # one, the first step of a resumed training would sum them in another order than the uninterrupted one.
    with evaluating(state.model):
        with runtime.autocast():
            logits = state.replica(images)
        logits.float().sum().backward()
    state.optimizer.zero_grad(set_to_none=True)


def local_statistics(model: nn.Module) -> tuple[Tensor, ...]:
    """Return the running statistics of the batch norms that each process updates from its own images."""
    was_training = model.training
    model.train()  # a frozen part stays in evaluation mode
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and not isinstance(module, SyncNorm | nn.SyncBatchNorm)
    ]
    model.train(was_training)
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return tuple(statistic for statistic in found if statistic is not None)
