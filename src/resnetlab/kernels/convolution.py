"""Faster convolutions for the shapes that residual networks have, in bfloat16 on a CPU.

`FastConv3x3` and `FastConv1x1` are `nn.Conv2d` with another `forward`. `nn.Conv2d` computes every other case: any
precision but bfloat16, and a convolution that was changed after the swap (a bias, a dilation, another padding).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels import tiles, winograd
from resnetlab.kernels.calls import (
    PLAIN_TENSORS,
    can_run_backward,
    convolution_gradients_by_torch,
    empty_maps,
    gradients_by_torch,
    has_no_hooks,
    is_autocast,
    is_bfloat16,
    is_exactly,
    is_original,
)
from resnetlab.kernels.pooling import max_pool2x2
from resnetlab.kernels.swap import Fast


class FastConv1x1(Fast, nn.Conv2d):
    """A strided 1x1 convolution that selects the pixels it uses before it multiplies."""

    plain = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (2, 2) and is_standard(self, 1) and runs_in_bfloat16(self, x):
            return project(x, self.weight, 2)
        return super().forward(x)


class FastConv3x3(Fast, nn.Conv2d):
    """A 3x3 convolution with a padding of 1, with faster algorithms for small maps and for 32 channels or more."""

    plain = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        if is_standard(self, 3) and runs_in_bfloat16(self, x):
            return convolve(x, self.weight, self.stride[0], self.groups)
        return super().forward(x)


def is_standard(conv: nn.Conv2d, kernel_size: int) -> bool:
    """True for this kernel size with padding to keep the resolution, stride 1 or 2, no dilation and no bias."""
    return (
        conv.kernel_size == (kernel_size, kernel_size)
        and conv.padding == (kernel_size // 2, kernel_size // 2)
        and conv.stride in ((1, 1), (2, 2))
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and (kernel_size == 3 or conv.groups == 1)
    )


def runs_in_bfloat16(conv: nn.Conv2d, x: Tensor) -> bool:
    """True if torch would convolve these maps in bfloat16, with kernels (O, C / groups, k, k) stored in float32."""
    weight = conv.weight
    return (
        is_bfloat16(x)
        and is_autocast()
        and type(weight) in PLAIN_TENSORS
        and weight.dtype is torch.float32
        and weight.is_cpu
        and weight.shape[1] * conv.groups == x.shape[1]
        and weight.shape[2:] == conv.kernel_size
        and is_original()
        and "_conv_forward" not in conv.__dict__
    )


def project(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, W) and kernels (O, C, 1, 1) to (N, O, H / stride, W / stride)."""
    # The backward pass of a strided convolution takes twice as long. Sliced as (N, H, W, C) for the gradient's layout.
    return F.conv2d(x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2), weight)


