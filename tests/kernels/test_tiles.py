"""The convolution in tiles of matrices beside the plain one in float64, on every kind of map it takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels.calls import has_tiles, kernels
from resnetlab.kernels.convolution import FastConv3x3, convolve, convolve_and_pool
from resnetlab.kernels.library import library
from resnetlab.kernels.pooling import max_pool2x2
from resnetlab.kernels.tiles import convolved, grad_of_kernels, is_faster, pooled, tiled, tiled_and_pooled

pytestmark = pytest.mark.skipif(library() is None or not has_tiles(), reason="this processor multiplies no tiles")

SHAPES = [
    *[(3, 32, 48, 8), (2, 16, 64, 7), (5, 64, 16, 3), (1, 16, 16, 4), (1, 48, 80, 5)],
    *[(2, 32, 32, 16), (9, 64, 64, 6), (41, 32, 32, 7), (300, 32, 32, 3)],  # images alone and in several rounds
    *[(2, 128, 128, 5), (2, 64, 256, 6), (3, 512, 48, 4)],
    *[(33, 32, 48, 15), (70, 48, 32, 16), (17, 64, 80, 9)],  # more than a tile of images, or of pairs of them
    *[(2, 128, 32, 40), (17, 32, 32, 37)],  # maps in bands of rows
]


def maps(shape: tuple[int, ...], seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(torch.bfloat16, memory_format=torch.channels_last)


def kernels_like(out: int, channels: int) -> Tensor:
    values = torch.randn(out, channels, 3, 3, generator=torch.Generator().manual_seed(1)).mul(0.1)
    return values.contiguous(memory_format=torch.channels_last)


def error(values: Tensor, exact: Tensor) -> float:
    return float((values.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("images", "channels", "out", "size"), SHAPES)
def test_it_is_the_convolution_and_its_gradients(images: int, channels: int, out: int, size: int, stride: int) -> None:
    x, weight = maps((images, channels, size, size), 0).requires_grad_(), kernels_like(out, channels).requires_grad_()
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact_y = F.conv2d(exact_x, exact_weight, stride=stride, padding=1)
    grad = maps(tuple(exact_y.shape), 2)
    exact = (exact_y, *torch.autograd.grad(exact_y, (exact_x, exact_weight), grad.double()))
    y = tiled(x, weight, stride)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    mine = (y, *torch.autograd.grad(y, (x, weight), grad))
    for ours, truth in zip(mine[:2], exact[:2], strict=True):
        assert ours.shape == truth.shape
        assert error(ours, truth) < 0.003  # what rounding the kernels and the result to bfloat16 costs
    assert mine[2].dtype == torch.float32
    assert error(mine[2], exact[2]) < 1e-5  # nothing is rounded: products of bfloat16 are exact in float


@pytest.mark.parametrize(("images", "channels", "out", "size"), SHAPES)
def test_maps_and_their_gradient_at_any_shape(images: int, channels: int, out: int, size: int) -> None:
    """Shapes included for which a network uses torch's convolution, because it is faster."""
    x, weight = maps((images, channels, size, size), 0), kernels_like(out, channels)
    grad = maps((images, out, size, size), 2)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert error(convolved(x, weight), exact) < 0.003
    exact = F.conv_transpose2d(grad.double(), weight.double(), padding=1)
    assert error(convolved(grad, weight, back=True), exact) < 0.003


@pytest.mark.parametrize(("images", "channels", "out", "size"), SHAPES)
def test_fused_convolution_and_pool_equal_the_two_to_the_bit(images: int, channels: int, out: int, size: int) -> None:
    """Forward, and backward through the map between the two, which the fused kernel never writes."""
    x, weight = maps((images, channels, size, size), 0), kernels_like(out, channels)
    between = convolved(x, weight).requires_grad_()
    plain = max_pool2x2(between)
    grad = maps(tuple(plain.shape), 2)
    (unpooled,) = torch.autograd.grad(plain, between, grad)
    y = tiled_and_pooled(x.requires_grad_(), weight.requires_grad_())
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, plain)
    assert torch.equal(grad_x, convolved(unpooled, weight.detach(), back=True))
    assert torch.equal(grad_weight, grad_of_kernels(x.detach(), unpooled, 1))


