"""Augmentation of whole batches on the device, each sample with its own draws.

Every function takes uint8 images (N, H, W, C) and uniform draws (N, columns) in [0, 1), and returns uint8 images. What
is random comes in as numbers, so the same draws give the same pixels on every device and in every order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One augmentation: the purpose its draws belong to, how many a sample needs, and what is done with them."""

    purpose: str
    columns: int
    apply: Augmentation
    alternates: bool = False  # in every second epoch it does the opposite of the epoch before


def crop(images: Tensor, draws: Tensor, padding: int, mode: str = "constant") -> Tensor:
    """Pad by `padding` pixels (black, or mirrored with mode "reflect"), then cut out the old size (Section 4.2).

    Nothing is padded: the pixels are fetched from where they would have come from, which works for uint8 everywhere.
    """
    height, width = images.shape[1:3]
    top, left = (whole(draws, 2 * padding + 1) - padding).unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    if mode == "reflect":
        return images[sample, mirrored(rows, height)[:, :, None], mirrored(columns, width)[:, None, :]]
    cut = images[sample, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    outside_y, outside_x = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    return cut.masked_fill((outside_y[:, :, None] | outside_x[:, None, :])[..., None], 0)


def mirrored(places: Tensor, size: int) -> Tensor:
    """Places up to `size - 1` outside of 0 … size - 1, reflected at the outermost pixels.

    >>> mirrored(torch.tensor([-2, -1, 0, 3, 4, 5]), 4).tolist()
    [2, 1, 0, 3, 2, 1]
    """
    return (size - 1) - ((size - 1) - places.abs()).abs()


def shrunk(images: Tensor, size: int) -> Tensor:
    """Normalised images (N, C, H, W) at another size, sampled bilinearly, with antialiasing."""
    if images.shape[2] == size:
        return images
    small = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror every second image, on average, left to right."""
    return torch.where((draws < 0.5)[:, :, None, None], images.flip(2), images)


def cutout(images: Tensor, draws: Tensor, size: int) -> Tensor:
    """Blacken a square of `size` pixels around a random centre, cut off at the border (DeVries and Taylor 2017)."""
    height, width = images.shape[1:3]
    centre_y, centre_x = whole(draws[:, :1], height), whole(draws[:, 1:], width)
    top, left = centre_y - size // 2, centre_x - size // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows = (y >= top) & (y < top + size)
    columns = (x >= left) & (x < left + size)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], 0)


def resized_crop(images: Tensor, draws: Tensor, size: int, min_area: float) -> Tensor:
    """Cut out `min_area`..1 of the area at an aspect of 3/4..4/3, and stretch it to `size` (Szegedy et al. 2015).

    Sampled bilinearly at the centres of the new pixels, without antialiasing: the stored images are already small.
    """
    height, width = images.shape[1:3]
    area = (min_area + (1 - min_area) * draws[:, 0]) * height * width
    aspect = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draws[:, 1])
    crop_width = (area * aspect).sqrt().clamp(1, width)
    crop_height = (area / aspect).sqrt().clamp(1, height)
    left, top = draws[:, 2] * (width - crop_width), draws[:, 3] * (height - crop_height)

    theta = images.new_zeros((len(images), 2, 3), dtype=torch.float32)
    theta[:, 0, 0], theta[:, 0, 2] = crop_width / width, (2 * left + crop_width) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = crop_height / height, (2 * top + crop_height) / height - 1
    grid = F.affine_grid(theta, [len(images), images.shape[3], size, size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8).permute(0, 2, 3, 1)


def whole(draws: Tensor, choices: int) -> Tensor:
    """Uniform numbers in [0, 1) to whole numbers 0 … choices - 1 (the clamp is for rounding in float32)."""
    return (draws * choices).long().clamp_(max=choices - 1)
