"""From a picture of any size to what the network sees: one object, used by training and by prediction alike."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

FITS = ("crop", "squash", "pad")
"""How a picture that is not square becomes square."""

LARGEST_SIZE = 4096  # a model file comes from strangers: 4096² RGB pixels are 50 MB, and enough for any ResNet


@dataclass(frozen=True)
class Preprocessing:
    """The pixels that are stored (`resize_to`), the part of them that is seen (`image_size`), and their scale.

    `mean` and `std` are per channel, of pixels in [0, 1]. `fit` says how a picture becomes square: `crop` brings the
    short side to `resize_to` and takes the centre, `squash` ignores the aspect ratio, `pad` brings the long side to
    `resize_to` and centres the picture on black. Raises BadInput for values outside their bounds.

    >>> see = Preprocessing(image_size=32, resize_to=32, channels=1, mean=(0.5,), std=(0.25,))
    >>> see == Preprocessing.from_json(see.to_json())
    True
    """

    image_size: int
    resize_to: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"

    def __post_init__(self) -> None:
        """Refuse what no picture can be brought to."""
        for name in ("image_size", "resize_to"):
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
                raise BadInput(f"preprocessing: {name} is {_shown(size)}; it must be a whole number 1..{LARGEST_SIZE}")
        if self.resize_to < self.image_size:
            raise BadInput(
                f"preprocessing: resize_to is {self.resize_to}, smaller than image_size, {self.image_size}; "
                "pixels must be stored at least as large as the network sees them"
            )
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise BadInput(f"preprocessing: channels is {_shown(self.channels)}; it must be 1 (grey) or 3 (RGB)")
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

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, words and lists, for a model file or a run folder."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, given: object) -> Preprocessing:
        """The object that `to_json` described; anything missing, unknown or out of bounds raises BadInput."""
        if not isinstance(given, dict):
            raise BadInput(f"preprocessing: an object with named values is needed, not {_shown(given)}")
        names = {field.name for field in fields(cls)}
        if unknown := sorted(printable(key) for key in given.keys() - names):
            raise BadInput(f"preprocessing: unknown {', '.join(unknown)[:200]}; known are {', '.join(sorted(names))}")
        if missing := sorted(names - {"fit"} - given.keys()):
            raise BadInput(f"preprocessing: {', '.join(missing)} missing")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        return cls(**values)

    def read(self, source: str | Path | IO[bytes] | Image | np.ndarray) -> np.ndarray:
        """The stored pixels of a file, a picture or an array: what training and prediction both call.

        uint8 (resize_to, resize_to, channels). Large JPEG files are decoded at a half, a quarter or an eighth of their
        size where at least twice `resize_to` remains, which costs a fraction of the time and no visible detail.
        """
        from resnetlab.data.decode import to_image

        return self.pixels(to_image(source, at_least=2 * self.resize_to))

    def pixels(self, image: Image) -> np.ndarray:
        """A decoded picture (mode L or RGB, any size) to uint8 (resize_to, resize_to, channels).

        Resampling is bilinear with antialiasing: what torchvision's ImageNet weights were evaluated with, and without
        the overshoot of bicubic at hard edges. A picture that already fits is not resampled.
        """
        from PIL import Image as images

        mode = "L" if self.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        size = self.resize_to
        if image.size != (size, size):
            width, height = image.size
            box = (0.0, 0.0, float(width), float(height))
            target = (size, size)
            if self.fit == "crop":
                side = min(width, height)
                # The offset is a whole pixel: then a picture whose short side is right is only cut, not resampled.
                left, top = (width - side) // 2, (height - side) // 2
                box = (float(left), float(top), float(left + side), float(top + side))
            elif self.fit == "pad":
                scale = size / max(width, height)
                target = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = image.resize(target, images.Resampling.BILINEAR, box=box)
            if target != (size, size):
                canvas = images.new(mode, (size, size))
                canvas.paste(image, ((size - target[0]) // 2, (size - target[1]) // 2))
                image = canvas
        # frombuffer: half the time of np.asarray for small pictures, of which there are 50,000.
        return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, self.channels).copy()

    def seen(self, images: Tensor) -> Tensor:
        """The centre of stored pixels (N, H, W, C) that the network sees: (N, image_size, image_size, C)."""
        top, left = (images.shape[1] - self.image_size) // 2, (images.shape[2] - self.image_size) // 2
        return images[:, top : top + self.image_size, left : left + self.image_size]

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels, uint8 (N, H, W, C), to float32 (N, C, image_size, image_size) in channels_last, on the same device.

        Takes the centre, divides by 255, subtracts the mean, divides by the standard deviation. H and W are at least
        `image_size` (the stored pixels, or a batch that augmentation has already cut); ValueError otherwise.
        """
        import torch

        _, height, width, channels = images.shape
        if images.dtype != torch.uint8 or channels != self.channels or min(height, width) < self.image_size:
            raise ValueError(
                f"uint8 (N, >={self.image_size}, >={self.image_size}, {self.channels}) is needed, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        batch = self.seen(images).to(torch.float32, memory_format=torch.contiguous_format)
        # By rows: a loop over the three channels of a pixel alone would take five times as long.
        mean, std = (_constants(values * self.image_size, images.device).flatten() for values in (self.mean, self.std))
        batch.flatten(2).div_(255).sub_(mean).div_(std)
        return batch.permute(0, 3, 1, 2)

    def denormalize(self, images: Tensor) -> Tensor:
        """What `normalize` made, float (N, C, H, W), back to pixels to look at: uint8 (N, H, W, C)."""
        import torch

        mean, std = _constants(self.mean, images.device), _constants(self.std, images.device)
        pixels = images.float().mul(std).add(mean).mul(255).round().clamp(0, 255)
        return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@functools.lru_cache(maxsize=64)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, C, 1, 1) on the device; kept, because a copy to a GPU for every batch would make the host wait."""
    import torch

    with torch.inference_mode(False):  # a constant first made while predicting must serve training as well
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A stranger's value, short and harmless enough for a sentence."""
    return printable(repr(value)[:60])
