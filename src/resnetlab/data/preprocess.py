"""Preprocessing of images of any size to the network's input, shared by training and prediction."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from resnetlab.data.bands import read_bands
from resnetlab.data.decode import from_array, to_image
from resnetlab.data.depth import Range
from resnetlab.data.limits import MAX_PIXELS
from resnetlab.errors import BadInput, printable
from resnetlab.kernels.resize import resize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""

# Of all pixels of the training images. Beware of the popular CIFAR-10 std 0.2023 0.1994 0.2010: it is the mean of the
# standard deviations of single images, and too small. Those of ImageNet are what torchvision's weights expect.
STATISTICS: dict[str, Statistics] = {
    "digits": ((0.3053,), (0.3759,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

FITS = ("crop", "squash", "pad")
"""The ways to make an image square."""

MOST_CHANNELS = 64  # more than satellites have; every layer of images is held in memory

LARGEST_VALUE = 1e38  # of a pixel; float32 ends at 3.4e38, and the width of the range must not overflow

MOST_PIXELS = 2_000_000_000  # of an image that is decoded: 8 GB in Pillow

LARGEST_SIZE = 4096  # pixels; model files may be hostile, and 4096² RGB pixels already take 50 MB

_SIZES = ((48, 32), (96, 64), (180, 128))  # a median short side up to the first number becomes the second; beyond, 224


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the input of a network: resize, crop, normalise.

    Images are stored at `resize_to` × `resize_to` pixels, uint8, with 1 (grey), 3 (RGB) or another number of
    `channels` (the bands of a TIFF file). The network's
    input is the central `image_size` × `image_size` pixels of them, minus `mean`, divided by `std`; both are per
    channel, of pixels in [0, 1].

    `fit` is how an image becomes square: `crop` scales the short side to `resize_to` and takes the centre, `squash`
    ignores the aspect ratio, `pad` scales the long side to `resize_to` and centres the image on black.

    `range` are the pixel values that become 0 and 255 in images of more than 8 bits; None if there were none in
    training (see `resnetlab.data.decode`). An image of which more than `max_pixels` would be decoded is refused.

    Raises BadInput for values out of range.

    >>> preprocessing = Preprocessing(image_size=32, resize_to=32, channels=1, mean=(0.5,), std=(0.25,))
    >>> preprocessing.read(np.zeros((48, 64), dtype=np.uint8)).shape
    (32, 32, 1)
    >>> preprocessing == Preprocessing.from_json(preprocessing.to_json())
    True
    """

    image_size: int
    resize_to: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"
    range: Range | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("image_size", "resize_to"):
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
                raise BadInput(f"preprocessing: {name} is {_shown(size)}; it must be a whole number 1..{LARGEST_SIZE}")
        if self.resize_to < self.image_size:
            raise BadInput(
                f"preprocessing: resize_to is {self.resize_to}, smaller than image_size, {self.image_size}; "
                "images must be stored at least as large as the input of the network"
            )
        if type(self.channels) is not int or not 1 <= self.channels <= MOST_CHANNELS:
            raise BadInput(
                f"preprocessing: channels is {_shown(self.channels)}; it must be 1 (grey), 3 (RGB) or another "
                f"number up to {MOST_CHANNELS}"
            )
        for name, lowest in (("mean", 0.0), ("std", 1e-4)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.channels or not all(map(_is_number, values)):
                raise BadInput(
                    f"preprocessing: {name} is {_shown(values)}; it must be one number for each of the "
                    f"{self.channels} channels"
                )
            if not all(lowest <= value <= 1.0 for value in values):
                raise BadInput(
                    f"preprocessing: {name} is {_shown(values)}; for pixels in [0, 1] it lies in [{lowest:g}, 1]"
                )
        if self.fit not in FITS:
            raise BadInput(f"preprocessing: fit is {_shown(self.fit)}; choose from {', '.join(FITS)}")
        if self.range is not None:
            require_range(self.range, "preprocessing: range")
        if type(self.max_pixels) is not int or not 1 <= self.max_pixels <= MOST_PIXELS:
            raise BadInput(
                f"preprocessing: max_pixels is {_shown(self.max_pixels)}; it must be a whole number 1..{MOST_PIXELS:,}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON types, for a model file or a run folder.

        `range` and `max_pixels` are left out if they are not set, so that earlier versions can read the file.
        """
        given = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.range is None:
            del given["range"]
        else:
            given["range"] = list(self.range)
        if self.max_pixels == MAX_PIXELS:
            del given["max_pixels"]
        return given

    @classmethod
    def from_json(cls, given: object) -> Preprocessing:
        """Build the object from what `to_json` returned; BadInput for values missing, unknown or out of range."""
        if not isinstance(given, dict):
            raise BadInput(f"preprocessing: an object with named values is needed, not {_shown(given)}")
        names = {field.name for field in fields(cls)}
        if unknown := sorted(printable(key) for key in given.keys() - names):
            raise BadInput(f"preprocessing: unknown {', '.join(unknown)[:200]}; known are {', '.join(sorted(names))}")
        if missing := sorted(names - {"fit", "range", "max_pixels"} - given.keys()):
            raise BadInput(f"preprocessing: {', '.join(missing)} missing")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        return cls(**values)

    def read(self, source: str | Path | IO[bytes] | Image | np.ndarray) -> np.ndarray:
        """Decode and resize a file, an image or an array (H, W[, C]) to uint8 (resize_to, resize_to, channels).

        Training and prediction both call this. Raises BadInput for anything that is not an image (see
        `resnetlab.data.decode`).
        """
        return self.resize(self.decode(source))

    def decode(self, source: str | Path | IO[bytes] | Image | np.ndarray) -> Image | np.ndarray:
        """Decode a file, an image or an array (H, W[, C]) to what `resize` accepts.

        Large JPEG files are decoded at a half, a quarter or an eighth of their size as long as twice `resize_to`
        remains: this takes a fraction of the time and loses no visible detail. Raises BadInput.
        """
        if self.channels in (1, 3):
            limits: dict[str, Any] = {"max_pixels": self.max_pixels, "value_range": self.range}
            return to_image(source, at_least=2 * self.resize_to, **limits)
        if isinstance(source, np.ndarray):
            return from_array(source, "the array", self.max_pixels, self.channels)
        return read_bands(source, self.channels, max_pixels=self.max_pixels).to_8bit(self.range)

    def visible_share(self, width: int, height: int) -> tuple[float, float]:
        """Return the shares of the width and of the height of an image that are in the network's input.

        They are always the central ones.

        >>> preprocessing = Preprocessing(image_size=224, resize_to=256, channels=1, mean=(0.5,), std=(0.25,))
        >>> preprocessing.visible_share(512, 256)
        (0.4375, 0.875)
        """
        central = self.image_size / self.resize_to
        if self.fit == "squash":
            return central, central
        side = min(width, height) if self.fit == "crop" else max(width, height)
        return min(1.0, central * side / width), min(1.0, central * side / height)

    def resize(self, image: Image | np.ndarray) -> np.ndarray:
        """Resize a decoded image (mode L or RGB, or uint8 (H, W, C)) to uint8 (resize_to, resize_to, channels).

        Resampling is bilinear with antialiasing, as torchvision's ImageNet weights were evaluated, and without the
        overshoot of bicubic resampling at hard edges. An image that already has the size is not resampled.
        """
        from PIL import Image as images

        if isinstance(image, np.ndarray):
            if image.ndim == 3 and image.shape[2] == self.channels not in (1, 3):
                one = replace(self, channels=1, mean=(0.0,), std=(1.0,))
                bands = [np.ascontiguousarray(image[:, :, band]) for band in range(self.channels)]
                return np.concatenate([one.resize(band) for band in bands], axis=2)
            image = images.fromarray(image)
        if self.channels not in (1, 3):
            raise BadInput(f"the image has {len(image.getbands())} channels; {self.channels} are needed")
        mode = "L" if self.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        size, (width, height) = self.resize_to, image.size
        box, target = (0.0, 0.0, float(width), float(height)), (size, size)
        if self.fit == "crop":
            side = min(width, height)
            # The offset is a whole pixel, so an image whose short side already fits is cropped without resampling.
            left, top = (width - side) // 2, (height - side) // 2
            box = (float(left), float(top), float(left + side), float(top + side))
        elif self.fit == "pad":
            scale = size / max(width, height)
            target = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = resize(image, target, box)
        if target == (size, size):
            return resized
        left, top = (size - target[0]) // 2, (size - target[1]) // 2
        canvas = np.zeros((size, size, self.channels), dtype=np.uint8)
        canvas[top : top + target[1], left : left + target[0]] = resized
        return canvas

    def center_crop(self, images: Tensor) -> Tensor:
        """Crop stored images (N, H, W, C) to the network's input (N, image_size, image_size, C); a view."""
        top, left = (images.shape[1] - self.image_size) // 2, (images.shape[2] - self.image_size) // 2
        return images[:, top : top + self.image_size, left : left + self.image_size]

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, H, W, C) into float32 (N, C, image_size, image_size), channels_last, on their device.

        Crops the centre, divides by 255, subtracts the mean and divides by the standard deviation. Raises ValueError
        unless H and W are at least `image_size` and C is `channels`.
        """
        import torch

        from resnetlab.kernels.images import normalize

        _, height, width, channels = images.shape
        if images.dtype != torch.uint8 or channels != self.channels or min(height, width) < self.image_size:
            raise ValueError(
                f"uint8 (N, >={self.image_size}, >={self.image_size}, {self.channels}) is needed, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        mean, std = (_constants(values * self.image_size, images.device).flatten() for values in (self.mean, self.std))
        return normalize(self.center_crop(images), mean, std)

    def denormalize(self, images: Tensor) -> Tensor:
        """Turn normalised images, float (N, C, H, W), back into pixels, uint8 (N, H, W, C)."""
        import torch

        mean, std = _constants(self.mean, images.device), _constants(self.std, images.device)
        pixels = images.float().mul(std).add(mean).mul(255).round().clamp(0, 255)
        return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def require_range(given: object, what: str) -> None:
    """Raise BadInput, with the name `what`, unless `given` are two finite numbers, the first below the second."""
    if not (
        isinstance(given, tuple)
        and len(given) == 2
        and all(_is_number(value) and abs(value) <= LARGEST_VALUE for value in given)
        and given[0] < given[1]
    ):
        raise BadInput(f"{what} is {_shown(given)}; it must be two numbers, LOW below HIGH, such as 0 4095")


def for_size(image_size: int, channels: int, fit: str) -> Preprocessing:
    """Return the preprocessing for a network with inputs of `image_size` pixels, with mean 0 and std 1.

    Up to 64 pixels the stored images have the input's size. Larger ones are 256/224 times as large, as is usual for
    ImageNet: random crops get a margin, and evaluation leaves the border out.

    >>> for_size(32, 3, "crop").resize_to, for_size(224, 3, "crop").resize_to
    (32, 256)
    """
    resize_to = image_size
    if type(image_size) is int and 64 < image_size <= LARGEST_SIZE:
        resize_to = min(round(image_size * 256 / 224), LARGEST_SIZE)
    return Preprocessing(image_size, resize_to, channels, (0.0,) * channels, (1.0,) * channels, fit)


def choose_image_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, str]:
    """Choose the input's side in pixels from the (width, height) of images; return it with the reason.

    >>> choose_image_size([(28, 28)] * 9)
    (28, 'all 9 sampled images have 28×28 pixels')
    >>> choose_image_size([(640, 480), (30, 40), (500, 375)])
    (224, 'the median short side of 3 sampled images is 375')
    """
    if not sizes:
        return 224, "no header could be read"
    width, height = sizes[0]
    if set(sizes) == {sizes[0]} and max(sizes[0]) <= 64:
        return min(sizes[0]), f"all {len(sizes)} sampled images have {width}×{height} pixels"
    median = statistics.median(min(size) for size in sizes)
    side = next((side for limit, side in _SIZES if median <= limit), 224)
    return side, f"the median short side of {len(sizes)} sampled images is {median:g}"


def with_statistics(preprocessing: Preprocessing, found: Statistics) -> Preprocessing:
    """Return the preprocessing with this mean and std; for grey images, those of colours are averaged."""
    mean, std = found
    if len(mean) != preprocessing.channels:
        mean, std = ((statistics.fmean(values),) * preprocessing.channels for values in found)
    return replace(preprocessing, mean=mean, std=std)


def channel_statistics(images: np.ndarray | Iterable[np.ndarray], *, chunk: int = 1 << 20) -> Statistics:
    """Compute mean and standard deviation per channel of uint8 images (N, H, W, C), for pixels in [0, 1].

    Images that are not all in memory at once are given as an iterable of such arrays.

    They are over all pixels together, not means of each image's deviation. They are exact: pixels are counted by value,
    so their order has no effect. A channel with a single value gets a deviation of 1/255, so that it can be divided by.
    `chunk` is the number of pixels counted at a time.

    >>> channel_statistics(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    counts = np.zeros((0, 256), dtype=np.int64)
    for block in [images] if isinstance(images, np.ndarray) else images:
        pixels = block.reshape(-1, block.shape[-1])
        counts = counts if len(counts) else np.zeros((pixels.shape[1], 256), dtype=np.int64)
        for channel, start in itertools.product(range(len(counts)), range(0, len(pixels), chunk)):
            counts[channel] += np.bincount(pixels[start : start + chunk, channel], minlength=256)
    means, deviations = [], []
    for values in counts.tolist():  # Python's integers from here on: they neither round nor overflow
        pixel_count = sum(values)
        total = sum(value * count for value, count in enumerate(values))
        squares = sum(value * value * count for value, count in enumerate(values))
        variance = (pixel_count * squares - total * total) / pixel_count**2
        means.append(total / pixel_count / 255)
        deviations.append(max(math.sqrt(variance), 1.0) / 255)
    return tuple(means), tuple(deviations)


@functools.lru_cache(maxsize=64)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return (1, C, 1, 1) on the device; cached, because a copy to a GPU in every batch makes the CPU wait."""
    import torch

    with torch.inference_mode(False):  # a constant first created in prediction is used in training, too
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """Return a value from outside, short and without control characters, for an error message."""
    return printable(repr(value)[:60])
