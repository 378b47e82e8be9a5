"""Copies of images: planted ones are found, other images are not taken for copies."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.duplicates import Copies, blank, exact_copies, fingerprint, near_copies


def photo(seed: int, size: int = 96) -> Image.Image:
    """A smooth picture with structure, as photos have it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def found(*images: Image.Image) -> list[Copies]:
    prints = [fingerprint(image) for image in images]
    return near_copies(np.stack([one.grey for one in prints]), np.stack([one.colour for one in prints]))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    ("copy", "is_mirrored"),
    [
        (lambda image: as_jpeg(image, 40), False),
        (lambda image: image.resize((40, 40)), False),
        (lambda image: image.resize((300, 300)), False),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
        (lambda image: as_jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((64, 64)), 60), True),
    ],
    ids=["JPEG", "smaller", "larger", "mirrored", "all of them"],
)
def test_changed_copy_is_found(copy, is_mirrored) -> None:
    images = [photo(seed) for seed in range(30)]
    assert found(*images, copy(images[4])) == [Copies((4, 30), is_exact=False, is_mirrored=is_mirrored)]


def test_other_colours_are_another_picture() -> None:
    red, green, blue = photo(0).split()
    assert found(photo(0), Image.merge("RGB", (blue, red, green))) == []


def test_blank_images_are_not_copies_of_each_other() -> None:
    images = [Image.new("RGB", (40, 40), colour) for colour in ("black", "white", "white")]
    assert found(*images) == []
    assert blank(np.stack([fingerprint(image).grey for image in images])).all()


def test_equal_files_alone_are_not_near_copies() -> None:
    one = fingerprint(photo(0))
    greys, colours = np.stack([one.grey] * 2), np.stack([one.colour] * 2)
    assert near_copies(greys, colours, ["a", "a"]) == []
    assert exact_copies(["a", "b", "a"]) == [Copies((0, 2), is_exact=True)]


def test_equal_files_belong_to_their_near_copy() -> None:
    one, other = fingerprint(photo(0)), fingerprint(as_jpeg(photo(0), 40))
    greys, colours = (np.stack([getattr(one, name)] * 2 + [getattr(other, name)]) for name in ("grey", "colour"))
    assert near_copies(greys, colours, ["a", "a", "b"]) == [Copies((0, 1, 2), is_exact=False)]


def test_real_images_give_no_false_alarm(cifar10_jpeg: Path) -> None:
    files = [file for folder in sorted((cifar10_jpeg / "train").iterdir()) for file in sorted(folder.iterdir())[:100]]
    images = [Image.open(file) for file in files]
    assert found(*images, images[7].resize((20, 20))) == [Copies((7, len(images)), is_exact=False)]
