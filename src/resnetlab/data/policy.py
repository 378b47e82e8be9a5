"""TrivialAugment (Wide; Müller and Hutter 2021) and RandAugment (Cubuk et al. 2020) for whole batches.

Each image gets an operation, its strength and its sign from random numbers of its own. Images with the same operation
are changed together. Operations and strengths are those of torchvision, with two differences: brightness, colour,
contrast, sharpness and autocontrast are rounded, where torchvision cuts off the fraction; and images below 32 px are
shifted by at most their side, where TrivialAugment shifts by up to 32 px. Images are uint8 (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resnetlab.data.augment import to_integers
from resnetlab.data.colour import blend, greys, mean_greys, to_bytes

LEVELS = 31  # strengths of an operation, from none to the largest
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "colour", "contrast", "sharpness")
SIGNED = (*GEOMETRIC, *BLENDS)
OPERATIONS = ("identity", *SIGNED, "posterize", "solarize", "autocontrast", "equalize")
BITS = 16  # after the point, in fixed-point arithmetic, which gives the same pixels on every device


@dataclass(frozen=True)
class Policy:
    """Apply `operations` random operations to each image, one after another.

    `name` is "trivial" or "rand", which differ in the range of strengths. `level`, from 0 to 30, is the strength of all
    operations; without it, each has a random one.
    """

    name: str
    operations: int = 1
    level: int | None = None

    @property
    def columns(self) -> int:
        """The random numbers per image: for each operation its kind, its level and its sign."""
        return 3 * self.operations

    def apply(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Change images on the device by random numbers on the CPU, with which images are grouped without waiting."""
        for numbers in uniform.view(len(uniform), -1, 3).unbind(1):
            chosen, magnitudes = self.drawn(numbers, images.shape[1], images.shape[2])
            images = changed(images, chosen, magnitudes)
        return images

    def drawn(self, numbers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Turn numbers (N, 3) into places in OPERATIONS (N,) and strengths (N,), with their signs."""
        chosen = to_integers(numbers[:, 0], len(OPERATIONS))
        levels = to_integers(numbers[:, 1], LEVELS)
        if self.level is not None:
            levels = torch.full_like(levels, self.level)
        strengths = strength_table(self.name, height, width)
        tables = torch.stack([strengths.get(name, spaced(0, 0)) for name in OPERATIONS])
        signed = torch.tensor([name in SIGNED for name in OPERATIONS])
        signs = torch.where(signed[chosen] & (numbers[:, 2] < 0.5), -1, 1)
        return chosen, tables[chosen, levels] * signs


def strength_table(policy: str, height: int, width: int) -> dict[str, Tensor]:
    """Return the strengths of the operations by level, float32 (LEVELS,), for images of this size.

    They are the slope of a shear, pixels of a shift, degrees, changes of a factor, bits that are kept, and the pixel
    value from which colours are inverted.
    """
    wide = policy == "trivial"
    shift_y, shift_x = (min(32, side) if wide else 150 / 331 * side for side in (height, width))
    shear, blending = (0.99, 0.99) if wide else (0.3, 0.9)
    return {
        **dict.fromkeys(("shear_x", "shear_y"), spaced(0, shear)),
        "translate_x": spaced(0, shift_x).trunc(),
        "translate_y": spaced(0, shift_y).trunc(),
        "rotate": spaced(0, 135 if wide else 30),
        **dict.fromkeys(BLENDS, spaced(0, blending)),
        "posterize": 8 - (torch.arange(LEVELS, dtype=torch.float32) / ((LEVELS - 1) / (6 if wide else 4))).round(),
        "solarize": 255 * spaced(1, 0),
    }


def spaced(first: float, last: float) -> Tensor:
    """Return equally spaced strengths, float32 (LEVELS,)."""
    return torch.linspace(first, last, LEVELS, dtype=torch.float32)


def changed(images: Tensor, chosen: Tensor, magnitudes: Tensor) -> Tensor:
    """Apply operation `chosen` (N,), a place in OPERATIONS, with strength `magnitudes` (N,) to each image."""
    result = images.clone()

    def replace(rows: Tensor, change: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> None:
        if len(rows):
            place = rows.to(images.device, non_blocking=True)
            result[place] = change(images[place], values[rows].to(images.device, non_blocking=True))

    matrices = source_matrices(chosen, magnitudes, images.shape[1], images.shape[2])
    geometric = torch.tensor([name in GEOMETRIC for name in OPERATIONS])
    replace(geometric[chosen].nonzero()[:, 0], warp, matrices)
    for name, change in CHANGES.items():
        replace((chosen == OPERATIONS.index(name)).nonzero()[:, 0], change, magnitudes)
    return result


def source_matrices(chosen: Tensor, magnitudes: Tensor, height: int, width: int) -> Tensor:
    """Return the matrices (N, 2, 3) from a pixel's place to its source's, in fixed-point numbers.

    Places (x, y) are measured from the centre of the image, in half pixels, those of sources from its upper left
    corner. Shears keep that corner.
    """
    place = {name: chosen == OPERATIONS.index(name) for name in GEOMETRIC}
    strength = magnitudes.double()
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(chosen), 1, 1)
    for name, row, column, side in (("shear_x", 0, 1, height), ("shear_y", 1, 0, width)):
        slope = strength[place[name]]
        matrices[place[name], row, column] = slope
        matrices[place[name], row, 2] = slope * side
    for name, row in (("translate_x", 0), ("translate_y", 1)):
        matrices[place[name], row, 2] = -2 * strength[place[name]]
    angle = strength[place["rotate"]].deg2rad()
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    matrices[place["rotate"], :, :2] = turned.view(-1, 2, 2)
    matrices[:, :, 2] += torch.tensor([width, height])
    # For sides of up to 4,096 px everything that `warp` computes is below 2**31.
    return (matrices * (1 << BITS)).round().to(torch.int32 if max(height, width) <= 4096 else torch.int64)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Take each pixel from the nearest one at its source; what comes into view is black."""
    count, height, width, channels = images.shape
    y = torch.arange(1 - height, height, 2, dtype=matrices.dtype, device=images.device).view(1, -1, 1)
    x = torch.arange(1 - width, width, 2, dtype=matrices.dtype, device=images.device).view(1, 1, -1)
    across, down, offset = (matrices[:, :, column, None, None] for column in range(3))
    source_x, source_y = (
        (across[:, row] * x).add(down[:, row] * y).add_(offset[:, row]).bitwise_right_shift_(BITS + 1) for row in (0, 1)
    )
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
    pixels = source_y.clamp_(0, height - 1).mul_(width).add_(source_x.clamp_(0, width - 1)).long()
    pixels += torch.arange(count, device=images.device).view(-1, 1, 1) * (height * width)
    moved = images.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)
    return moved.masked_fill_(~inside[..., None], 0)