def convolve(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Maps (N, C, H, W), bfloat16, and kernels (O, C / groups, 3, 3) to (N, O, H / stride, W / stride)."""
    if groups == 1 and tiles.is_faster(x, weight, stride):
        return tiles.tiled(x, weight, stride)
    if stride == groups == 1 and winograd.is_faster(x, weight):
        return winograd.winograd(x, weight)
    height, width = x.shape[2:]
    if groups == 1 and 2 < height == width:
        channels, out_size = weight.shape[0] * weight.shape[1], (height - 1) // stride + 1
        # Measured with bf16 on AVX-512, batches of 32 to 256. With fewer channels or larger maps, F.conv2d is faster.
        if out_size <= 4 or (out_size <= 8 and channels >= 2**16):
            everything = out_size <= 4 and channels >= 2**17
            return Im2Col.apply(x, weight.to(x.dtype), stride, everything)  # type: ignore[no-any-return]
    if height == width <= 2 and groups == 1:
        return convolve_tiny_maps(x, weight, stride)
    # Along an axis of one pixel the stride has no effect on the result; with 2, torch's weight gradient in bf16 on the
    # CPU contains unset memory.
    strides = (1 if height == 1 else stride, 1 if width == 1 else stride)
    return F.conv2d(x, weight, stride=strides, padding=1, groups=groups)


def convolve_and_pool(conv: nn.Module, pool: nn.Module, x: Tensor) -> Tensor:
    """pool(conv(x)) for maps (N, C, H, W); a 3x3 convolution with a 2x2 max pool after it is fused if possible."""
    if not is_max_pool2x2(pool):
        return pool(conv(x))  # type: ignore[no-any-return]
    fusible = type(conv) is FastConv3x3 and conv.stride == (1, 1) and is_standard(conv, 3) and has_no_hooks(conv)
    if fusible and runs_in_bfloat16(conv, x) and conv.groups == 1 and tiles.is_faster(x, conv.weight, 1):  # type: ignore[arg-type]
        return tiles.tiled_and_pooled(x, conv.weight)  # type: ignore[arg-type]
    return max_pool2x2(conv(x))


def is_max_pool2x2(pool: nn.Module) -> bool:
    """True for torch's own max pool of 2x2 pixels that do not overlap."""
    if not is_exactly(nn.MaxPool2d, pool):
        return False
    assert isinstance(pool, nn.MaxPool2d)
    window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return window == (2, 2, 0, 1) and not pool.ceil_mode and not pool.return_indices


class Im2Col(torch.autograd.Function):
    """A 3x3 convolution with its weight gradient as a matrix product; with `everything`, also its other two passes.

    A row of the im2col matrix holds the 9 C values under a kernel at one position. The backward pass computes the
    matrix again, because it is nine times as large as the maps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, everything: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)
        ctx.stride, ctx.everything = stride, everything
        if everything:
            return convolve_by_matmul(x, weight, stride)
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 4
        x, weight = ctx.saved_tensors
        if not can_run_backward(x, weight, grad):
            return (*convolution_gradients_by_torch(grad, x, weight, ctx.stride, ctx.needs_input_grad), None, None)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0] and ctx.everything and ctx.stride == 1:
            grad_x = convolve_by_matmul(grad, weight.flip(2, 3).transpose(0, 1), 1)
        elif ctx.needs_input_grad[0]:
            grad_x, _ = convolution_gradients_by_torch(grad, x, weight, ctx.stride, (True, False))
        if ctx.needs_input_grad[1]:
            product = grad.permute(0, 2, 3, 1).flatten(0, 2).t() @ im2col(x, ctx.stride)
            grad_weight = product.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def convolve_by_matmul(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution of maps (N, C, H, H) with padding 1, as a matrix product."""
    out_size = (x.shape[2] - 1) // stride + 1
    y = empty_maps(x, len(x), len(weight), out_size, out_size)
    product = y.permute(0, 2, 3, 1).view(-1, len(weight))
    torch.mm(im2col(x, stride), weight.permute(0, 2, 3, 1).flatten(1).t(), out=product)
    return y


def im2col(x: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, W) to the matrix (N * H' * W', 9 C) of the values under a 3x3 kernel at each position."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def convolve_tiny_maps(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution of 1x1 or 2x2 maps, as one matrix product of all output pixels with all input pixels.

    On a 1x1 map, eight of a kernel's nine weights are only multiplied with padding. Leaving them out makes forward and
    backward ten times as fast (512 channels, batch 128, a CPU with bf16).
    """
    images, _, size, _ = x.shape
    dense = DenseKernel.apply(weight, size, stride, x.dtype)
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), dense)
    out_size = math.isqrt(len(dense) // len(weight))
    return y.view(images, out_size, out_size, len(weight)).permute(0, 3, 1, 2)


class DenseKernel(torch.autograd.Function):
    """Kernels (O, C, 3, 3) to the matrix (out_size² O, size² C) whose product with whole maps is the convolution.

    The rows of an output pixel hold the weights that are multiplied with pixels of the map there, so a weight appears
    as often as it is used.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, size: int, stride: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.set_materialize_grads(False)
        ctx.size, ctx.stride, ctx.dtype = size, stride, dtype
        blocks = used_weights(weight, size, stride)
        dense = weight.new_empty((len(blocks), *blocks[0].shape), dtype=dtype)
        for place, block in zip(dense, blocks, strict=True):
            place.copy_(block)  # casts, too
        return dense.view(len(blocks) * len(weight), -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 4
        (weight,) = ctx.saved_tensors
        if not can_run_backward(weight, grad):
            function = partial(dense_by_torch, size=ctx.size, stride=ctx.stride, dtype=ctx.dtype)
            return (*gradients_by_torch(function, (weight,), (True,), grad), None, None, None)
        grad_weight = torch.zeros_like(weight)
        blocks = used_weights(grad_weight, ctx.size, ctx.stride)
        for block, part in zip(blocks, grad.view(len(blocks), *blocks[0].shape), strict=True):
            block.add_(part)
        return grad_weight, None, None, None


def dense_by_torch(weight: Tensor, *, size: int, stride: int, dtype: torch.dtype) -> Tensor:
    """The matrix of `DenseKernel`, from torch's differentiable operations."""
    blocks = used_weights(weight, size, stride)
    return torch.stack(blocks).to(dtype).view(len(blocks) * len(weight), -1)


def used_weights(weight: Tensor, size: int, stride: int) -> list[Tensor]:
    """Views (O, size, size, C), one for each output pixel, of the weights that are multiplied with pixels there."""
    kernels = weight.permute(0, 2, 3, 1)
    starts = range(1, 1 - size, -stride)
    return [kernels[:, row : row + size, column : column + size] for row in starts for column in starts]
