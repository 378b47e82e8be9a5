"""Batch norm with what follows it in a residual unit, in one go where the machine has the kernels for it.

`norm_relu` is relu(norm(x)), `norm_add_relu` is relu(norm(residual) + shortcut): modules in, the same numbers out,
whichever way they were computed. The kernels take bfloat16 maps in training on the CPU; everything else, and whoever
traces, exports or hooks a network, meets the modules one by one.

What comes out is used twice in a residual network, by the next unit and by the shortcut around it, and two gradients
come back, which autograd would add in a pass of its own. So a shortcut takes the `twin` of its unit's input: the same
memory, with a gradient of its own, and the kernel adds the two while it reads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnetlab.kernels.calls import LANES, address, check, is_bare, kernels, laid_out, takes


def norm_relu(norm: nn.Module, relu: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(x)) for maps (N, C, H, W)."""
    if is_fusible(norm, x) and is_bare(relu):
        return with_twin(*fused(norm, x, None, rectify=True))
    return relu(norm(x))  # type: ignore[no-any-return]


def norm_add_relu(norm: nn.Module, relu: nn.Module, residual: Tensor, shortcut: Tensor) -> Tensor:
    """relu(norm(residual) + shortcut): the end of a residual unit, y = F(x) + x, both maps (N, C, H, W)."""
    if is_fusible(norm, residual) and is_bare(relu) and shortcut.dtype == residual.dtype:
        return with_twin(*fused(norm, residual, shortcut, rectify=True))
    return relu(norm(residual) + shortcut)  # type: ignore[no-any-return]


def with_twin(y: Tensor, other: Tensor) -> Tensor:
    if y.requires_grad:
        y.twin = other, y._version  # type: ignore[attr-defined]
    return y


def twin(x: Tensor) -> Tensor:
    """The same maps once more, for the second of their two uses; they themselves, where there is no twin.

    Whoever has changed the maps in place since, in a hook, gets them, too: their gradient has to go through the change.
    """
    found = getattr(x, "twin", None)
    return found[0] if found and found[1] == x._version else x


def norm_alone(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x) for maps (N, C, H, W)."""
    if is_fusible(norm, x):
        return fused(norm, x, None, rectify=False)[0]
    return norm(x)  # type: ignore[no-any-return]


def is_fusible(norm: nn.Module, x: Tensor) -> bool:
    return (
        isinstance(norm, nn.BatchNorm2d)
        and norm.training
        and norm.num_features % LANES == 0
        and norm.momentum is not None
        and norm.affine
        and norm.track_running_stats
        and is_bare(norm)
        and takes(x)
    )


def fused(norm: nn.Module, x: Tensor, shortcut: Tensor | None, *, rectify: bool) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return FusedNorm.apply(x, norm.weight, norm.bias, shortcut, norm, rectify)  # type: ignore[no-any-return]


class FusedNorm(torch.autograd.Function):
    """y = normalised x * weight + bias, plus a shortcut, rectified, twice; updates the norm's running statistics."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, rectify: bool
    ) -> tuple[Tensor, Tensor]:
        x = laid_out(x)
        shortcut = None if shortcut is None else laid_out(shortcut)
        y = torch.empty_like(x)
        statistics = torch.empty(4, len(weight))
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
        # The side of a bare ReLU is computed again from x; behind an addition only y still tells it.
        keep = rectify and shortcut is not None
        ctx.save_for_backward(x, statistics, y if keep else None)
        ctx.rectify, ctx.has_shortcut = rectify, shortcut is not None
        ctx.set_materialize_grads(False)
        # Not a view: autograd would take the two for one tensor.
        return y, torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape, y.stride())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, statistics, y = ctx.saved_tensors
        channels = statistics.shape[1]
        grad, *others = (laid_out(grad.to(x.dtype)) for grad in grads if grad is not None)
        more = others[0] if others else None
        grad_x = torch.empty_like(x)
        # Without a ReLU, what comes in goes to the shortcut as it is.
        grad_shortcut = torch.empty_like(x) if ctx.has_shortcut and ctx.rectify else None
        grad_weight, grad_bias = torch.empty(2, channels)
        check(
            kernels().norm_backward(
                *map(address, (grad, more, x, y)),
                x.numel() // channels,
                channels,
                address(statistics),
                ctx.rectify,
                *map(address, (grad_x, grad_shortcut, grad_weight, grad_bias)),
            )
        )
        to_shortcut = grad_shortcut if ctx.rectify else grad if ctx.has_shortcut else None
        return grad_x, grad_weight, grad_bias, to_shortcut, None, None
