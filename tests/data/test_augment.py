"""Augmentation of a whole batch equals slicing one image at a time; torch and torchvision are the oracles."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resnetlab.data.augment import crop, cutout, erasing, flip, resize, resized_crop, rotation, to_integers
from resnetlab.data.colour import brightness, contrast, hue, saturation

JUST_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
SHAPES = [(8, 8, 3), (7, 7, 1), (9, 5, 3), (1, 1, 1), (32, 31, 3)]


def noise(count: int, height: int, width: int, channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


def uniform(count: int, columns: int, seed: int = 1) -> Tensor:
    """Return random numbers that include the extremes of the interval."""
    numbers = torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))
    numbers[0] = 0.0
    numbers[-1] = JUST_BELOW_1
    return numbers


AUGMENTATIONS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "crop": (2, partial(crop, padding=2)),
    "crop, reflected": (2, partial(crop, padding=2, mode="reflect")),
    "flip": (1, flip),
    "cutout": (2, partial(cutout, size=3)),
    "resized_crop": (4, partial(resized_crop, size=8, min_area=0.25)),
    "rotation": (1, partial(rotation, degrees=30)),
    "erasing": (5, partial(erasing, probability=0.7)),
    "brightness": (1, partial(brightness, strength=0.4)),
    "contrast": (1, partial(contrast, strength=0.4)),
}
IN_COLOUR: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "saturation": (1, partial(saturation, strength=0.4)),
    "hue": (1, partial(hue, strength=0.2)),
}


@pytest.mark.parametrize(
    ("shape", "padding", "mode"),
    [
        (shape, padding, mode)
        for shape in SHAPES
        for padding in (1, 2, 4)
        for mode in ("constant", "reflect")
        if mode == "constant" or padding < min(shape[:2])  # a mirror cannot be wider than the image
    ],
)
def test_crop_equals_padding_and_slicing_each_image(shape: tuple[int, int, int], padding: int, mode: str) -> None:
    images, numbers = noise(12, *shape), uniform(12, 2)
    cut = crop(images, numbers, padding, mode)
    assert cut.dtype == torch.uint8
    for image, number, ours in zip(images.numpy(), numbers.tolist(), cut.numpy(), strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)  # type: ignore[call-overload]
        top, left = (math.floor(u * (2 * padding + 1)) for u in number)
        assert np.array_equal(ours, padded[top : top + shape[0], left : left + shape[1]])


def test_a_crop_reaches_every_offset_and_none_beyond() -> None:
    image = noise(1, 4, 4, 1)
    offsets = torch.cartesian_prod(torch.arange(5), torch.arange(5)) / 5 + 0.1  # the middle of each fifth
    cut = crop(image.expand(25, 4, 4, 1), offsets, padding=2)
    assert len({c.numpy().tobytes() for c in cut}) == 25
    assert torch.equal(cut[12], image[0])  # the middle one moves nothing


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_exactly_the_images_whose_number_is_below_a_half(shape: tuple[int, int, int]) -> None:
    images, numbers = noise(16, *shape), uniform(16, 1)
    numbers[1:3, 0] = torch.tensor([0.5, float(np.nextafter(np.float32(0.5), np.float32(0)))])
    flipped = flip(images, numbers)
    assert flipped.dtype == torch.uint8
    for image, number, ours in zip(images, numbers[:, 0].tolist(), flipped, strict=True):
        assert torch.equal(ours, torch.flip(image, [1]) if number < 0.5 else image)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_blackens_exactly_a_square_cut_off_at_the_border(shape: tuple[int, int, int], size: int) -> None:
    height, width, _ = shape
    images, numbers = noise(12, *shape).clamp(min=1), uniform(12, 2)  # no pixel is black already
    cut = cutout(images, numbers, size)
    assert cut.dtype == torch.uint8
    for image, (v, u), ours in zip(images.numpy(), numbers.tolist(), cut.numpy(), strict=True):
        top, left = math.floor(v * height) - size // 2, math.floor(u * width) - size // 2
        expected = image.copy()
        expected[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        assert np.array_equal(ours, expected)
        assert 1 <= (ours == 0).all(2).sum() <= size * size


def test_cutout_does_not_change_its_input() -> None:
    images = noise(4, 8, 8, 3)
    before = images.clone()
    cutout(images, uniform(4, 2), 5)
    assert torch.equal(images, before)


def numbers_for_square(side: int, top: int, left: int, min_area: float) -> Tensor:
    """Return the numbers for which `resized_crop` crops this square from 16×16 pixels."""
    area = (side * side / 256 - min_area) / (1 - min_area)
    return torch.tensor([[area, 0.5, left / (16 - side), top / (16 - side)]])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("side", "top", "left", "size"), [(8, 3, 5, 16), (9, 0, 7, 31), (12, 4, 4, 12), (15, 1, 0, 32)]
)
def test_resized_crop_equals_torchvision_inside_the_crop(
    side: int, top: int, left: int, size: int, channels: int
) -> None:
    """At its border torchvision repeats the last row; here the image continues, so the rim is left out."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = noise(1, 16, 16, channels)
    ours = resized_crop(image, numbers_for_square(side, top, left, 0.1), size, 0.1)
    theirs = functional.resized_crop(
        image.permute(0, 3, 1, 2).contiguous(), top, left, side, side, [size, size], antialias=False
    ).permute(0, 2, 3, 1)
    assert ours.shape == (1, size, size, channels)
    assert ours.dtype == torch.uint8
    rim = math.ceil(size / side / 2)
    inner = (ours.int() - theirs.int())[:, rim : size - rim, rim : size - rim]
    assert inner.numel() > 0
    assert inner.abs().max() <= 2


