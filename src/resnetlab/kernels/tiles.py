"""3x3 convolutions for processors that multiply tiles of bfloat16 matrices (AMX).

Torch's forward pass and its gradient of the maps are as fast on large maps, but slower on small ones. Its gradient of
the weights is slower for nearly all shapes. The precision is the same: bfloat16 products, added up in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.calls import (
    LANES,
    address,
    can_run_backward,
    channels_last,
    check,
    convolution_gradients_by_torch,
    convolve_by_torch,
    empty_maps,
    gradients_by_torch,
    has_tiles,
    is_supported,
    kernels,
)

NARROWEST = 2 * LANES  # channels in or out; with 16, torch is as fast
SMALL, MEDIUM = 8, 64  # pixels a side, or channels, up to which our kernel is faster than torch for the maps


def is_faster(x: Tensor, weight: Tensor, stride: int) -> bool:
    """True for shapes that are faster this way (measured with AMX bf16, batches of 32 to 500)."""
    channels_fit = min(weight.shape[:2]) >= NARROWEST and weight.shape[0] % LANES == 0
    return channels_fit and x.shape[2] == x.shape[3] > 2 and stride <= 2 and has_tiles() and is_supported(x)


def tiled(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H / stride, H / stride): a padding of 1."""
    return Tiled.apply(channels_last(x), channels_last(weight.float()), stride)  # type: ignore[no-any-return]


def tiled_and_pooled(x: Tensor, weight: Tensor) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H // 2, H // 2): `tiled`, then a max pool of 2x2.

    The map between the two is four times as large as the result and stays in the cache, forward and backward.
    """
    return TiledAndPooled.apply(channels_last(x), channels_last(weight.float()))  # type: ignore[no-any-return]


class Tiled(torch.autograd.Function):
    """The convolution and its gradients, each by our kernel or by torch's, whichever is faster for its shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.stride = stride
        ctx.ours = stride == 1 and (x.shape[2] <= SMALL or NARROWEST < max(weight.shape[:2]) <= MEDIUM)
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)
        return convolved(x, weight) if ctx.ours else convolve_by_torch(x, weight, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 3
        x, weight = ctx.saved_tensors
        if not can_run_backward(x, weight, grad) or x.dtype != torch.bfloat16:
            return (*convolution_gradients_by_torch(grad, x, weight, ctx.stride, ctx.needs_input_grad), None)
        x, weight, grad = channels_last(x), channels_last(weight.float()), channels_last(grad.to(x.dtype))
        grad_x = None
        if ctx.needs_input_grad[0] and ctx.ours:
            grad_x = convolved(grad, weight, back=True)
        elif ctx.needs_input_grad[0]:
            grad_x, _ = convolution_gradients_by_torch(grad, x, weight, ctx.stride, (True, False))
        return grad_x, grad_of_kernels(x, grad, ctx.stride) if ctx.needs_input_grad[1] else None, None


class TiledAndPooled(torch.autograd.Function):
    """The convolution and the max pool. It stores the index of each window's maximum in one byte.

    The map before the pool would take eight bytes per window.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        y, argmax = pooled(x, weight)
        ctx.save_for_backward(x, weight, argmax)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 2
        x, weight, argmax = ctx.saved_tensors
        if not can_run_backward(x, weight, argmax, grad) or x.dtype != torch.bfloat16:
            return tuple(gradients_by_torch(pooled_by_torch, (x, weight), ctx.needs_input_grad, grad))
        x, weight, grad = channels_last(x), channels_last(weight.float()), channels_last(grad.to(x.dtype))
        argmax, grad_x, grad_weight = channels_last(argmax), None, None
        if ctx.needs_input_grad[0]:
            grad_x = convolved(grad, weight, back=True, argmax=argmax, size=x.shape[2])
        if ctx.needs_input_grad[1]:
            grad_weight = grad_of_kernels(x, grad, 1, argmax)
        return grad_x, grad_weight


def pooled_by_torch(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution and max pool by torch."""
    return F.max_pool2d(convolve_by_torch(x, weight), 2)


def convolved(
    x: Tensor, weight: Tensor, *, back: bool = False, argmax: Tensor | None = None, size: int | None = None
) -> Tensor:
    """Maps (N, C, H, H) and kernels (O, C, 3, 3) to (N, O, H, H); with `back`, (N, O, H, H) and the kernels, rotated,
    to (N, C, H, H).

    With `argmax`, x is the gradient of the output of a max pool, and `size` is the side of the maps before it.
    """
    size = x.shape[2] if size is None else size
    y = maps_like(x, weight.shape[1 if back else 0], size)
    packed = packed_kernels(x, weight, back=back)
    places = address(x), address(argmax), address(packed), address(y), None
    check(kernels().tiles_convolve(*places, len(x), size, x.shape[1], y.shape[1]))
    return y


def pooled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima (N, O, H // 2, H // 2) of `convolved`, and the index, 0 to 3, of each in its window."""
    size = x.shape[2]
    y = maps_like(x, len(weight), size // 2)
    argmax = torch.empty_like(y, dtype=torch.uint8)
    packed = packed_kernels(x, weight)
    places = address(x), None, address(packed), address(y), address(argmax)
    check(kernels().tiles_convolve(*places, len(x), size, x.shape[1], len(weight)))
    return y, argmax


def packed_kernels(x: Tensor, weight: Tensor, *, back: bool = False) -> Tensor:
    """The kernels (O, C, 3, 3) in the layout of the tiles, in the dtype of x."""
    out, channels = weight.shape[:2][::-1] if back else weight.shape[:2]
    packed = x.new_empty(2 * kernels().tiles_packed(channels, out))
    kernels().tiles_pack(address(weight), address(packed), *weight.shape[:2], back)
    return packed


def maps_like(x: Tensor, channels: int, size: int) -> Tensor:
    """Uninitialised maps (N, channels, size, size) in channels_last, in the dtype of x."""
    return empty_maps(x, len(x), channels, size, size)


def grad_of_kernels(x: Tensor, grad: Tensor, stride: int, argmax: Tensor | None = None) -> Tensor:
    """Maps (N, C, H, H) and the gradient (N, O, H', H') of the output to the gradient of the kernels, (O, C, 3, 3).

    With `argmax`, the gradient is that of a max pool's output.
    """
    (images, channels, size, _), out = x.shape, grad.shape[1]
    found = torch.empty(out, 3, 3, channels, dtype=torch.float32, device="cpu").permute(0, 3, 1, 2)
    places = map(address, (x, grad, argmax, found))
    check(kernels().tiles_weights(*places, images, size, stride, channels, out))
    return found
