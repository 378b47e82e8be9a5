"""Folders of training images: the given one, or generated JPEG files of smooth noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from resnetlab.errors import BadInput

CIFAR = "RESNETLAB_CIFAR10_JPEG"
CLASSES = 10


def given_folder(given: Path | None) -> Path | None:
    """Folder of real images, or None if none is named. Raises BadInput if it has no train/<class>/*."""
    named = given or (Path(os.environ[CIFAR]) if os.environ.get(CIFAR) else None)
    if named is None:
        return None
    if not (named / "train").is_dir() or not any(path.is_dir() for path in (named / "train").iterdir()):
        raise BadInput(f"{named} has no train/<class>/*; give --data the folder that contains `train`, or omit it")
    return named.resolve()


def make_folder(
    folder: Path, images: int, sides: tuple[int, int], *, grain: int = 4, noise: float = 0, quality: int = 75
) -> Path:
    """Fill a folder with JPEG files, smooth enough to have the size in bytes of photographs.

    Side lengths are drawn between the two values of `sides`, in pixels; a tenth as many images goes to `test`.
    `grain` is the size of what is seen in them, in pixels; `noise` is the standard deviation of each pixel.
    """
    draw = np.random.default_rng(0)
    for number in range(images + max(CLASSES, images // 10)):
        part = "train" if number < images else "test"
        target = folder / part / f"class{number % CLASSES}"
        target.mkdir(parents=True, exist_ok=True)
        width, height = (int(side) for side in draw.integers(sides[0], sides[1] + 1, 2))
        coarse = draw.integers(0, 256, (max(4, height // grain), max(4, width // grain), 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        if noise:
            noisy = np.asarray(picture) + noise * draw.standard_normal((height, width, 3), dtype=np.float32)
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(target / f"{number:06d}.jpg", quality=quality)
    return folder