@pytest.mark.parametrize("size", [13, 32])
def test_resized_crop_samples_where_affine_grid_does(size: int) -> None:
    images, numbers = noise(5, 24, 24, 3), uniform(5, 4)
    area = (0.08 + 0.92 * numbers[:, 0]) * 24 * 24
    aspect = (4 / 3) ** (2 * numbers[:, 1] - 1)
    width, height = ((area * part).sqrt().clamp(1, 24) for part in (aspect, 1 / aspect))
    left, top = numbers[:, 2] * (24 - width), numbers[:, 3] * (24 - height)
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width / 24, (2 * left + width) / 24 - 1
    theta[:, 1, 1], theta[:, 1, 2] = height / 24, (2 * top + height) / 24 - 1
    grid = F.affine_grid(theta, [5, 3, size, size], align_corners=False)
    sampled = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    difference = resized_crop(images, numbers, size, 0.08).int() - sampled.round().int().permute(0, 2, 3, 1)
    assert difference.abs().max() <= 1  # where a value lies between two bytes


@pytest.mark.parametrize("size", [16, 17, 40])
def test_resized_crop_of_the_whole_image_equals_torchvision_to_the_border(size: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = noise(2, 16, 16, 3)
    ours = resized_crop(image, torch.tensor([[0.3, 0.5, 0.9, 0.1]] * 2), size, min_area=1.0)
    theirs = functional.resized_crop(
        image.permute(0, 3, 1, 2).contiguous(), 0, 0, 16, 16, [size, size], antialias=False
    ).permute(0, 2, 3, 1)
    assert (ours.int() - theirs.int()).abs().max() <= 2


def test_resized_crop_of_a_ramp_has_the_area_and_aspect_ratio_drawn() -> None:
    """On a ramp, bilinear sampling returns the coordinate itself; the crop can be read off the pixels."""
    height, width, size = 120, 200, 100
    x = torch.arange(width, dtype=torch.uint8).expand(height, width)
    y = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    ramp = torch.stack([x, y, torch.zeros_like(x)], dim=2)
    numbers = uniform(64, 4)[1:-1]
    cut = resized_crop(ramp.expand(62, -1, -1, -1), numbers, size, min_area=0.2).double()
    for (area, aspect, across, down), ours in zip(numbers.double().tolist(), cut, strict=True):
        pixels = (0.2 + 0.8 * area) * height * width
        ratio = (3 / 4) ** (1 - 2 * aspect)
        crop_width, crop_height = min(width, math.sqrt(pixels * ratio)), min(height, math.sqrt(pixels / ratio))
        centres = (torch.arange(size) + 0.5) / size
        expected_x = across * (width - crop_width) + centres * crop_width - 0.5
        expected_y = down * (height - crop_height) + centres * crop_height - 0.5
        assert (ours[0, :, 0] - expected_x.clamp(0, width - 1)).abs().max() < 0.51
        assert (ours[:, 0, 1] - expected_y.clamp(0, height - 1)).abs().max() < 0.51


def grey_of(image: np.ndarray) -> np.ndarray:
    weights = np.array([0.2989, 0.587, 0.114]) if image.shape[2] == 3 else np.ones(1)
    return np.floor((image * weights).sum(2, keepdims=True) + 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("strength", [0.3, 1.7])
def test_jitter_blends_each_image_with_black_its_mean_or_its_greys(
    name: str, shape: tuple[int, int, int], strength: float
) -> None:
    images, numbers = noise(12, *shape), uniform(12, 1)
    function = {"brightness": brightness, "contrast": contrast, "saturation": saturation}[name]
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    low, high = max(0, 1 - strength), 1 + strength
    for image, u, ours in zip(images, numbers[:, 0].tolist(), function(images, numbers, strength), strict=True):
        factor, pixels = low + (high - low) * u, image.numpy().astype(float)
        other = {"brightness": 0.0, "contrast": grey_of(pixels).mean(), "saturation": grey_of(pixels)}[name]
        expected = (pixels * factor + other * (1 - factor)).clip(0, 255)
        assert np.abs(ours.numpy() - expected).max() <= 0.501
        theirs = getattr(functional, f"adjust_{name}")(image.permute(2, 0, 1), factor).permute(1, 2, 0)
        assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_hue_turns_the_colour_circle_of_each_image(strength: float) -> None:
    images, numbers = noise(12, 6, 5, 3), uniform(12, 1)
    images[0] = images[0, :, :, :1]  # greys, which have no hue
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    turned = hue(images, numbers, strength)
    assert torch.equal(turned[0], images[0])
    for image, u, ours in zip(images, numbers[:, 0].tolist(), turned, strict=True):
        turn = (2 * u - 1) * strength
        for pixel, our_pixel in zip(image.view(-1, 3).tolist(), ours.view(-1, 3).tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in pixel))
            expected = [255 * value for value in colorsys.hsv_to_rgb((h + turn) % 1, s, v)]
            assert our_pixel == pytest.approx(expected, abs=0.51)
        theirs = functional.adjust_hue(image.permute(2, 0, 1), turn).permute(1, 2, 0)
        assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("degrees", [15, 180])
def test_rotation_equals_torchvision_image_by_image(shape: tuple[int, int, int], degrees: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images, numbers = noise(8, *shape), uniform(8, 1)
    numbers[1] = 0.5
    turned = rotation(images, numbers, degrees)
    assert torch.equal(turned[1], images[1])
    for image, u, ours in zip(images[2:-1], numbers[2:-1, 0].tolist(), turned[2:-1], strict=True):
        bilinear = functional.InterpolationMode.BILINEAR
        theirs = functional.rotate(image.permute(2, 0, 1), (2 * u - 1) * degrees, bilinear).permute(1, 2, 0)
        assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(7, 7, 1), (9, 5, 3)])
