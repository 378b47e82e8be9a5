"""Samples of images of bytes beside torch's, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from resnetlab.kernels.images import are_bytes, sample, sample_by_torch
from resnetlab.kernels.library import library, unavailable_reason

needs_kernels = pytest.mark.skipif(library() is None, reason=f"no kernels: {unavailable_reason()}")


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def places(count: int, size: int, seed: int) -> Tensor:
    """Return places inside and a little outside of the images, in order."""
    generator = torch.Generator().manual_seed(seed)
    first, last = torch.rand(2, count, 1, generator=generator) * 2.2 - 1.1
    return first + (last - first) * torch.linspace(0, 1, size)


@needs_kernels
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width", "size"), [(1, 1, 5), (2, 7, 1), (32, 32, 32), (40, 25, 31), (64, 80, 56)])
def test_samples_equal_those_of_torch(height: int, width: int, size: int, channels: int) -> None:
    images = noise(9, height, width, channels)
    x, y = places(9, size, 1), places(9, size, 2)
    x[0, 0], y[1, 0] = float("inf"), -float("inf")
    ours, theirs = sample(images, x, y), sample_by_torch(images, x, y)
    assert ours.shape == theirs.shape == (9, size, size, channels)
    assert ours.dtype == torch.uint8
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # where torch's sums are fused as ours are
        assert torch.equal(ours, theirs)
    assert (ours.int() - theirs.int()).abs().max() <= 1


@needs_kernels
def test_a_place_on_a_pixel_gives_that_pixel() -> None:
    images = noise(3, 8, 8, 3)
    pixels = ((torch.arange(8) + 0.5) / 4 - 1).expand(3, -1)
    assert torch.equal(sample(images, pixels, pixels), images)
    assert torch.equal(sample(images, pixels.flip(1), pixels), images.flip(2))


def test_what_the_kernel_does_not_take_is_sampled_by_torch() -> None:
    images, x, y = noise(4, 12, 10, 3), places(4, 6, 1), places(4, 6, 2)
    expected = sample_by_torch(images, x, y)
    for given in (images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), noise(4, 12, 20, 3)[:, :, ::2]):
        assert torch.equal(sample(given, x, y), sample_by_torch(given, x, y))
    wide = noise(2, 3, 5000, 3)
    assert torch.equal(sample(wide, x[:2], y[:2]), sample_by_torch(wide, x[:2], y[:2]))
    wanted = x.clone().requires_grad_()
    assert torch.equal(sample(images, wanted, y).detach(), expected)
    assert sample(images.to("meta"), x.to("meta"), y.to("meta")).shape == expected.shape
    assert sample(images[:0], x[:0], y[:0]).shape == (0, 6, 6, 3)


@needs_kernels
def test_only_plain_bytes_in_memory_go_to_the_kernels() -> None:
    assert are_bytes(noise(1, 2, 2, 3))
    for other in (noise(1, 2, 2, 3).float(), noise(2, 2, 3), noise(0, 2, 2, 3), noise(1, 2, 2, 3).to("meta")):
        assert not are_bytes(other)
    with FakeTensorMode():
        assert not are_bytes(noise(1, 2, 2, 3))
