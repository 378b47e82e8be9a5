"""The two convolutions that residual units are made of, neither with a bias: a norm follows and would undo it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return Conv3x3(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with a padding of 1, which in half precision does not multiply tiny maps' padding.

    In float32 it is `nn.Conv2d` to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.stride[0], self.groups)


@torch.fx.wrap  # one node of a traced graph: the choice below is made when the graph runs
def convolve(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Maps (N, C, H, W) and kernels (O, C / groups, 3, 3) to (N, O, H / stride, W / stride)."""
    if x.dtype in (torch.bfloat16, torch.float16) and x.shape[2] == x.shape[3] <= 2:
        if groups == 1:
            return on_tiny_maps(x, weight, stride)
        if x.shape[2] == 1:
            stride = (
                1  # the same single pixel; with 2, torch 2.15 leaves unset memory in the CPU's bf16 weight gradient
            )
    return F.conv2d(x, weight, stride=stride, padding=1, groups=groups)


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
