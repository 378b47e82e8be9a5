"""The two convolutions that residual units are made of, neither with a bias: a norm follows and would undo it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnetlab.kernels import tiles as tiled
from resnetlab.kernels import winograd
from resnetlab.kernels.calls import is_bare
from resnetlab.kernels.pooling import max_pool2x2

HALF = (torch.bfloat16, torch.float16)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return Conv3x3(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return Conv1x1(in_channels, out_channels, 1, stride, bias=False)


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution, which in half precision drops the pixels that its stride passes over before it multiplies.

    In float32 it is `nn.Conv2d` to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.stride[0])


@torch.fx.wrap
def project(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, W) and kernels (O, C, 1, 1) to (N, O, H / stride, W / stride)."""
    if x.dtype in HALF and stride > 1:
        # Backwards, strided kernels take twice as long. Sliced as (N, H, W, C), so that the gradient lies so, too.
        x, stride = x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2), 1
    return F.conv2d(x, weight, stride=stride)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with a padding of 1, in half precision with faster ways for small maps and from 32 channels up.

    In float32 it is `nn.Conv2d` to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.stride[0], self.groups)


@torch.fx.wrap  # one node of a traced graph: the choice below is made when the graph runs
def convolve(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Maps (N, C, H, W) and kernels (O, C / groups, 3, 3) to (N, O, H / stride, W / stride)."""
    if x.dtype in HALF and groups == 1 and tiled.pays(x, weight, stride):
        return tiled.tiled(x, weight, stride)
    if x.dtype in HALF and stride == groups == 1 and winograd.pays(x, weight):
        return winograd.winograd(x, weight)
    if x.dtype in HALF and x.device.type == "cpu" and groups == 1 and 2 < x.shape[2] == x.shape[3]:
        channels, out_size = weight.shape[0] * weight.shape[1], (x.shape[2] - 1) // stride + 1
        # Measured with bf16 on AVX-512, batches of 32 to 256; smaller kernels, larger maps: the convolution is faster.
        if out_size <= 4 or (out_size <= 8 and channels >= 2**16):
            all_of_it = out_size <= 4 and channels >= 2**17
            return ByColumns.apply(x, weight.to(x.dtype), stride, all_of_it)  # type: ignore[no-any-return]
    if x.dtype in HALF and x.shape[2] == x.shape[3] <= 2:
        if groups == 1:
            return on_tiny_maps(x, weight, stride)
        if x.shape[2] == 1:
            stride = (
                1  # the same single pixel; with 2, torch 2.15 leaves unset memory in the CPU's bf16 weight gradient
            )
    return F.conv2d(x, weight, stride=stride, padding=1, groups=groups)


def convolve_and_pool(conv: nn.Module, x: Tensor) -> Tensor:
    """Max pooling of 2x2 pixels behind a 3x3 convolution: maps (N, C, H, W) to (N, O, H // 2, W // 2)."""
    if isinstance(conv, Conv3x3) and conv.stride == (1, 1) and is_bare(conv) and tiled.pays(x, conv.weight, 1):
        return tiled.tiled_and_pooled(x, conv.weight)
    return max_pool2x2(conv(x))


class ByColumns(torch.autograd.Function):
    """A 3x3 convolution whose weight gradient is one matrix product; with `all_of_it`, the rest is one, too.

    A row of the columns holds the 9 C pixels that meet a kernel in one place. They are made again when they are needed:
    kept, they would take nine times as much memory as the map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, all_of_it: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.all_of_it = stride, all_of_it
        if all_of_it:
            return multiplied(x, weight, stride)
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0] and ctx.all_of_it and ctx.stride == 1:
            grad_x = multiplied(grad, weight.flip(2, 3).transpose(0, 1), 1)
        elif ctx.needs_input_grad[0]:
            settings = ([ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, ..., groups
            grad_x, _, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *settings, [True, False, False])
        if ctx.needs_input_grad[1]:
            product = grad.permute(0, 2, 3, 1).flatten(0, 2).t() @ columns(x, ctx.stride)
            grad_weight = product.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def multiplied(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with a padding of 1, as a matrix product."""
    y = columns(x, stride) @ weight.permute(0, 2, 3, 1).flatten(1).t()
    out_size = (x.shape[2] - 1) // stride + 1
    return y.view(len(x), out_size, out_size, len(weight)).permute(0, 3, 1, 2)


def columns(x: Tensor, stride: int) -> Tensor:
    """Maps (N, C, H, W) to the pixels under a 3x3 kernel in each of its places, (N * H' * W', 9 C)."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def on_tiny_maps(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The same on 1x1 and 2x2 maps, as one matrix product in which every output pixel meets every input pixel.

    On a 1x1 map, eight of a kernel's nine taps meet nothing but padding, and a convolution multiplies them all the
    same: forward and backward take ten times as long as what is left (512 channels, batch 128, a CPU with bf16).
    """
    images, _, size, _ = x.shape
    dense = DenseKernel.apply(weight, size, stride, x.dtype)
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), dense)
    out_size = math.isqrt(len(dense) // len(weight))
    return y.view(images, out_size, out_size, len(weight)).permute(0, 3, 1, 2)


class DenseKernel(torch.autograd.Function):
    """Kernels (O, C, 3, 3) to the matrix (out_size² O, size² C) that does to whole maps what they do.

    An output pixel's rows hold the taps that meet a pixel from there; a tap stands in as many places as it is used.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, size: int, stride: int, dtype: torch.dtype) -> Tensor:
        ctx.size, ctx.stride, ctx.like = size, stride, weight
        blocks = seen_taps(weight, size, stride)
        dense = weight.new_empty((len(blocks), *blocks[0].shape), dtype=dtype)
        for place, block in zip(dense, blocks, strict=True):
            place.copy_(block)  # in one go with the cast
        return dense.view(len(blocks) * len(weight), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad_weight = torch.zeros_like(ctx.like)
        blocks = seen_taps(grad_weight, ctx.size, ctx.stride)
        for block, part in zip(blocks, grad.view(len(blocks), *blocks[0].shape), strict=True):
            block.add_(part)
        return grad_weight, None, None, None


def seen_taps(weight: Tensor, size: int, stride: int) -> list[Tensor]:
    """For each output pixel, a view (O, size, size, C) of the taps that meet a pixel of the map from there."""
    taps = weight.permute(0, 2, 3, 1)
    starts = range(1, 1 - size, -stride)
    return [taps[:, row : row + size, column : column + size] for row in starts for column in starts]
