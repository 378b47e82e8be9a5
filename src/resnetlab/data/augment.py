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

    All windows of the padded images are one view of them, so that what is copied is whole rows and not pixels.
    """
    count, height, width, channels = images.shape
    if mode == "reflect":
        wide = mirrored(mirrored(images, 1, padding), 2, padding)
    else:
        wide = F.pad(images, (0, 0, padding, padding, padding, padding))
    row, offsets = (width + 2 * padding) * channels, 2 * padding + 1
    windows = wide.contiguous().as_strided(
        (count, offsets, offsets, height, width * channels), ((height + 2 * padding) * row, row, channels, row, 1)
    )
    top, left = whole(draws, offsets).unbind(1)
    return windows[torch.arange(count, device=images.device), top, left].view(images.shape)


def mirrored(images: Tensor, dim: int, padding: int) -> Tensor:
    """Images with `padding` more pixels at both ends of a dimension, reflected at the outermost ones.

    >>> mirrored(torch.tensor([0, 1, 2, 3]), 0, 2).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    first = images.narrow(dim, 1, padding).flip(dim)
    last = images.narrow(dim, images.shape[dim] - 1 - padding, padding).flip(dim)
    return torch.cat([first, images, last], dim)


def shrunk(images: Tensor, size: int) -> Tensor:
    """Normalised images (N, C, H, H) at another size, sampled bilinearly, with antialiasing.

    Rows and columns of an image mix among themselves only: two products with one small matrix.
    """
    count, channels, full, _ = images.shape
    if full == size:
        return images
    eye = torch.eye(full, device=images.device)[None, None]
    mix = F.interpolate(eye, (size, full), mode="bilinear", antialias=True)[0, 0]
    rows = mix @ images.permute(0, 2, 3, 1).reshape(count, full, full * channels)
    columns = torch.kron(mix, torch.eye(channels, device=images.device))
    return (rows.flatten(0, 1) @ columns.t()).view(count, size, size, channels).permute(0, 3, 1, 2)


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
