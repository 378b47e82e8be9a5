"""Winograd's 3x3 convolution: 16 products for a tile of 2x2 pixels, where the plain one needs 36.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308, Section 4.1). A
tile of the output is A' [(G g G') * (B' d B)] A, with d the 4x4 pixels it depends on and g the kernel. Over all tiles
and channels the element-wise products are sixteen matrix products, and so are their gradients.

What is multiplied is rounded to bfloat16 after the transforms, so the result is about twice as far from the exact one
as a plain convolution in bfloat16 (relative error 0.005 instead of 0.0025 on normal numbers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resnetlab.native.calls import LANES, address, kernels, laid_out, takes

FEWEST = 2**14  # channels in times channels out: with fewer, the products are too thin to pay for the transforms
AT_ONCE = 2**23  # bytes of planes


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a shape that is faster this way (measured with AVX-512 bf16, batches of 32 to 512)."""
    kernels_out, channels = weight.shape[:2]
    return takes(x) and kernels_out % LANES == 0 and kernels_out * channels >= FEWEST and x.shape[2] == x.shape[3] > 2


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H, H): a stride and a padding of 1."""
    return Winograd.apply(x, laid_out(weight.float()))  # type: ignore[no-any-return]


class Winograd(torch.autograd.Function):
    """The convolution and its gradients. Planes of the maps are made again where they are needed, not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = laid_out(x)
        out, channels = weight.shape[:2]
        planes = x.new_empty(16, out, channels)
        kernels().winograd_kernels(address(weight), address(planes), out, channels)
        ctx.save_for_backward(x, planes)
        y = maps_like(x, out)
        for some in pieces(x, y):
            join(torch.bmm(surroundings(x[some]), planes.transpose(1, 2)), y[some])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, planes = ctx.saved_tensors
        grad = laid_out(grad.to(x.dtype))
        _, out, channels = planes.shape
        grad_x = maps_like(x, channels) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros(out, 3, 3, channels).permute(0, 3, 1, 2) if ctx.needs_input_grad[1] else None
        for some in pieces(x, grad):
            if grad_x is not None:
                join(torch.bmm(surroundings(grad[some], flip=True), planes), grad_x[some], flip=True)
            if grad_weight is not None:
                product = torch.bmm(spread(grad[some]).transpose(1, 2), surroundings(x[some]))
                kernels().winograd_kernels_back(address(product), address(grad_weight), out, channels)
        return grad_x, grad_weight


def maps_like(x: Tensor, channels: int) -> Tensor:
    """Memory for maps (N, channels, H, H) of as many images and pixels as those of `x`."""
    images, _, size, _ = x.shape
    return x.new_empty(images, size, size, channels).permute(0, 3, 1, 2)


def pieces(*maps: Tensor) -> list[slice]:
    """Images a few at a time: planes are four times as large as maps, and whole ones would tear holes in the heap."""
    images, _, size, _ = maps[0].shape
    each = 16 * tiles(size) * max(x.shape[1] for x in maps) * maps[0].element_size()
    some = max(1, AT_ONCE // each)
    return [slice(first, first + some) for first in range(0, images, some)]


def surroundings(x: Tensor, *, flip: bool = False) -> Tensor:
    """B' d B of the 4x4 pixels around every tile: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = x.shape
    planes = x.new_empty(16, images * tiles(size), channels)
    kernels().winograd_input(address(x), address(planes), images, size, channels, flip)
    return planes


def join(planes: Tensor, y: Tensor, *, flip: bool = False) -> None:
    """A' m A of every tile: planes (16, tiles, C) into the maps `y` (N, C, H, H)."""
    images, channels, size, _ = y.shape
    kernels().winograd_output(address(planes), address(y), images, size, channels, flip)


def spread(grad: Tensor) -> Tensor:
    """A g A', the gradient of `join`: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = grad.shape
    planes = grad.new_empty(16, images * tiles(size), channels)
    kernels().winograd_spread(address(grad), address(planes), images, size, channels)
    return planes


def tiles(size: int) -> int:
    """Tiles of 2x2 pixels that cover a map of size x size."""
    return ((size + 1) // 2) ** 2
