"""Samples of images of bytes, mirrored and normalised images beside those of torch, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from resnetlab.kernels.images import are_bytes, mirror, normalize, sample, sample_by_torch
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


@needs_kernels
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_mirrored_images_equal_those_of_torch(size: int, channels: int) -> None:
    images, chosen = noise(5, size, size + 1, channels), torch.tensor([True, False, False, True, True])
    expected = torch.where(chosen[:, None, None, None], images.flip(2), images)
    assert torch.equal(mirror(images, chosen), expected)
    assert torch.equal(mirror(images.flip(1), chosen), expected.flip(1))
    assert mirror(images[:0], chosen[:0]).shape == (0, size, size + 1, channels)


def test_mirroring_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    images, chosen = noise(4, 6, 5, 3), torch.tensor([True, False, True, False])
    usual = mirror(images, chosen)
    monkeypatch.setattr("resnetlab.kernels.images.has_kernels", lambda: False)
    assert torch.equal(mirror(images, chosen), usual)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalised_images_equal_those_of_torch(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).repeat_interleave(channels).view(1, 16, 16, channels)
    images = torch.cat([every_byte, noise(2, 16, 16, channels)])
    generator = torch.Generator().manual_seed(1)
    mean, std = torch.rand(2, channels, generator=generator).repeat(1, 13).clamp(1e-4, 1)
    cropped = images[:, 1:14, 2:15]  # a view
    given = (cropped, cropped.contiguous(), cropped.flip(2), cropped[:0])
    ours = [normalize(part, mean, std) for part in given]
    monkeypatch.setattr("resnetlab.kernels.images.has_kernels", lambda: False)
    for part, result in zip(given, ours, strict=True):
        assert torch.equal(result, normalize(part, mean, std))
        expected = ((part.double() / 255 - mean.view(13, channels)) / std.view(13, channels)).permute(0, 3, 1, 2)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-2)
        assert result.is_contiguous(memory_format=torch.channels_last)
