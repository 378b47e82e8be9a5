"""Winograd's convolution beside the plain one in float64, forward and backward, on every kind of map it takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.calls import has_pair_products, kernels
from resnetlab.kernels.convolution import convolve
from resnetlab.kernels.library import library
from resnetlab.kernels.winograd import is_faster, tiles, winograd

pytestmark = pytest.mark.skipif(
    library() is None or not has_pair_products(), reason="there are no kernels here that multiply bfloat16"
)


def maps(shape: tuple[int, ...], seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(torch.bfloat16, memory_format=torch.channels_last)


def error(values: Tensor, exact: Tensor) -> float:
    return float((values.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize(
    ("images", "channels", "out", "size"),
    [
        *[(3, 32, 48, 8), (2, 16, 64, 7), (5, 64, 16, 3), (1, 16, 16, 4)],
        *[(2, 32, 32, 16), (9, 64, 64, 6), (41, 32, 32, 7), (3, 112, 80, 5)],  # common widths, ragged blocks
        *[(2, 128, 128, 5), (2, 64, 256, 6), (3, 512, 48, 4)],  # too wide for the weights' gradient in the cache
    ],
)
def test_it_is_the_convolution_and_its_gradients(images: int, channels: int, out: int, size: int) -> None:
    x = maps((images, channels, size, size), 0).requires_grad_()
    weight = torch.randn(out, channels, 3, 3, generator=torch.Generator().manual_seed(1)).mul(0.1).requires_grad_()
    grad = maps((images, out, size, size), 2)
    y = winograd(x, weight)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    mine = (y, *torch.autograd.grad(y, (x, weight), grad))
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact_y = F.conv2d(exact_x, exact_weight, padding=1)
    exact = (exact_y, *torch.autograd.grad(exact_y, (exact_x, exact_weight), grad.double()))
    assert mine[2].dtype == torch.float32
    for ours, truth in zip(mine, exact, strict=True):
        assert ours.shape == truth.shape
        assert error(ours, truth) < 0.007  # a plain convolution in bfloat16: 0.0025


def test_whole_numbers_that_bfloat16_holds_come_out_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, 16, 6, 6), generator=draw).bfloat16()
    weight = torch.randint(-1, 2, (16, 16, 3, 3), generator=draw).float().mul(4) * (
        torch.rand(16, 16, 3, 3, generator=draw) < 0.05
    )
    y = winograd(x, weight)
    exact = F.conv2d(x.float(), weight, padding=1)
    assert exact.abs().max() <= 256
    assert torch.equal(y.float(), exact)


def test_a_gradient_that_is_not_needed_is_not_computed() -> None:
    x, weight = maps((2, 16, 4, 4), 0), torch.randn(16, 16, 3, 3)
    (alone,) = torch.autograd.grad(winograd(x, weight.requires_grad_()).float().sum(), (weight,))
    both = torch.autograd.grad(winograd(x.requires_grad_(), weight).float().sum(), (x, weight))
    assert torch.equal(alone, both[1])


def test_the_memory_layout_does_not_change_the_bits() -> None:
    x, weight = maps((2, 32, 6, 6), 0), torch.randn(16, 32, 3, 3)
    assert torch.equal(
        winograd(x, weight), winograd(x.contiguous(), weight.contiguous(memory_format=torch.channels_last))
    )


@pytest.mark.parametrize("channels", [32, 48, 128])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads: int, channels: int) -> None:
    before = torch.get_num_threads()
    x = maps((9, channels, 15, 15), 0).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3, requires_grad=True)
    results = []
    try:
        for count in (threads, before):
            torch.set_num_threads(count)
            y = winograd(x, weight)
            results.append((y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_is_faster_names_the_shapes() -> None:
    wide = torch.empty(128, 128, 3, 3)
    assert is_faster(maps((2, 128, 8, 8), 0), wide)
    assert not is_faster(maps((2, 128, 8, 8), 0).float(), wide)  # in float32 a network is torchvision's to the bit
    assert not is_faster(maps((2, 128, 2, 2), 0), wide)  # tiny maps have a way of their own
    assert not is_faster(maps((2, 128, 8, 6), 0), wide)
    assert is_faster(maps((2, 64, 8, 8), 0), torch.empty(32, 64, 3, 3))
    assert not is_faster(maps((2, 64, 8, 8), 0), torch.empty(16, 64, 3, 3))
    assert not is_faster(maps((2, 16, 8, 8), 0), torch.empty(64, 16, 3, 3))
    assert not is_faster(maps((2, 128, 8, 8), 0), torch.empty(136, 128, 3, 3))


def test_without_kernels_torch_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = maps((2, 128, 8, 8), 0), torch.randn(128, 128, 3, 3)
    ours = convolve(x, weight, 1, 1)
    monkeypatch.setattr("resnetlab.kernels.calls.library", lambda: None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolve(x, weight, 1, 1), F.conv2d(x, weight, padding=1))
    theirs = F.conv2d(x, weight.bfloat16(), padding=1)
    assert not torch.equal(ours, theirs)
    assert error(ours, theirs.double()) < 0.01


@pytest.mark.parametrize(("size", "count"), [(3, 4), (4, 4), (7, 16), (8, 16)])
def test_tiles_cover_the_map(size: int, count: int) -> None:
    assert tiles(size) == count


def test_amx_tiles_are_preferred_to_pair_products(monkeypatch: pytest.MonkeyPatch) -> None:
    there = torch.cpu.get_capabilities()
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=amx: {**there, "amx_bf16": amx})
        assert has_pair_products.__wrapped__() is not amx


def test_no_memory_outside_the_maps_is_read_or_written() -> None:
    """The input lies between NaN, the result between sevens."""
    size, channels, images = 5, 32, 2
    numbers = images * size * size * channels
    outer = torch.full((3 * numbers,), float("nan"), dtype=torch.bfloat16)
    x = outer[numbers : 2 * numbers].view(images, size, size, channels).permute(0, 3, 1, 2)
    x.copy_(maps((images, channels, size, size), 0))
    weight = torch.randn(channels, channels, 3, 3, generator=torch.Generator().manual_seed(1))
    y = winograd(x, weight)
    assert y.isfinite().all()
    assert torch.equal(y, winograd(x.clone(memory_format=torch.channels_last), weight))
    result = torch.full((3 * numbers,), 7.0, dtype=torch.bfloat16)
    packed = torch.empty(16 * channels * channels, dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=torch.channels_last)
    kernels().blocks_pack(weight.data_ptr(), packed.data_ptr(), channels, channels, False)
    places = x.data_ptr(), packed.data_ptr(), None, None, result[numbers:].data_ptr()
    assert kernels().blocks_convolve(*places, images, size, channels, channels, 0) == 0
    assert (result[:numbers] == 7).all()
    assert (result[2 * numbers :] == 7).all()
    assert torch.equal(result[numbers : 2 * numbers].view(images, size, size, channels).permute(0, 3, 1, 2), y)
