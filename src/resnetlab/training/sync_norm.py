"""Batch norm over the images of all processes (`--sync-bn`), so that its batch is the whole one, not a share of it.

torch's own `SyncBatchNorm` refuses tensors on a CPU, whatever the backend; there, `SyncNorm` takes its place.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resnetlab.runtime import Runtime

Network = TypeVar("Network", bound=nn.Module)


def synchronized(model: Network, runtime: Runtime) -> Network:
    """Let the batch norms of a network normalise over all processes, in place; with one process, do nothing.

    On CUDA they become torch's `SyncBatchNorm`. Parameters, buffers and keys stay the same.
    """
    if runtime.processes.is_alone:
        return model
    if runtime.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncNorm
    return model


class SyncNorm(nn.BatchNorm2d):
    """A batch norm whose mean and variance in training are those of the images of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        maps = x.float()
        variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
        # In float64, in which the difference of the mean square and the squared mean loses nothing that matters.
        mean, square = mean.double(), variance.double() + mean.double().square()
        values = torch.full_like(mean[:1], x.numel() // x.shape[1])
        sums: Tensor = SumOfProcesses.apply(torch.cat((values, values * mean, values * square)))
        count, means, squares = torch.split(sums, [1, self.num_features, self.num_features])
        mean = means / count
        variance = squares / count - mean.square()
        self.track(mean.detach(), (variance * count / (count - 1)).detach())
        scale = (variance + self.eps).rsqrt()
        scale, shift = (scale.float(), (-mean * scale).float())
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        y: Tensor = maps * scale[:, None, None] + shift[:, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class SumOfProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of theirs, because each of them uses the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - autograd passes it
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
