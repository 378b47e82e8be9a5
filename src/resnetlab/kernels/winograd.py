"""Winograd's 3x3 convolution: 16 products for a tile of 2x2 pixels instead of 36.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308, Section 4.1). A
tile of the output is A' [(G g G') * (B' d B)] A, where d is the 4x4 pixels it depends on and g the kernel. Over all
tiles and channels the element-wise products are sixteen matrix products, and so are their gradients. C kernels compute
them block by block in the cache. The weight gradient of a wide layer does not fit into a cache; torch computes its
sixteen products.

The factors are rounded to bfloat16 after the transforms, so the error is about twice that of a direct convolution in
bfloat16 (relative error 0.0045 instead of 0.0025 on normal numbers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resnetlab.kernels.calls import (
    LANES,
    address,
    can_run_backward,
    channels_last,
    check,
    convolution_gradients_by_torch,
    empty_maps,
    has_pair_products,
    is_supported,
    kernels,
)

NARROWEST, WIDEST = 2 * LANES, 8192  # channels in or out; with 16, the transforms take the time that they save
IN_CACHE = 2**14  # channels in times channels out, up to which the gradient of the weights stays in a cache
AT_ONCE = 2**23  # bytes of planes that are computed at once


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """True for shapes that are faster this way (measured with AVX-512 bf16, batches of 8 to 512)."""
    fewest, *_, most = sorted(weight.shape[:2])
    channels_fit = fewest >= NARROWEST and most <= WIDEST and weight.shape[0] % LANES == 0
    return channels_fit and x.shape[2] == x.shape[3] > 2 and has_pair_products() and is_supported(x)


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Maps (N, C, H, H), bfloat16, and kernels (O, C, 3, 3) to (N, O, H, H): a stride and a padding of 1."""
    return Winograd.apply(channels_last(x), channels_last(weight.float()))  # type: ignore[no-any-return]


class Winograd(torch.autograd.Function):
    """The convolution and its gradients. The backward pass computes the transformed tiles again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)
        return convolved(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 2
        x, weight = ctx.saved_tensors
        if not can_run_backward(x, weight, grad) or x.dtype != torch.bfloat16:
            return tuple(convolution_gradients_by_torch(grad, x, weight, 1, ctx.needs_input_grad))
        x, weight, grad = channels_last(x), channels_last(weight.float()), channels_last(grad.to(x.dtype))
        grad_x = convolved(grad, weight, back=True) if ctx.needs_input_grad[0] else None
        return grad_x, grad_of_kernels(x, grad) if ctx.needs_input_grad[1] else None


def convolved(x: Tensor, weight: Tensor, *, back: bool = False) -> Tensor:
    """Maps (N, C, H, H) and kernels (O, C, 3, 3) to (N, O, H, H); with `back`, (N, O, H, H) and the kernels, rotated,
    to (N, C, H, H).
    """
    images, channels, size, _ = x.shape
    out = weight.shape[1 if back else 0]
    y = empty_maps(x, images, out, size, size)
    packed = x.new_empty(16 * channels * out)
    kernels().blocks_pack(address(weight), address(packed), *weight.shape[:2], back)
    places = address(x), address(packed), None, None, address(y)
    check(kernels().blocks_convolve(*places, images, size, channels, out, 0))
    return y


def grad_of_kernels(x: Tensor, grad: Tensor) -> Tensor:
    """Maps (N, C, H, H) and the gradient (N, O, H, H) of its convolution to that of the kernels, (O, C, 3, 3)."""
    (images, channels, size, _), out = x.shape, grad.shape[1]
    found = torch.zeros(out, 3, 3, channels, dtype=torch.float32, device="cpu").permute(0, 3, 1, 2)
    if out * channels < IN_CACHE:
        check(kernels().blocks_weights(*map(address, (x, grad, found)), images, size, channels, out))
        return found
    for part in image_slices(x, grad):
        product = torch.bmm(transformed_grad(grad[part]).transpose(1, 2), transformed_input(x[part]))
        kernels().winograd_kernels_back(address(product), address(found), out, channels)
    return found


def image_slices(*maps: Tensor) -> list[slice]:
    """Slices of a few images each: planes are four times as large as maps, and whole ones would fragment the heap."""
    images, _, size, _ = maps[0].shape
    bytes_per_image = 16 * tiles(size) * max(x.shape[1] for x in maps) * maps[0].element_size()
    count = max(1, AT_ONCE // bytes_per_image)
    return [slice(first, first + count) for first in range(0, images, count)]


def transformed_input(x: Tensor) -> Tensor:
    """B' d B of the 4x4 pixels around every tile: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = x.shape
    planes = x.new_empty(16, images * tiles(size), channels)
    kernels().winograd_input(address(x), address(planes), images, size, channels)
    return planes


def transformed_grad(grad: Tensor) -> Tensor:
    """A g A' of every tile: maps (N, C, H, H) to planes (16, tiles, C)."""
    images, channels, size, _ = grad.shape
    planes = grad.new_empty(16, images * tiles(size), channels)
    kernels().winograd_spread(address(grad), address(planes), images, size, channels)
    return planes


def tiles(size: int) -> int:
    """The number of tiles of 2x2 pixels that cover a map of `size` x `size` pixels."""
    return ((size + 1) // 2) ** 2
