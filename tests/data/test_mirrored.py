"""Letters that are mirror images of each other are named; symmetric ones, and other pictures, are not."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from resnetlab.data.mirrored import confusable_when_mirrored
from resnetlab.data.splits import Split

LETTERS = ("A", "b", "d", "o", "p", "q")


def letters(count: int) -> Split:
    """Grey pictures of letters in random places and sizes, with noise."""
    draw = np.random.default_rng(0)
    images = []
    for index in range(count):
        picture = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=int(draw.integers(18, 23)))
        place = (float(draw.uniform(6, 10)), float(draw.uniform(0, 4)))
        ImageDraw.Draw(picture).text(place, LETTERS[index % 6], fill=220, font=font)
        images.append(np.clip(np.asarray(picture) + draw.integers(0, 30, (28, 28)), 0, 255).astype(np.uint8))
    labels = torch.arange(count) % 6
    return Split(torch.from_numpy(np.stack(images))[..., None], labels, tuple(map(str, range(count))))


def test_letters_that_are_mirror_images_are_named() -> None:
    found = confusable_when_mirrored(letters(240), LETTERS, seed=0)
    assert [(one.name, one.other) for one in found] == [("b", "d"), ("d", "b"), ("p", "q"), ("q", "p")]
    assert all(one.images == 40 and 20 <= one.mirrored <= 40 and one.plain <= 10 for one in found)


def test_classes_without_a_direction_are_not_named() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (60, 9, 7, 3), generator=generator, dtype=torch.uint8)
    noise = Split(images, torch.arange(60) % 3, tuple(map(str, range(60))))
    assert not confusable_when_mirrored(noise, ("x", "y", "z"), seed=0)


def test_few_images_and_classes_without_images_are_no_error() -> None:
    few = letters(8)
    assert not confusable_when_mirrored(few, (*LETTERS, "none"), seed=0)


def test_series_of_photos_are_not_named() -> None:
    """Each photo has its nearest neighbour in its own series, and its mirror image resembles none."""
    for seed in range(5):
        draw = np.random.default_rng(seed)
        places = draw.integers(0, 200, (20, 1, 16, 16, 1))
        photos = (places + draw.integers(0, 20, (20, 6, 16, 16, 1))).astype(np.uint8).reshape(120, 16, 16, 1)
        labels = torch.arange(20).repeat_interleave(6) % 2
        split = Split(torch.from_numpy(photos), labels, tuple(map(str, range(120))))
        assert not confusable_when_mirrored(split, ("x", "y"), seed=0)