def test_the_maximum_is_the_first_of_equal_pixels_and_nan_if_there_is_one() -> None:
    x = torch.zeros(1, 32, 4, 4, dtype=torch.bfloat16)
    x[0, 0, 0, 2] = float("nan")  # seen by its neighbours on both sides, and so by both windows of the upper half
    x[0, 0, 3, 3] = 1
    centre = torch.zeros(32, 32, 3, 3).contiguous(memory_format=torch.channels_last)
    centre[:, 0, 1, 1] = 1
    y, argmax = pooled(x.contiguous(memory_format=torch.channels_last), centre)
    assert y[0, :, 0].isnan().all()
    assert argmax[0, :, 1, 0].eq(0).all()
    assert y[0, :, 1, 0].eq(0).all()
    assert argmax[0, :, 1, 1].eq(3).all()
    assert y[0, :, 1, 1].eq(1).all()


def test_a_hook_on_a_convolution_before_a_pool_is_called() -> None:
    conv, x = FastConv3x3(32, 32, 3, padding=1, bias=False), maps((2, 32, 8, 8), 0)
    pool, outputs = nn.MaxPool2d(2), list[Tensor]()
    with torch.autocast("cpu", torch.bfloat16):
        fused = convolve_and_pool(conv, pool, x)
        conv.register_forward_hook(lambda module, inputs, y: outputs.append(y))
        apart = convolve_and_pool(conv, pool, x)
    assert outputs[0].shape == (2, 32, 8, 8)
    assert torch.equal(fused, apart)