def factor(magnitudes: Tensor) -> Tensor:
    return (1 + magnitudes).view(-1, 1, 1, 1)


def brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    return to_bytes(images.float().mul_(factor(magnitudes)))


def colour(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Scale the distance of the colours from their grey. Grey images stay as they are."""
    return blend(images, greys(images), factor(magnitudes))


def contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    return blend(images, mean_greys(images), factor(magnitudes))


def sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Scale the distance of the pixels from a blurred image: each pixel five times, its eight neighbours once.

    The outermost pixels stay as they are.
    """
    whole = images.short()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    inner = whole[:, 1:-1, 1:-1]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
    blurred = images.float()
    blurred[:, 1:-1, 1:-1] = (sums / 13).round_()
    return blend(images, blurred, factor(magnitudes))


def posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Keep the highest bits of each pixel, as many as `magnitudes`."""
    kept = 256 - 2 ** (8 - magnitudes)
    return images & kept.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Invert the pixels that are not below `magnitudes`."""
    least = magnitudes.ceil().to(torch.uint8).view(-1, 1, 1, 1)
    return images ^ (images >= least).to(torch.uint8).mul_(255)  # of bytes only, which is the fastest


def autocontrast(images: Tensor, _magnitudes: Tensor) -> Tensor:
    """Stretch each channel to 0 … 255; a channel of one value stays as it is."""
    planes = images.permute(0, 3, 1, 2).float().contiguous()  # a whole channel at a time is faster than each third
    low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
    planes.sub_(low).mul_(255).div_((high - low).clamp(min=1)).add_(torch.where(low == high, low, 0.0))
    return to_bytes(planes).permute(0, 2, 3, 1).contiguous()


def equalize(images: Tensor, _magnitudes: Tensor) -> Tensor:
    """Equalise the histogram of each channel, in Pillow's integer arithmetic."""
    count, height, width, channels = images.shape
    values = images.permute(0, 3, 1, 2).reshape(count, channels, -1).long()
    histogram = values.new_zeros(count, channels, 256).scatter_add_(2, values, torch.ones_like(values))
    of_largest = histogram.gather(2, values.amax(2, keepdim=True))
    step = (height * width - of_largest) // 255
    below = histogram.cumsum(2) - histogram
    mapped = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    equalised = torch.where(step == 0, values, mapped.gather(2, values))
    return equalised.to(torch.uint8).view(count, channels, height, width).permute(0, 2, 3, 1)


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "colour": colour,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
"""The operations on pixel values, by name."""
