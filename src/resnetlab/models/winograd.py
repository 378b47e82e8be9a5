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
        return joined(torch.bmm(surroundings(x), planes.transpose(1, 2)), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, planes = ctx.saved_tensors
        grad = laid_out(grad.to(x.dtype))
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = joined(torch.bmm(surroundings(grad, flip=True), planes), grad, flip=True)
        if ctx.needs_input_grad[1]:
            product = torch.bmm(spread(grad).transpose(1, 2), surroundings(x))
            _, out, channels = planes.shape
            grad_weight = torch.empty(out, 3, 3, channels).permute(0, 3, 1, 2)
            kernels().winograd_kernels_back(address(product), address(grad_weight), out, channels)
        return grad_x, grad_weight


def surroundings(x: Tensor, *, flip: bool = False) -> Tensor:
    """B' d B of the 4x4 pixels around every tile: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = x.shape
    planes = x.new_empty(16, images * tiles(size), channels)
    kernels().winograd_input(address(x), address(planes), images, size, channels, flip)
    return planes


def joined(planes: Tensor, like: Tensor, *, flip: bool = False) -> Tensor:
    """A' m A of every tile: planes (16, tiles, C) to maps (N, C, H, H), of as many images and pixels as `like`."""
    images, _, size, _ = like.shape
    channels = planes.shape[2]
    y = planes.new_empty(images, size, size, channels).permute(0, 3, 1, 2)
    kernels().winograd_output(address(planes), address(y), images, size, channels, flip)
    return y


def spread(grad: Tensor) -> Tensor:
    """A g A', the gradient of `joined`: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = grad.shape
    planes = grad.new_empty(16, images * tiles(size), channels)
    kernels().winograd_spread(address(grad), address(planes), images, size, channels)
    return planes


def tiles(size: int) -> int:
    """Tiles of 2x2 pixels that cover a map of size x size."""
    return ((size + 1) // 2) ** 2