def test_whole_numbers_that_bfloat16_holds_come_out_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, 32, 6, 6), generator=draw).bfloat16()
    weight = torch.randint(-1, 2, (32, 32, 3, 3), generator=draw).float()
    y = tiled(x, weight, 1)
    assert torch.equal(y.float(), F.conv2d(x.float(), weight, padding=1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads: int, stride: int) -> None:
    before = torch.get_num_threads()
    x = maps((37, 32, 15, 15), 0).requires_grad_()
    weight = kernels_like(48, 32).requires_grad_()
    results = []
    try:
        for count in (threads, before):
            torch.set_num_threads(count)
            results += [
                (y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y)))
                for y in (tiled(x, weight, stride), tiled_and_pooled(x, weight))
            ]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(results[:2], results[2:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("channels", [16, 32, 48])
def test_nan_only_reaches_the_pixels_that_depend_on_it(channels: int) -> None:
    """Padding, of pixels and of channels, is multiplied as well, and must add nothing."""
    x = maps((4, channels, 8, 8), 0)
    x[1, :, 3, 7] = float("nan")
    y = tiled(x, kernels_like(32, channels), 1)
    seen = torch.zeros(4, 8, 8, dtype=torch.bool)
    seen[1, 2:5, 6:8] = True
    assert torch.equal(y.isnan().any(1), seen)


def test_torchs_own_tile_kernels_can_run_before_and_after() -> None:
    """Both configure the processor's tiles."""
    x, weight = maps((64, 64, 9, 9), 0), kernels_like(64, 64)
    plain = F.conv2d(x, weight.bfloat16(), padding=1)
    for _ in range(3):
        ours = tiled(x, weight, 1)
        assert torch.equal(F.conv2d(x, weight.bfloat16(), padding=1), plain)
        assert torch.equal(tiled(x, weight, 1), ours)
    assert error(ours, plain.double()) < 0.003


@pytest.mark.parametrize("stride", [1, 2])
def test_an_empty_batch_works(stride: int) -> None:
    x, weight = maps((0, 32, 8, 8), 0).requires_grad_(), kernels_like(32, 32).requires_grad_()
    for y in (tiled(x, weight, stride), tiled_and_pooled(x, weight)):
        assert len(y) == 0
        grad_x, grad_weight = torch.autograd.grad(y.float().sum(), (x, weight))
        assert grad_x.shape == x.shape
        assert not grad_weight.any()


def test_a_gradient_that_is_not_needed_is_not_computed() -> None:
    x, weight = maps((2, 32, 4, 4), 0), torch.randn(32, 32, 3, 3)
    (alone,) = torch.autograd.grad(tiled(x, weight.requires_grad_(), 1).float().sum(), (weight,))
    both = torch.autograd.grad(tiled(x.requires_grad_(), weight, 1).float().sum(), (x, weight))
    assert torch.equal(alone, both[1])


def test_the_memory_layout_does_not_change_the_bits() -> None:
    x, weight = maps((2, 32, 6, 6), 0), torch.randn(32, 32, 3, 3)
    other = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(tiled(x, weight, 1), tiled(x.contiguous(), other, 1))


def test_is_faster_names_the_shapes() -> None:
    wide = torch.empty(128, 128, 3, 3)
    assert is_faster(maps((2, 128, 8, 8), 0), wide, 1)
    assert is_faster(maps((2, 128, 8, 8), 0), wide, 2)
    assert not is_faster(maps((2, 128, 8, 8), 0), wide, 3)
    assert not is_faster(maps((2, 128, 8, 8), 0).float(), wide, 1)  # in float32 a network is torchvision's to the bit
    assert not is_faster(maps((2, 128, 2, 2), 0), wide, 1)  # tiny maps have a way of their own
    assert not is_faster(maps((2, 128, 8, 6), 0), wide, 1)
    assert not is_faster(maps((2, 64, 8, 8), 0), torch.empty(16, 64, 3, 3), 1)
    assert not is_faster(maps((2, 128, 8, 8), 0), torch.empty(136, 128, 3, 3), 1)


def test_without_kernels_torch_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = maps((2, 128, 8, 8), 0), kernels_like(128, 128).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):  # `convolve` is called in it: torch's own convolution casts the kernels
        (ours,) = torch.autograd.grad(convolve(x, weight, 1, 1).float().sum(), (weight,))
        monkeypatch.setattr("resnetlab.kernels.calls.library", lambda: None)
        (theirs,) = torch.autograd.grad(convolve(x, weight, 1, 1).float().sum(), (weight,))
    assert error(ours, theirs.double()) < 0.01


@pytest.mark.parametrize("images", [3, 33])
def test_no_memory_outside_the_maps_is_read_or_written(images: int) -> None:
    """The input lies between NaN, the results between sevens."""
    size, channels = 5, 32
    numbers = images * size * size * channels
    outer = torch.full((3 * numbers,), float("nan"), dtype=torch.bfloat16)
    x = outer[numbers : 2 * numbers].view(images, size, size, channels).permute(0, 3, 1, 2)
    x.copy_(maps((images, channels, size, size), 0))
    weight = kernels_like(channels, channels)
    y = convolved(x, weight)
    assert y.isfinite().all()
    assert grad_of_kernels(x, x, 1).isfinite().all()
    assert torch.equal(y, convolved(x.clone(memory_format=torch.channels_last), weight))
    result = torch.full((3 * numbers,), 7.0, dtype=torch.bfloat16)
    packed = torch.empty(2 * kernels().tiles_packed(channels, channels), dtype=torch.bfloat16)
    kernels().tiles_pack(weight.data_ptr(), packed.data_ptr(), channels, channels, 0)
    inside = result[numbers : 2 * numbers]
    places = x.data_ptr(), None, packed.data_ptr(), inside.data_ptr(), None
    assert not kernels().tiles_convolve(*places, images, size, channels, channels)
    assert torch.equal(inside.view(images, size, size, channels).permute(0, 3, 1, 2), y)
    assert (result[:numbers] == 7).all()
    assert (result[2 * numbers :] == 7).all()
    kernels_out = torch.full((3 * weight.numel(),), 7.0)
    middle = kernels_out[weight.numel() : 2 * weight.numel()]
    places = x.data_ptr(), x.data_ptr(), None, middle.data_ptr()
    assert not kernels().tiles_weights(*places, images, size, 1, channels, channels)
    assert (kernels_out[: weight.numel()] == 7).all()
    assert (kernels_out[2 * weight.numel() :] == 7).all()
