"""Images of more than 8 bits: their pixels, scaled by a range of values that is chosen once for a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from resnetlab.errors import BadInput, printable

Range = tuple[float, float]
"""The pixel values that become 0 and 255, for images of more than 8 bits."""

_BITS = (8, 10, 12, 14, 16)
_BLOCK = 1 << 20  # values that are scaled at a time
_FEW_LEVELS = 64
"""Levels of grey; with fewer of 256, the range that was chosen hides what the camera measured."""

MOST_OUTSIDE = 0.9
"""Share of an image's values outside the range with which little is left of it: 16-bit values in a range of 12 bits."""


@dataclass(frozen=True, eq=False)
class DeepPixels:
    """A decoded, upright image of more than 8 bits, or with other bands than grey or RGB.

    `values` are integers or floats (H, W) or (H, W, C); `opacity` is uint8 (H, W) if the image has transparency. `name`
    is used in error messages.
    """

    values: np.ndarray
    name: str
    opacity: np.ndarray | None = None

    @property
    def limits(self) -> Range:
        """The smallest and the largest value. Raises BadInput if a value is NaN or infinite."""
        lowest, highest = self.values.min().item(), self.values.max().item()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise BadInput(f"{self.name} has pixels that are NaN or infinite")
        return lowest, highest

    @property
    def are_integers(self) -> bool:
        return not np.issubdtype(self.values.dtype, np.floating)

    def is_flat(self, value_range: Range) -> bool:
        """Return True if different values become one level of grey, because the range is much wider."""
        lowest, highest = self.limits
        return 0 < highest - lowest < (value_range[1] - value_range[0]) / 255

    def share_outside(self, value_range: Range) -> float:
        """Return the share of the values that are outside a range; 0 for images of 8 bits, which have no range."""
        if self.values.dtype == np.uint8:
            return 0.0
        low, high = value_range
        return float(((self.values < low) | (self.values > high)).mean())

    def to_8bit(self, value_range: Range | None) -> np.ndarray:
        """Scale to uint8 of the same shape; transparent pixels are composited over white."""
        if self.values.dtype == np.uint8:
            return self.values
        low, high = self._fixed_range() if value_range is None else value_range
        if self.values.dtype == np.uint16:
            scaled: np.ndarray = _table(float(low), float(high))[self.values]
        else:
            self.limits  # noqa: B018 - refuses NaN
            scaled = _scaled(self.values, low, high)
        if self.opacity is not None:
            opacity = self.opacity[..., None] if scaled.ndim == 3 else self.opacity
            scaled = np.rint((scaled * (opacity / 255)) + (255 - opacity.astype(np.float64))).astype(np.uint8)
        return scaled

    def _fixed_range(self) -> Range:
        """Return the range of an image for which none was chosen. Raises BadInput for values beyond it."""
        lowest, highest = self.values.min(), self.values.max()
        if np.issubdtype(self.values.dtype, np.floating):
            if not (lowest >= 0 and highest <= 255):  # this form refuses NaN too
                raise BadInput(
                    f"{self.name} has float pixels from {lowest:g} to {highest:g}; [0, 1] or [0, 255] is needed"
                )
            return 0, 255 if highest > 1 else 1
        if lowest < 0 or highest > 65535:
            raise BadInput(f"{self.name} has integer pixels from {lowest} to {highest}; 0 to 65535 (16 bits) is needed")
        is_byte = self.values.dtype != np.uint16 and highest <= 255  # 32 bits hold values of any depth
        return 0, 255 if is_byte else 65535


class LostContrast:
    """The names of images whose pixel values do not suit the range of the training images, by what they lose."""

    def __init__(self) -> None:
        self.cut_off: list[str] = []  # they are black or white because their values are outside the range
        self.deep: list[str] = []  # they have more than 8 bits, and the training images had 8
        self.flat: list[str] = []  # they become one grey because their values differ by less than a level

    def add(self, name: str, pixels: DeepPixels, value_range: Range | None) -> None:
        """Note an image if it loses its contrast. Raises BadInput if a pixel is NaN or infinite."""
        if value_range is None:
            if pixels.values.dtype == np.uint16 or (pixels.are_integers and pixels.limits[1] > 255):
                self.deep.append(name)
        elif pixels.values.dtype != np.uint8 and pixels.is_flat(value_range):
            self.flat.append(name)
        elif pixels.share_outside(value_range) > MOST_OUTSIDE:
            self.cut_off.append(name)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of loss."""
        kinds = {
            "almost only pixel values outside the range, so that they are black or white": self.cut_off,
            "pixel values that differ by less than a level of the range, so that they become one grey": self.flat,
            "more than 8 bits, but the training images had 8: their 0 to 65535 become black to white": self.deep,
        }
        return tuple(
            f"{'1 image has' if len(names) == 1 else f'{len(names):,} images have'} {what}; the first: "
            f"{printable(min(names))}"
            for what, names in kinds.items()
            if names
        )


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest value of an image, and whether its values are integers."""

    lowest: float
    highest: float
    are_integers: bool

    @classmethod
    def of(cls, pixels: DeepPixels) -> Limits:
        """Return the limits of an image. Raises BadInput if a pixel is NaN or infinite."""
        return cls(*pixels.limits, are_integers=pixels.are_integers)


