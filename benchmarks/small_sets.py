"""Small data sets of the kind that people have: letters, digits, a part of CIFAR-10; each in train, val and test."""

from __future__ import annotations

import shutil
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnetlab.errors import BadInput

SHARES = {"test": 0.2, "val": 0.08}  # of each class; the rest is for training
LETTERS, LETTER_SIDE = 208, 28  # images of each letter: 150 for training; pixels
CIFAR_TRAIN, CIFAR_TEST = 500, 200  # images of each class


def letters(folder: Path, _data: Path | None, each: int = LETTERS) -> None:
    """Draw the letters A to Z in the fonts of matplotlib, moved, turned and with noise."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = sorted([*fonts.glob("DejaVu*.ttf"), *fonts.glob("STIXGeneral*.ttf")])
    files = [file for file in files if "Display" not in file.name]
    draw = np.random.default_rng(0)
    for letter in string.ascii_uppercase:
        for number in range(each):
            font = ImageFont.truetype(files[draw.integers(len(files))], int(draw.integers(14, 25)))
            canvas = Image.new("L", (LETTER_SIDE, LETTER_SIDE), 0)
            place = tuple(int(side) for side in LETTER_SIDE // 2 + draw.integers(-3, 4, 2))
            ImageDraw.Draw(canvas).text(place, letter, fill=int(draw.integers(128, 256)), font=font, anchor="mm")
            turned = np.asarray(canvas.rotate(float(draw.uniform(-15, 15)), Image.Resampling.BILINEAR), np.float32)
            noisy = (turned + 20 * draw.standard_normal(turned.shape)).clip(0, 255).astype(np.uint8)
            put(Image.fromarray(noisy), folder, letter, number, each)


def digits(folder: Path, _data: Path | None) -> None:
    """Write the digits of scikit-learn as PNG files of 8x8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    for label in range(10):
        chosen = pixels[found.target == label]
        for number, image in enumerate(chosen):
            put(Image.fromarray(image), folder, str(label), number, len(chosen))


def cifar(folder: Path, data: Path | None) -> None:
    """Copy the first images of each class of CIFAR-10, given as image files in train/<class>/* and test/<class>/*."""
    if data is None:
        raise BadInput("out_of_box needs CIFAR-10 as image files for one of its sets: give --data FOLDER")
    for classes in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        held = int(CIFAR_TRAIN * SHARES["val"])
        files = sorted(classes.iterdir())[:CIFAR_TRAIN]
        for part, chosen in (("val", files[:held]), ("train", files[held:])):
            copy(chosen, folder / part / classes.name)
        copy(sorted((data / "test" / classes.name).iterdir())[:CIFAR_TEST], folder / "test" / classes.name)


SETS: dict[str, tuple[int, Callable[[Path, Path | None], None]]] = {
    "letters": (LETTER_SIDE, letters),
    "digits": (8, digits),
    "cifar": (32, cifar),
}
"""Each set: the side of its images in pixels, and the function that writes it."""


def part_of(number: int, count: int) -> str:
    """Return the split of an image of a class with `count` images: the first ones are for the test, then for val.

    >>> [part_of(number, 10) for number in (0, 1, 2, 9)]
    ['test', 'test', 'val', 'train']
    """
    test = round(count * SHARES["test"])
    val = max(1, round(count * SHARES["val"]))
    return "test" if number < test else "val" if number < test + val else "train"


def put(image: Image.Image, folder: Path, name: str, number: int, count: int) -> None:
    target = folder / part_of(number, count) / name
    target.mkdir(parents=True, exist_ok=True)
    image.save(target / f"{number:04d}.png")


def copy(files: list[Path], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, target / file.name)
