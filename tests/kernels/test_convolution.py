"""Convolutions of small maps in bfloat16: as exact as torch's; in fp32 they are torch's to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels.accelerate import accelerate
from resnetlab.kernels.convolution import FastConv3x3, convolve


def with_gradients(x: Tensor, weight: Tensor, stride: int, grad: Tensor, *, ours: bool) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    if ours:
        y = convolve(x, weight, stride, 1)
    else:  # on one pixel the stride means nothing, and torch's own gradient is unset memory where it is 2
        y = F.conv2d(x, weight.to(x.dtype), stride=1 if x.shape[-1] == 1 else stride, padding=1)
    y.backward(grad.to(y.dtype))
    assert x.grad is not None
    assert weight.grad is not None
    return y.detach(), x.grad, weight.grad


def error(values: Tensor, truth: Tensor) -> float:
    return float((values.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_half_precision_is_as_close_to_float64_as_a_convolution(size: int, stride: int) -> None:
    draw = torch.Generator().manual_seed(size * 10 + stride)
    x = torch.randn(8, 24, size, size, generator=draw).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(40, 24, 3, 3, generator=draw).mul(0.05).to(memory_format=torch.channels_last)
    out = (size - 1) // stride + 1
    grad = torch.randn(8, 40, out, out, generator=draw)
    exact = with_gradients(x.double(), weight.bfloat16().double(), stride, grad.bfloat16().double(), ours=False)
    theirs = with_gradients(x, weight, stride, grad, ours=False)
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(x, weight, stride, grad, ours=True)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert ours[2].dtype == torch.float32
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        assert mine.shape == truth.shape
        assert error(mine, truth) <= 1.1 * error(other, truth) + 1e-4


@pytest.mark.parametrize("size", [1, 2, 5])
def test_in_float32_it_is_the_plain_convolution_to_the_bit(size: int) -> None:
    ours = FastConv3x3(8, 16, 3, 2, 1, bias=False)
    x = torch.randn(4, 8, size, size)
    assert torch.equal(ours(x), F.conv2d(x, ours.weight, stride=2, padding=1))


def test_groups_are_left_to_the_convolution() -> None:
    ours, x = FastConv3x3(8, 8, 3, padding=1, groups=4, bias=False), torch.randn(2, 8, 1, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), F.conv2d(x, ours.weight, padding=1, groups=4))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_only_meet_padding_have_no_gradient(stride: int, groups: int) -> None:
    conv = FastConv3x3(8, 16, 3, stride, 1, groups=groups, bias=False)
    for _ in range(10):
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(torch.randn(4, 8, 1, 1).bfloat16())
        garbage = [torch.full((n,), float("nan")) for n in (8, 64, 1152, 4096) for _ in range(9)]
        del garbage  # unset memory now holds NaN
        y.float().square().sum().backward()
        assert conv.weight.grad is not None
        dead = conv.weight.grad.clone()
        dead[:, :, 1, 1] = 0
        assert torch.equal(dead, torch.zeros_like(dead))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [16, 32, 512])
def test_what_follows_a_convolution_may_work_in_place(channels: int, size: int, stride: int) -> None:
    """As in a network without norms, or where a norm was replaced by an identity."""
    draw = torch.Generator().manual_seed(channels + size)
    plain = nn.Sequential(nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False), nn.ReLU(inplace=True))
    with torch.no_grad():
        plain[0].weight.normal_(0, (9 * channels) ** -0.5, generator=draw)
    x = torch.randn(4, channels, size, size, generator=draw).bfloat16()
    gradients = []
    for model in (accelerate(copy.deepcopy(plain)), plain):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            model(given).float().square().sum().backward()
        gradients.append(given.grad)
    assert error(gradients[0], gradients[1].double()) < 0.1
