"""Resizing by the kernel beside Pillow's, to the byte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnetlab.kernels import resize as module
from resnetlab.kernels.compiler import refusal
from resnetlab.kernels.resize import resize, resize_by_pillow

needs_kernel = pytest.mark.skipif(module._kernel() is None, reason=f"no kernel, or another Pillow: {refusal()}")
sides = st.integers(1, 90)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget the loaded library before and after a test."""
    module._kernel.cache_clear()
    yield
    module._kernel.cache_clear()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@needs_kernel
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.tuples(*[st.floats(0, 1)] * 4), st.booleans())
def test_every_byte_is_that_of_pillow(
    given_size: tuple[int, int], size: tuple[int, int], shares: tuple[float, ...], is_whole: bool
) -> None:
    width, height = given_size
    (left, right), (top, bottom) = sorted(shares[:2]), sorted(shares[2:])
    box = (left * width, top * height, right * width, bottom * height)
    if is_whole or right - left < 0.01 or bottom - top < 0.01:
        box = (0.0, 0.0, float(width), float(height))
    image = noise(width, height)
    ours, theirs = resize(image, size, box), resize_by_pillow(image, size, box)
    assert ours.shape == (size[1], size[0], 3)
    assert np.array_equal(ours, theirs)


@needs_kernel
@pytest.mark.parametrize(
    ("width", "height", "box", "size"),
    [
        (500, 375, (62.0, 0.0, 437.0, 375.0), (256, 256)),
        (375, 500, (0.0, 62.0, 375.0, 437.0), (256, 256)),  # along columns first
        (1, 2000, (0.0, 0.0, 1.0, 2000.0), (1, 3)),
        (2000, 1, (0.0, 0.0, 2000.0, 1.0), (3, 1)),
        (3, 3, (0.0, 0.0, 3.0, 3.0), (300, 301)),
        (700, 64, (318.0, 0.0, 382.0, 64.0), (64, 64)),  # cut, not resampled
    ],
)
def test_usual_and_extreme_shapes(
    width: int, height: int, box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    for image in (noise(width, height), Image.new("RGB", (width, height), (255, 255, 255))):
        assert np.array_equal(resize(image, size, box), resize_by_pillow(image, size, box))


def test_grey_images_and_those_of_the_right_size() -> None:
    image = noise(20, 30)
    assert np.array_equal(resize(image, (20, 30), (0.0, 0.0, 20.0, 30.0)), np.asarray(image))
    grey = image.convert("L")
    box = (1.5, 2.0, 18.0, 25.0)
    assert np.array_equal(resize(grey, (8, 9), box), np.asarray(grey.resize((8, 9), 2, box))[:, :, None])


def test_results_can_be_written_to() -> None:
    for size in ((20, 30), (7, 7)):
        result = resize(noise(20, 30), size, (0.0, 0.0, 20.0, 30.0))
        result += 1


@needs_kernel
def test_images_in_several_blocks_of_memory_are_resized_by_pillow() -> None:
    image = noise(2100, 2100)  # Pillow's blocks have 16 MB
    box = (0.0, 0.0, 2100.0, 2100.0)
    assert np.array_equal(resize(image, (5, 5), box), resize_by_pillow(image, (5, 5), box))


@pytest.mark.usefixtures("fresh")
def test_without_kernels_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (0.0, 0.0, 50.0, 70.0)
    usual = resize(noise(50, 70), (16, 16), box)
    monkeypatch.setenv("RESNETLAB_KERNELS", "off")
    module._kernel.cache_clear()
    assert module._kernel() is None
    assert np.array_equal(resize(noise(50, 70), (16, 16), box), usual)


@needs_kernel
@pytest.mark.usefixtures("fresh")
def test_a_pillow_of_another_arithmetic_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
        return resize_by_pillow(image, size, box) ^ 1

    monkeypatch.setattr(module, "resize_by_pillow", other)
    module._kernel.cache_clear()
    assert module._kernel() is None
    box = (0.0, 0.0, 50.0, 70.0)
    assert np.array_equal(resize(noise(50, 70), (16, 16), box), other(noise(50, 70), (16, 16), box))


@needs_kernel
def test_the_images_of_the_check_show_the_order_of_the_passes() -> None:
    library = module._kernel()
    assert library is not None
    image = noise(41, 97)
    box = (0.0, 0.0, 41.0, 97.0)
    right = resize(image, (16, 16), box)
    between = resize_by_pillow(image, (16, 97), box)  # along rows first
    assert not np.array_equal(resize_by_pillow(Image.fromarray(between), (16, 16), (0.0, 0.0, 16.0, 97.0)), right)


def test_decoding_needs_no_torch() -> None:
    program = "import sys, resnetlab.kernels.resize, resnetlab.data.reading; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
