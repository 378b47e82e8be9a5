"""3x3 convolutions for processors that multiply whole tiles of bfloat16 matrices (AMX), where torch's are slower.

Torch's forward pass and gradient of the maps reach the tiles' speed on large maps, but not on small ones, and its
gradient of the weights hardly anywhere. Ours multiply in the same precision: bfloat16, added up in float.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.calls import (
    LANES,
    address,
    channels_last,
    check,
    gradients_by_torch,
    has_tiles,
    is_supported,
    kernels,
)

NARROWEST = 2 * LANES  # channels in or out; with 16, torch is as fast
SMALL, MEDIUM = 8, 64  # our kernel computes the maps up to so many pixels a side, or channels


def is_faster(x: Tensor, weight: Tensor, stride: int) -> bool:
    """True for shapes that are faster this way (measured with AMX bf16, batches of 32 to 500)."""
    channels_fit = min(weight.shape[:2]) >= NARROWEST and weight.shape[0] % LANES == 0
    return is_supported(x) and channels_fit and x.shape[2] == x.shape[3] > 2 and stride <= 2 and has_tiles()


def tiled(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H / stride, H / stride): a padding of 1."""
    return Tiled.apply(channels_last(x), channels_last(weight.float()), stride)  # type: ignore[no-any-return]


def tiled_and_pooled(x: Tensor, weight: Tensor) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H // 2, H // 2): `tiled`, then a max pool of 2x2.

    The map between the two is four times as large as the result, and never leaves the cache, in either direction.
    """
    return TiledAndPooled.apply(channels_last(x), channels_last(weight.float()))  # type: ignore[no-any-return]


class Tiled(torch.autograd.Function):
    """The convolution and its gradients, each by the faster of our kernel and torch's for its shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.stride = stride
        ctx.ours = stride == 1 and (x.shape[2] <= SMALL or NARROWEST < max(weight.shape[:2]) <= MEDIUM)
        ctx.save_for_backward(x, weight)
        return convolved(x, weight) if ctx.ours else by_torch(x, weight, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a gradient of this gradient
            function = partial(by_torch, stride=ctx.stride)
            return (*gradients_by_torch(function, (x, weight), ctx.needs_input_grad[:2], grad), None)
        grad = channels_last(grad.to(x.dtype))
        grad_x = None
        if ctx.needs_input_grad[0] and ctx.ours:
            grad_x = convolved(grad, weight, back=True)
        elif ctx.needs_input_grad[0]:
            settings = ([ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, ..., groups
            grad_x, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight.to(x.dtype), None, *settings, [True, False, False]
            )
        return grad_x, grad_of_kernels(x, grad, ctx.stride) if ctx.needs_input_grad[1] else None, None


class TiledAndPooled(torch.autograd.Function):
    """The index of each window's maximum is kept: one byte, where the map before the pool would take eight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        y, argmax = pooled(x, weight)
        ctx.save_for_backward(x, weight, argmax)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, argmax = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a gradient of this gradient
            return tuple(gradients_by_torch(pooled_by_torch, (x, weight), ctx.needs_input_grad, grad))
        grad = channels_last(grad.to(x.dtype))
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = convolved(grad, weight, back=True, argmax=argmax, size=x.shape[2])
        if ctx.needs_input_grad[1]:
            grad_weight = grad_of_kernels(x, grad, 1, argmax)
        return grad_x, grad_weight


def by_torch(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """The same convolution, by torch."""
    return F.conv2d(x, weight.to(x.dtype), stride=stride, padding=1)


def pooled_by_torch(x: Tensor, weight: Tensor) -> Tensor:
    """The same convolution and max pool, by torch."""
    return F.max_pool2d(by_torch(x, weight), 2)


def convolved(
    x: Tensor, weight: Tensor, *, back: bool = False, argmax: Tensor | None = None, size: int | None = None
) -> Tensor:
    """Maps (N, C, H, H) and kernels (O, C, 3, 3) to (N, O, H, H); or back, the kernels turned, from O channels to C.

    With `argmax`, x is the output of a max pool of maps of `size` pixels a side.
    """
    size = x.shape[2] if size is None else size
    y = maps_like(x, weight.shape[1 if back else 0], size)
    packed = packed_kernels(x, weight, back=back)
    places = address(x), address(argmax), address(packed), address(y), None
    check(kernels().tiles_convolve(*places, len(x), size, x.shape[1], y.shape[1]))
    return y


def pooled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima (N, O, H // 2, H // 2) of `convolved`, and which of its window's four pixels each is, from 0."""
    size = x.shape[2]
    y = maps_like(x, len(weight), size // 2)
    argmax = torch.empty_like(y, dtype=torch.uint8)
    packed = packed_kernels(x, weight)
    places = address(x), None, address(packed), address(y), address(argmax)
    check(kernels().tiles_convolve(*places, len(x), size, x.shape[1], len(weight)))
    return y, argmax


def packed_kernels(x: Tensor, weight: Tensor, *, back: bool = False) -> Tensor:
    out, channels = weight.shape[:2][::-1] if back else weight.shape[:2]
    packed = x.new_empty(2 * kernels().tiles_packed(channels, out))
    kernels().tiles_pack(address(weight), address(packed), *weight.shape[:2], back)
    return packed


def maps_like(x: Tensor, channels: int, size: int) -> Tensor:
    return x.new_empty(len(x), size, size, channels).permute(0, 3, 1, 2)


def grad_of_kernels(x: Tensor, grad: Tensor, stride: int, argmax: Tensor | None = None) -> Tensor:
    """Maps (N, C, H, H) and the gradient (N, O, H', H') of the output to the gradient of the kernels, (O, C, 3, 3).

    With `argmax`, the gradient is that of a max pool's output.
    """
    (images, channels, size, _), out = x.shape, grad.shape[1]
    found = torch.empty(out, 3, 3, channels).permute(0, 3, 1, 2)
    places = map(address, (x, grad, argmax, found))
    check(kernels().tiles_weights(*places, images, size, stride, channels, out))
    return found