def test_rotation_equals_a_bilinear_mean_of_four_pixels(shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    images, numbers = noise(6, *shape), uniform(6, 1)
    for image, u, ours in zip(images.numpy(), numbers[:, 0].tolist(), rotation(images, numbers, 30), strict=True):
        angle = math.radians((2 * u - 1) * 30)
        padded = np.zeros((height + 2, width + 2, channels))  # black around the image
        padded[1:-1, 1:-1] = image
        for row in range(height):
            for column in range(width):
                down, across = row - (height - 1) / 2, column - (width - 1) / 2
                y = math.sin(angle) * across + math.cos(angle) * down + (height - 1) / 2
                x = math.cos(angle) * across - math.sin(angle) * down + (width - 1) / 2
                top, left = math.floor(y), math.floor(x)
                expected = np.zeros(channels)
                for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                    if -1 <= i <= height and -1 <= j <= width:
                        expected += (1 - abs(y - i)) * (1 - abs(x - j)) * padded[i + 1, j + 1]
                assert np.abs(ours[row, column].numpy() - expected).max() <= 0.501


def test_rotation_keeps_floating_point_images() -> None:
    images, numbers = noise(4, 6, 6, 2), uniform(4, 1)
    exact = rotation(images.float(), numbers, 20)
    assert torch.equal(exact.round().to(torch.uint8), rotation(images, numbers, 20))
    assert not torch.equal(exact, exact.round())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_erasing_blackens_a_rectangle_inside_each_chosen_image(shape: tuple[int, int, int], probability: float) -> None:
    height, width, _ = shape
    images, numbers = noise(40, *shape).clamp(min=1), uniform(40, 5)
    erased = erasing(images, numbers, probability)
    for image, number, ours in zip(images.numpy(), numbers.tolist(), erased.numpy(), strict=True):
        chosen, area, aspect, down, across = number
        pixels, ratio = (0.02 + 0.31 * area) * height * width, 0.3 * 11**aspect
        rows = min(height, max(1, round(math.sqrt(pixels * ratio))))
        columns = min(width, max(1, round(math.sqrt(pixels / ratio))))
        top, left = math.floor(down * (height - rows + 1)), math.floor(across * (width - columns + 1))
        expected = image.copy()
        if chosen < probability:
            expected[top : top + rows, left : left + columns] = 0
        assert np.array_equal(ours, expected)
    assert torch.equal(erasing(images, numbers, 0.0), images)


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *IN_COLOUR])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(name: str) -> None:
    columns, apply = (AUGMENTATIONS | IN_COLOUR)[name]
    images, numbers = noise(11, 8, 8, 3), uniform(11, columns)
    together = apply(images, numbers)
    for i in range(11):
        assert torch.equal(apply(images[i : i + 1], numbers[i : i + 1])[0], together[i])
    shuffled = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    assert torch.equal(apply(images[shuffled], numbers[shuffled]), together[shuffled])


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *IN_COLOUR])
def test_each_image_has_its_own_random_numbers(name: str) -> None:
    columns, apply = (AUGMENTATIONS | IN_COLOUR)[name]
    channels = 3 if name in IN_COLOUR else 1
    same = noise(1, 8, 8, channels).expand(32, 8, 8, channels)
    results = {image.numpy().tobytes() for image in apply(same, uniform(32, columns))}
    assert len(results) >= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_keeps_type_and_shape(name: str, channels: int) -> None:
    columns, apply = AUGMENTATIONS[name]
    images = noise(3, 8, 8, channels)
    result = apply(images, uniform(3, columns))
    assert result.dtype == torch.uint8
    assert result.shape == images.shape


@settings(deadline=None)
@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(1, 2**24))
def test_to_integers_stays_below_the_number_of_choices(number: float, choices: int) -> None:
    number = int(to_integers(torch.tensor([number, JUST_BELOW_1, 0.0]), choices)[0])
    assert 0 <= number < choices
    assert int(to_integers(torch.tensor([JUST_BELOW_1]), choices)) < choices


def test_to_integers_is_uniform() -> None:
    counts = torch.bincount(to_integers(torch.arange(0, 1, 1 / 9000), 9), minlength=9)
    assert counts.tolist() == pytest.approx([1000] * 9, abs=1)


def test_resizing_keeps_the_mean_and_at_full_size_the_bits() -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert resize(images, 32) is images
    small = resize(images, 24)
    assert small.shape == (4, 3, 24, 24)
    assert small.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(small.mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 17, 24, 31])
def test_resizing_equals_the_interpolation_of_torch(channels: int, size: int) -> None:
    images = torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(images, size), theirs)
