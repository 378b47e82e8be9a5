"""Occlusion: how much the probability of each class falls when a patch of the image is covered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

BATCH = 64  # covered copies of an image that go through the network at once


@dataclass(frozen=True)
class Patches:
    """Square patches of `side` pixels that cover an image of `image_size` × `image_size`, `stride` pixels apart.

    They start at the same places in both directions. The last one ends at the border, so that every pixel is covered.
    """

    image_size: int
    side: int
    stride: int

    @classmethod
    def for_size(cls, image_size: int) -> Patches:
        """Choose patches of a quarter of the image's side, half of a patch apart: at least 7×7 from 8 pixels on.

        >>> Patches.for_size(224), Patches.for_size(8).starts
        (Patches(image_size=224, side=56, stride=28), (0, 1, 2, 3, 4, 5, 6))
        """
        side = max(1, image_size // 4)
        return cls(image_size, side, max(1, side // 2))

    @property
    def starts(self) -> tuple[int, ...]:
        """The first row of each patch, which are the first columns, too."""
        last = self.image_size - self.side
        return (*range(0, last, self.stride), last)

    @property
    def covers(self) -> Floats:
        """A matrix (patches in one direction, image_size): 1 where a patch covers a row, else 0."""
        rows, starts = np.arange(self.image_size), np.array(self.starts)[:, None]
        return ((rows >= starts) & (rows < starts + self.side)).astype(np.float64)

    def means(self, pixels: NDArray[np.floating]) -> Floats:
        """Return the mean (G, G) of a map (image_size, image_size) in each patch."""
        covers = self.covers / self.side
        return np.asarray(covers @ pixels.astype(np.float64) @ covers.T)

    def spread(self, values: Floats) -> Floats:
        """Return a map (image_size, image_size): at each pixel the mean of the `values` (G, G) of its patches."""
        covers = self.covers
        times = covers.sum(0)
        return np.asarray(covers.T @ values @ covers / np.outer(times, times))


def occlusion(probabilities: Callable[[Tensor], Tensor], image: Tensor, patches: Patches) -> Floats:
    """Compute the drop (G, G, classes) of each class's probability when a patch of `image` (C, H, W) is covered.

    Zeiler and Fergus (2014), Section 4.2. `image` is normalised, and the patch is set to 0, the mean colour.
    `probabilities` maps normalised images (N, C, H, W) to (N, classes). A drop is positive where the patch is evidence
    for the class, and negative where it is evidence against it.
    """
    before = probabilities(image[None])[0]
    parts = [before - probabilities(covered) for covered in covered_images(image, patches)]
    drops = torch.cat(parts).double().cpu().numpy()
    return np.asarray(drops.reshape(len(patches.starts), len(patches.starts), -1))


def covered_images(image: Tensor, patches: Patches) -> Iterator[Tensor]:
    """Yield batches of copies of the image (C, H, W), each with one patch covered, row by row."""
    places = [(top, left) for top in patches.starts for left in patches.starts]
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        copies = image.repeat(len(some), 1, 1, 1)
        for copy, (top, left) in zip(copies, some, strict=True):
            copy[:, top : top + patches.side, left : left + patches.side] = 0
        yield copies


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Compute Spearman's rank correlation of two maps of the same shape; None if one of them has equal values only.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([10.0, 20.0, 30.0])).__round__(6)
    1.0
    """
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first.ravel(), second.ravel()).statistic)
