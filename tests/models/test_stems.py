"""The whitened stem's kernel beside torch's convolution and ReLU, and when it is left to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resnetlab.kernels.library import library
from resnetlab.models.stems import STEMS, convolve_and_rectify

needs_kernels = pytest.mark.skipif(library() is None, reason="no C compiler here: torch's convolution is used")


def stem(channels: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return STEMS["whitened"](channels, 64)[0]


def in_bfloat16(conv: nn.Module, relu: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return convolve_and_rectify(conv, relu, images)


@needs_kernels
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 8), (32, 32), (24, 7), (9, 6)])
def test_equals_float64_but_for_rounding(channels: int, height: int, width: int) -> None:
    conv, images = stem(channels), torch.randn(3, channels, height, width).bfloat16()
    found = in_bfloat16(conv, nn.ReLU(), images)
    exact = torch.conv2d(images.double(), conv.weight.bfloat16().double()).relu()
    assert found.shape == exact.shape == (3, len(conv.weight), height - 2, width - 2)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)


@needs_kernels
def test_nan_comes_through_and_the_layout_of_the_images_does_not_matter() -> None:
    conv, images = stem(3), torch.randn(2, 3, 8, 8)
    images[1, 2, 4, 4] = float("nan")
    found = in_bfloat16(conv, nn.ReLU(), images)
    assert found[0].isfinite().all()
    assert found[1, :, 2:5, 2:5].isnan().all()
    assert found[1, :, :2].isfinite().all()
    again = in_bfloat16(conv, nn.ReLU(), images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, again) or torch.equal(found.isnan(), again.isnan())


def test_float32_is_torch_to_the_bit() -> None:
    conv, images = stem(3), torch.randn(2, 3, 8, 8)
    assert torch.equal(convolve_and_rectify(conv, nn.ReLU(), images), conv(images).relu())


def test_whoever_listens_to_the_stem_or_trains_it_gets_torch() -> None:
    conv, images, heard = stem(3), torch.randn(2, 3, 8, 8), []
    handle = conv.register_forward_hook(lambda *_: heard.append(1))
    in_bfloat16(conv, nn.ReLU(), images)
    assert heard == [1]
    handle.remove()
    conv.weight.requires_grad_()
    in_bfloat16(conv, nn.ReLU(), images).float().sum().backward()
    assert conv.weight.grad is not None
    images.requires_grad_()
    in_bfloat16(conv.requires_grad_(False), nn.ReLU(), images).float().sum().backward()
    assert images.grad is not None
