"""The kernel of a whitened stem: torch's convolution and ReLU but for rounding, where no gradient is needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resnetlab.kernels.library import library
from resnetlab.kernels.units import convolve_and_rectify, is_frozen_stem
from resnetlab.models.stems import STEMS

needs_kernels = pytest.mark.skipif(library() is None, reason="no C compiler here: torch's convolution is used")


def stem(channels: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return STEMS["whitened"](channels, 64)[0]


def in_bfloat16(conv: nn.Conv2d, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        assert is_frozen_stem(conv, nn.ReLU(), images)
        return convolve_and_rectify(conv.weight, images)


@needs_kernels
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 8), (32, 32), (24, 7), (9, 6)])
def test_equals_float64_but_for_rounding(channels: int, height: int, width: int) -> None:
    conv, images = stem(channels), torch.randn(3, channels, height, width).bfloat16()
    found = in_bfloat16(conv, images)
    exact = torch.conv2d(images.double(), conv.weight.bfloat16().double()).relu()
    assert found.shape == exact.shape == (3, len(conv.weight), height - 2, width - 2)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)


@needs_kernels
def test_nan_propagates_and_the_layout_of_the_images_does_not_matter() -> None:
    conv, images = stem(3), torch.randn(2, 3, 8, 8)
    images[1, 2, 4, 4] = float("nan")
    found = in_bfloat16(conv, images)
    assert found[0].isfinite().all()
    assert found[1, :, 2:5, 2:5].isnan().all()
    assert found[1, :, :2].isfinite().all()
    again = in_bfloat16(conv, images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, again) or torch.equal(found.isnan(), again.isnan())


def test_a_stem_that_is_trained_hooked_or_in_float32_is_left_to_torch() -> None:
    conv, relu, images = stem(3), nn.ReLU(), torch.randn(2, 3, 8, 8)
    assert not is_frozen_stem(conv, relu, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_frozen_stem(conv, nn.SiLU(), images)
        assert not is_frozen_stem(conv, relu, images[:0])
        assert not is_frozen_stem(conv, relu, images.clone().requires_grad_())
        handle = conv.register_forward_hook(lambda *_: None)
        assert not is_frozen_stem(conv, relu, images)
        handle.remove()
        conv.weight.requires_grad_()
        assert not is_frozen_stem(conv, relu, images)
