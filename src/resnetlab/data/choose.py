"""The preprocessing that suits a data set: its size and channels from a look at the headers."""

from __future__ import annotations

import statistics
from dataclasses import replace

from resnetlab.data.folder import Listing
from resnetlab.data.preprocess import LARGEST_SIZE, Preprocessing
from resnetlab.data.reading import sample_headers

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")

_STEPS = ((48, 32), (96, 64), (180, 128))  # a median short side up to the first becomes the second; beyond, 224


def preprocessing(image_size: int, channels: int, fit: str) -> Preprocessing:
    """For a network that sees `image_size` pixels; mean 0 and std 1 until they are known.

    Up to 64 pixels every pixel counts and is kept. Beyond, pictures are stored 256/224 larger, as for ImageNet, which
    leaves a margin for random crops and cuts the edges off in evaluation.

    >>> preprocessing(32, 3, "crop").resize_to, preprocessing(224, 3, "crop").resize_to
    (32, 256)
    """
    resize_to = image_size
    if type(image_size) is int and 64 < image_size <= LARGEST_SIZE:
        resize_to = min(round(image_size * 256 / 224), LARGEST_SIZE)
    return Preprocessing(image_size, resize_to, channels, (0.0,) * channels, (1.0,) * channels, fit)


def with_statistics(see: Preprocessing, found: Statistics) -> Preprocessing:
    """The same with mean and std; statistics of colours become those of grey where the pictures are grey."""
    mean, std = found
    if len(mean) != see.channels:
        mean, std = ((statistics.fmean(values),) * see.channels for values in found)
    return replace(see, mean=mean, std=std)


def for_folder(listing: Listing, image_size: int | None, fit: str) -> tuple[Preprocessing, str]:
    """The preprocessing for the training images of a folder, and a sentence that says why.

    Looks at the headers of at most 500 training images, evenly spaced. Grey (one channel) only where every training
    image is grey: then all headers are read, for one colour picture among them must not lose its colours.
    """
    headers = sample_headers(listing.root, listing.train)
    grey = bool(headers) and all(mode in _GREY for _, mode in headers)
    if grey:
        grey = all(mode in _GREY for _, mode in sample_headers(listing.root, listing.train, most=None))
    side, why = (image_size, "as asked") if image_size is not None else choose_size([size for size, _ in headers])
    see = preprocessing(side, 1 if grey else 3, fit)
    stored = "" if see.resize_to == see.image_size else f", stored at {see.resize_to}"
    colour = "grey" if grey else "colour"
    return see, f"images are seen at {see.image_size}×{see.image_size} pixels{stored}, in {colour}: {why}"


def choose_size(sizes: list[tuple[int, int]]) -> tuple[int, str]:
    """The side of what the network sees, in pixels, from (width, height) of images; and why.

    >>> choose_size([(28, 28)] * 9)
    (28, 'all 9 looked at are 28×28')
    >>> choose_size([(640, 480), (30, 40), (500, 375)])
    (224, 'the median short side of the 3 looked at is 375')
    """
    if not sizes:
        return 224, "no header could be read"
    width, height = sizes[0]
    if set(sizes) == {sizes[0]} and max(sizes[0]) <= 64:
        return min(sizes[0]), f"all {len(sizes)} looked at are {width}×{height}"
    median = statistics.median(min(size) for size in sizes)
    side = next((side for limit, side in _STEPS if median <= limit), 224)
    return side, f"the median short side of the {len(sizes)} looked at is {median:g}"
