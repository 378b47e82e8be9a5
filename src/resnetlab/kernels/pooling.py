"""Max pooling of 2x2 pixels by a C kernel with a fifth of torch's memory traffic."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.calls import (
    address,
    can_run_backward,
    channels_last,
    empty_maps,
    gradients_by_torch,
    is_supported,
    kernels,
)


def max_pool2x2(x: Tensor) -> Tensor:
    """Maps (N, C, H, W) to (N, C, H // 2, W // 2); an odd last row or column is left out."""
    if is_supported(x) and min(x.shape[2:]) >= 2:
        return MaxPool.apply(channels_last(x))  # type: ignore[no-any-return]
    return F.max_pool2d(x, 2)


class MaxPool(torch.autograd.Function):
    """Max pooling of 2x2 pixels; the backward pass finds the maxima again, so no indices are stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        y = empty_maps(x, images, channels, height // 2, width // 2)
        kernels().pool_forward(address(x), address(y), images, height, width, channels)
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        if grad is None:
            return None
        (x,) = ctx.saved_tensors
        if not can_run_backward(x, grad) or x.dtype != torch.bfloat16:
            return gradients_by_torch(partial(F.max_pool2d, kernel_size=2), (x,), (True,), grad)[0]
        x = channels_last(x)
        images, channels, height, width = x.shape
        grad, grad_x = channels_last(grad.to(x.dtype)), torch.empty_like(x)
        kernels().pool_backward(*map(address, (grad, x, grad_x)), images, height, width, channels)
        return grad_x
