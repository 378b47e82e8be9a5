"""The door to every data set: a name or a folder in, three splits and their preprocessing out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from resnetlab.data import DATASETS, choose
from resnetlab.data.folder import Listing, scan
from resnetlab.data.memory import require_memory
from resnetlab.data.named import STATISTICS, Named, Part, open_named
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import BadImages, read_files
from resnetlab.data.splits import Draw, Split
from resnetlab.data.statistics import channel_statistics
from resnetlab.errors import BadInput, printable, unknown

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, which its pretrained weights expect

Normalize = Literal["dataset", "imagenet"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory. `notes` are sentences worth showing: the size and why, splits drawn, images skipped."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()


def open_dataset(
    name_or_folder: str | Path,
    *,
    image_size: int | None = None,
    fit: str = "crop",
    normalize: Normalize = "dataset",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    bad_images: Literal["error", "skip"] = "error",
    root: str | Path | None = None,
    download: bool = True,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """A data set by name (`resnetlab.data.DATASETS`) or the path of a folder with a sub-folder for each class.

    A split that the data set does not have is drawn, stratified, from the training images, test first: `test_fraction`
    of them, then `val_fraction` of what is left. Draws depend on names, labels and `split_seed` only. Without
    `image_size` the size is chosen from the data. `preprocessing`, from a model file, replaces `image_size`, `fit` and
    `normalize`: the pixels are then what that model was trained on. `root` and `download` are for the CIFAR archives.

    Raises BadInput, in a sentence, for whatever cannot be trained on.

    >>> digits = open_dataset("digits")
    >>> len(digits.train), len(digits.val), len(digits.test), digits.preprocessing.image_size
    (1294, 144, 359, 8)
    """
    if normalize not in ("dataset", "imagenet"):
        raise unknown("normalization", str(normalize), ("dataset", "imagenet"))
    given = os.fspath(name_or_folder)
    draw = Draw(val_fraction, test_fraction, split_seed)
    if given in DATASETS:
        named = open_named(given, root=root, may_download=download)
        side, channels = named.train.images.shape[2:]
        see = preprocessing or choose.preprocessing(side if image_size is None else image_size, channels, fit)
        if preprocessing is None:
            see = choose.with_statistics(see, IMAGENET if normalize == "imagenet" else STATISTICS[given])
        return _from_named(given, named, see, draw)
    if isinstance(name_or_folder, str) and not Path(given).exists() and not {"/", os.sep} & set(given):
        raise BadInput(f"{unknown('data set', given, DATASETS)}, or give the path of a folder of images")
    listing = scan(name_or_folder)
    notes = list(listing.notes)
    if preprocessing is None:
        see, why = choose.for_folder(listing, image_size, fit)
        notes.append(why)
    else:
        see = preprocessing
    data = _from_folder(listing, see, draw, BadImages(bad_images, len(listing)), notes)
    if preprocessing is None:
        found = IMAGENET if normalize == "imagenet" else channel_statistics(data.train.images.numpy())
        data = replace(data, preprocessing=choose.with_statistics(see, found))
    return data


def _from_named(name: str, named: Named, see: Preprocessing, draw: Draw) -> ImageData:
    """Digits and CIFAR: the published test images stay the test images; what is missing is drawn."""
    total = len(named.train.names) + (len(named.test.names) if named.test else 0)
    require_memory(total * see.resize_to**2 * see.channels, f"{name} at {see.resize_to}×{see.resize_to} pixels")
    parts, notes = draw(named.classes, named.train, None, named.test)
    train, val, test = (_split(part, see) for part in parts)
    return ImageData(name, named.classes, train, val, test, see, notes)


def _from_folder(listing: Listing, see: Preprocessing, draw: Draw, bad: BadImages, notes: Sequence[str]) -> ImageData:
    """Splits are drawn from the names, before reading: an image that turns out bad moves no other one."""
    size = see.resize_to
    require_memory(len(listing) * size**2 * see.channels, f"{len(listing):,} images at {size}×{size} pixels")
    parts, drawn = draw(listing.classes, listing.train, listing.val, listing.test)
    train, val, test = (read_files(listing.root, part, see, bad) for part in parts)
    for part, split in (("val", val), ("test", test)):
        if not len(split):
            raise BadInput(f"none of the {part} images in {printable(listing.root)} can be read")
    gone = sorted(set(range(len(listing.classes))) - set(train.labels.tolist()))
    if gone:
        name = printable(listing.classes[gone[0]])
        raise BadInput(f"class {name!r} has no image to train on, after {len(bad.skipped)} bad images were skipped")
    if listing.ignored:
        notes = (*notes, f"{listing.ignored:,} hidden files or files without an image's suffix were passed over")
    name = listing.root.resolve().name
    return ImageData(name, listing.classes, train, val, test, see, (*notes, *drawn, *bad.notes()))


def _split(part: Part, see: Preprocessing) -> Split:
    """A published part in memory at the size of `see`; the same pixels where that is the published size."""
    import torch
    from PIL import Image

    images = part.images
    shape = (len(images), see.resize_to, see.resize_to, see.channels)
    if images.shape != shape:
        resized = np.empty(shape, dtype=np.uint8)
        for i, pixels in enumerate(images):
            resized[i] = see.pixels(Image.fromarray(pixels.squeeze()))
        images = resized
    return Split(torch.from_numpy(images), torch.from_numpy(part.labels), part.names)