def choose_range(found: Mapping[str, Limits], total: int) -> tuple[Range, tuple[str, ...]]:
    """Choose the range for the training images that have more than 8 bits, of `total`; return it with sentences.

    Integers: 0 to the largest value of the bit depth that is used, of 8, 10, 12, 14 and 16 bits. Floats: [0, 1] or
    [0, 255] if no value lies outside. Otherwise: the smallest to the largest value.

    Raises BadInput if integers and floats are mixed, which have no common range.

    >>> choose_range({"a.png": Limits(900, 1150, are_integers=True)}, 1)[0]
    (0, 4095)
    """
    lowest, highest = min(one.lowest for one in found.values()), max(one.highest for one in found.values())
    if len({one.are_integers for one in found.values()}) == 2:
        example = {one.are_integers: printable(name) for name, one in found.items()}
        raise BadInput(
            f"{example[True]} has integer pixels of more than 8 bits, and {example[False]} has float pixels; convert "
            "them to one kind, or give the values that become black and white for both (`range`)"
        )
    if next(iter(found.values())).are_integers:
        bits = next((bits for bits in _BITS if highest < 2**bits), None)
        chosen: Range = (lowest, highest) if lowest < 0 or bits is None else (0, 2**bits - 1)
        reason = f"{bits} bits are used" if chosen[0] == 0 and bits else "the smallest and the largest value"
    else:
        chosen = next(((0, top) for top in (1, 255) if lowest >= 0 and highest <= top), (lowest, highest))
        reason = "floats" if chosen[0] == 0 and chosen[1] in (1, 255) else "the smallest and the largest value"
    if chosen[0] == chosen[1]:
        chosen = (chosen[0], chosen[0] + 1)
    sentences = [
        f"pixel values {chosen[0]:g} to {chosen[1]:g} become black to white ({reason}; training images have "
        f"{lowest:g} to {highest:g})"
    ]
    levels = 256 * (highest - lowest) / (chosen[1] - chosen[0])
    low = np.quantile([one.lowest for one in found.values()], 0.25).item()
    high = np.quantile([one.highest for one in found.values()], 0.75).item()
    levels_of_most = 256 * (high - low) / (chosen[1] - chosen[0])
    if levels < _FEW_LEVELS:
        sentences.append(
            f"the training images use {max(1, round(levels))} of 256 levels; `range=({lowest:g}, {highest:g})` would "
            "use them all"
        )
    elif low < high and levels_of_most < _FEW_LEVELS:
        sentences.append(
            f"most training images use {max(1, round(levels_of_most))} of 256 levels, because some have values far "
            f"from theirs; `range=({low:g}, {high:g})` would suit most of them"
        )
    return chosen, (*sentences, *mixed(found, total))


def mixed(found: Collection[str], total: int) -> tuple[str, ...]:
    """Return a sentence if some of the `total` training images have 8 bits."""
    if len(found) == total:
        return ()
    return (
        f"{total - len(found):,} of {total:,} training images have 8 bits: their 0 to 255 become black to white, "
        "whatever the range of the others",
    )


@lru_cache(maxsize=4)
def _table(low: float, high: float) -> np.ndarray:
    """Return the 8-bit value of each 16-bit value."""
    return _scaled(np.arange(65536), low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale low..high to 0..255, rounded, as uint8; values outside become 0 or 255."""
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, _BLOCK * len(values) // max(1, values.size))  # rows: whole images of floats would take 8 times more
    for start in range(0, len(values), step):
        rows = values[start : start + step].astype(np.float64)
        scaled[start : start + step] = np.clip(np.rint((rows - low) * (255 / (high - low))), 0, 255)
    return scaled
