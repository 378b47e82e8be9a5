"""Batch norm fused with the operations that follow it in a residual unit: an addition and a ReLU.

The output of a unit is used twice, by the next unit's convolution and by the shortcut around it. Autograd would add the
two gradients in an extra pass over memory. A fused norm therefore returns its output twice, as two tensors that share
memory: each receives its own gradient, and the kernel adds the two while reading them. Such a pair is only passed
between the units of a fast stage (`units.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels.calls import (
    address,
    are_float32,
    can_run_backward,
    channels_last,
    check,
    gradients_by_torch,
    has_no_hooks,
    is_supported,
    kernels,
)

Pair = tuple[Tensor, Tensor]  # the same values twice, each with its own gradient


def bn_relu(norm: nn.Module, relu: nn.Module, x: Tensor) -> Pair:
    """relu(norm(x)) for maps (N, C, H, W), as a pair."""
    if is_fusible(norm, x, relu):
        return fused(norm, x, None, rectify=True)
    y = relu(norm(x))
    return y, y


def bn_add_relu(
    norm: nn.Module, relu: nn.Module, residual: Tensor, shortcut: Tensor, *, in_place: bool = False
) -> Pair:
    """relu(norm(residual) + shortcut), the end of a residual unit, for maps (N, C, H, W), as a pair.

    Without the kernel, `in_place` adds into the norm's output, as torchvision's units do.
    """
    if shortcut.shape == residual.shape and is_fusible(norm, residual, relu) and is_supported(shortcut):
        return fused(norm, residual, shortcut, rectify=True)
    y = norm(residual)
    if in_place:
        y += shortcut
    else:
        y = y + shortcut
    y = relu(y)
    return y, y


def bn(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x) for maps (N, C, H, W)."""
    if is_fusible(norm, x):
        return fused(norm, x, None, rectify=False)[0]
    return norm(x)  # type: ignore[no-any-return]


def is_fusible(norm: nn.Module, x: Tensor, relu: nn.Module | None = None) -> bool:
    """True for torch's own batch norm with its default settings, in training mode, on maps that the kernel supports.

    If a ReLU follows it, that has to be torch's own, too.
    """
    if type(norm) is not nn.BatchNorm2d or not (relu is None or type(relu) is nn.ReLU):
        return False
    if not (has_no_hooks(norm) if relu is None else has_no_hooks(norm, relu)):
        return False
    vectors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return (
        norm.training
        and norm.momentum is not None
        and norm.eps > 0
        and norm.affine
        and norm.track_running_stats
        and is_supported(x)
        and x.shape[1] == norm.num_features
        and x.numel() > x.shape[1]  # one value per channel has no variance: torch raises an error
        and are_float32(vectors, norm.num_features)
    )


def fused(norm: nn.Module, x: Tensor, shortcut: Tensor | None, *, rectify: bool) -> Pair:
    """Normalise maps x (N, C, H, W) with batch statistics, add the shortcut, apply the ReLU; count the batch."""
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    shortcut = None if shortcut is None else channels_last(shortcut)
    return FusedNorm.apply(channels_last(x), norm.weight, norm.bias, shortcut, norm, rectify)  # type: ignore[no-any-return]


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, rectify: bool) -> Tensor:
    """relu(norm(x)) for maps (N, C, H, W), without the running statistics."""
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    return y.relu() if rectify else y


class FusedNorm(torch.autograd.Function):
    """y = relu(normalised x * weight + bias + shortcut), twice; updates the norm's running statistics."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, rectify: bool
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(x)
        statistics = torch.empty(4, len(weight), dtype=torch.float32, device="cpu")
        check(
            kernels().norm_forward(
                *map(address, (x, shortcut, y)),
                x.numel() // len(weight),
                len(weight),
                *map(address, (weight, bias, norm.running_mean, norm.running_var)),
                norm.momentum,
                norm.eps,
                rectify,
                address(statistics),
            )
        )
        # Without a shortcut the backward pass recomputes the ReLU's mask from x; after an addition it needs y.
        needs_y = rectify and shortcut is not None
        ctx.save_for_backward(x, weight, bias, statistics, y if needs_y else None)
        ctx.rectify, ctx.has_shortcut, ctx.eps = rectify, shortcut is not None, norm.eps
        ctx.set_materialize_grads(False)
        # Not a view: autograd would treat the two as one tensor.
        return y, torch.empty(0, dtype=y.dtype, device="cpu").set_(y.untyped_storage(), 0, y.shape, y.stride())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics, y = ctx.saved_tensors
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * 6
        grad, second = given[0], given[1] if len(given) > 1 else None
        if not can_run_backward(x, weight, bias, y, *given) or x.dtype != torch.bfloat16:
            grad = grad if second is None else grad + second
            grad = grad if y is None else grad * (y > 0)
            function = partial(by_torch, eps=ctx.eps, rectify=ctx.rectify and y is None)
            found = gradients_by_torch(function, (x, weight, bias), ctx.needs_input_grad[:3], grad)
            return (*found, grad if ctx.has_shortcut else None, None, None)
        x, y = channels_last(x), None if y is None else channels_last(y)
        grad, second = channels_last(grad.to(x.dtype)), None if second is None else channels_last(second.to(x.dtype))
        channels = statistics.shape[1]
        grad_x = torch.empty_like(x)
        # Without a ReLU, the shortcut's gradient is the output's.
        grad_shortcut = torch.empty_like(x) if ctx.has_shortcut and ctx.rectify else None
        grad_weight, grad_bias = torch.empty(2, channels, dtype=torch.float32, device="cpu")
        check(
            kernels().norm_backward(
                *map(address, (grad, second, x, y)),
                x.numel() // channels,
                channels,
                address(statistics),
                ctx.rectify,
                *map(address, (grad_x, grad_shortcut, grad_weight, grad_bias)),
            )
        )
        to_shortcut = grad_shortcut if ctx.rectify else grad if ctx.has_shortcut else None
        return grad_x, grad_weight, grad_bias, to_shortcut, None, None
