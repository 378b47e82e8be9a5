"""TrivialAugment and RandAugment equal torchvision's operations, applied to one image at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from resnetlab.data.augment import Augmentation
from resnetlab.data.loaders import TrainBatches
from resnetlab.data.policy import LEVELS, OPERATIONS, SIGNED, Policy, changed, strength_table
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.runtime import Runtime

SHAPES = [(32, 32, 3), (13, 13, 1), (37, 21, 3)]
WIDE, RAND = Policy("trivial"), Policy("rand", operations=2, level=9)
ROUNDED = ("brightness", "colour", "contrast", "sharpness", "autocontrast")  # torchvision cuts off the fraction
SAMPLED = ("shear_x", "shear_y", "rotate")


def pictures(count: int, height: int, width: int, channels: int) -> Tensor:
    """Smooth images with some noise, so that a pixel resembles its neighbours; the last two have one colour."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noisy = smooth * 220 + 20 * torch.rand(count, channels, height, width, generator=generator)
    images = noisy.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    images[-2], images[-1] = 77, 255
    return images


def of_torchvision(name: str) -> tuple[Any, str]:
    """A transform of torchvision with this space of operations, and its name for one of them."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    words = {"colour": "Color", "autocontrast": "AutoContrast", "identity": "Identity"}
    return v2.RandAugment(), words.get(name, "".join(word.capitalize() for word in name.split("_")))


def by_torchvision(image: Tensor, name: str, magnitude: float) -> Tensor:
    transform, theirs = of_torchvision(name)
    magnitude /= 255 if name == "solarize" else 1
    channels_first = image.permute(2, 0, 1).contiguous()
    moved = transform._apply_image_or_video_transform(
        channels_first, theirs, magnitude, interpolation=transform.interpolation, fill=transform._fill
    )
    return moved.permute(1, 2, 0)


def is_between_two_pixels(name: str, magnitude: float, height: int, width: int) -> Tensor:
    """True where the source of a pixel lies half-way between two pixels, so that rounding decides; bool (H, W)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    y, x = y.double(), x.double()
    if name == "shear_x":
        x = x + magnitude * y
    elif name == "shear_y":
        y = y + magnitude * x
    else:
        turn, down, across = math.radians(magnitude), y - height / 2, x - width / 2
        x = math.cos(turn) * across - math.sin(turn) * down + width / 2
        y = math.sin(turn) * across + math.cos(turn) * down + height / 2
    return ((x - x.round()).abs() < 1e-3) | ((y - y.round()).abs() < 1e-3)


def require_alike(ours: Tensor, theirs: Tensor, name: str, magnitude: float) -> None:
    """Equal, except for the rounding of values and, half-way between two pixels, of places."""
    difference = (ours.int() - theirs.int()).abs()
    if name in SAMPLED:
        undecided = is_between_two_pixels(name, magnitude, *ours.shape[:2])
        assert undecided.double().mean() < 0.5
        difference[undecided] = 0
    assert difference.max() <= (1 if name in ROUNDED else 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_an_operation_equals_torchvision_at_every_level(name: str, policy: str, shape: tuple[int, int, int]) -> None:
    strengths = strength_table(policy, *shape[:2]).get(name, torch.zeros(LEVELS))[::3]
    magnitudes = torch.cat([strengths, -strengths]) if name in SIGNED else strengths
    images = pictures(len(magnitudes), *shape)
    ours = changed(images, torch.full((len(images),), OPERATIONS.index(name)), magnitudes)
    assert ours.dtype == torch.uint8
    for image, magnitude, our in zip(images, magnitudes.tolist(), ours, strict=True):
        require_alike(our, by_torchvision(image, name, magnitude), name, magnitude)
    unchanging = {"identity"} | ({"colour"} if shape[2] == 1 else set()) | ({"equalize"} if shape[0] < 16 else set())
    assert torch.equal(ours, images) == (name in unchanging)


@pytest.mark.parametrize(("policy", "theirs"), [("trivial", "TrivialAugmentWide"), ("rand", "RandAugment")])
def test_the_strengths_are_those_of_torchvision(policy: str, theirs: str) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    space = getattr(v2, theirs)._AUGMENTATION_SPACE
    ours = strength_table(policy, 40, 50)
    assert len(space) == len(OPERATIONS)
    for name in OPERATIONS:
        strengths, signed = space[of_torchvision(name)[1]]
        expected = strengths(LEVELS, 40, 50)
        assert signed == (name in SIGNED)
        if expected is None:
            assert name not in ours
            continue
        scale = 255 if name == "solarize" else 1
        expected = expected.trunc() if name.startswith("translate") else expected * scale
        torch.testing.assert_close(ours[name], expected.float())


def test_small_images_are_shifted_by_their_side_at_most() -> None:
    assert strength_table("trivial", 8, 200)["translate_y"].max() == 8
    assert strength_table("trivial", 8, 200)["translate_x"].max() == 32


def uniform(count: int, columns: int) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("policy", [WIDE, RAND, Policy("rand", operations=1, level=30)])
def test_a_batch_equals_its_images_one_by_one(policy: Policy) -> None:
    """Operations are applied in the order of the columns, each by its own three numbers."""
    images, numbers = pictures(60, 16, 16, 3), uniform(60, policy.columns)
    together = policy.apply(images, numbers)
    before = images.clone()
    for index in range(60):
        image = images[index : index + 1]
        for first in range(0, policy.columns, 3):
            kind, level, sign = numbers[index, first : first + 3].tolist()
            name = OPERATIONS[int(kind * 14)]
            level = int(level * LEVELS) if policy.level is None else policy.level
            strength = strength_table(policy.name, 16, 16).get(name, torch.zeros(LEVELS))[level]
            strength = -strength if name in SIGNED and sign < 0.5 else strength
            image = changed(image, torch.tensor([OPERATIONS.index(name)]), strength.view(1))
        assert torch.equal(together[index], image[0])
    assert torch.equal(images, before)
    assert (together != images).flatten(1).any(1).sum() > 30


def test_every_operation_and_every_level_is_drawn_equally_often() -> None:
    chosen, magnitudes = WIDE.drawn(uniform(42_000, 3), 32, 32)
    assert torch.bincount(chosen, minlength=14).tolist() == pytest.approx([3000] * 14, rel=0.08)
    angles = magnitudes[chosen == OPERATIONS.index("rotate")]
    assert len(angles.unique()) == 2 * LEVELS - 1
    assert float((angles < 0).double().mean()) == pytest.approx(30 / 62, abs=0.04)


def test_the_policy_is_the_same_in_batches_of_any_size() -> None:
    images = pictures(24, 8, 8, 3)
    split = Split(images, torch.zeros(24, dtype=torch.long), tuple(map(str, range(24))))
    see = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    step = Augmentation("policy", WIDE.columns, WIDE.apply, on_cpu=True)
    large, small = (
        torch.cat(
            [batch.images for batch in TrainBatches(split, see, [step], size, 0, Runtime(torch.device("cpu"))).epoch(1)]
        )
        for size in (24, 3)
    )
    assert torch.equal(large, small)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (3, 1, 4)])
def test_images_of_a_few_pixels_or_of_more_bands_can_be_changed(shape: tuple[int, int, int]) -> None:
    images = torch.arange(14, dtype=torch.uint8).view(-1, 1, 1, 1).expand(14, *shape)
    strengths = strength_table("trivial", *shape[:2])
    magnitudes = torch.stack([strengths.get(name, torch.zeros(LEVELS))[20] for name in OPERATIONS])
    result = changed(images, torch.arange(14), magnitudes)
    assert result.shape == images.shape
