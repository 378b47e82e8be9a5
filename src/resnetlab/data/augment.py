"""Augmentation of whole batches on the device, with random numbers of its own for each image.

An augmentation takes uint8 images (N, H, W, C) and uniform random numbers (N, columns) in [0, 1), and returns uint8
images. The same numbers give the same pixels on every device and in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.images import mirror, sample


@dataclass(frozen=True)
class Augmentation:
    """One augmentation of a training run.

    `apply` takes images and `columns` random numbers per image, which are drawn for `purpose`. If `alternates`, they
    are shifted by a half in every second epoch: an image that was flipped in one epoch is not in the next. If
    `on_cpu`, `apply` takes the numbers on the CPU, wherever the images are.
    """

    purpose: str
    columns: int
    apply: Callable[[Tensor, Tensor], Tensor]
    alternates: bool = False
    on_cpu: bool = False


def crop(images: Tensor, uniform: Tensor, padding: int, mode: str = "constant") -> Tensor:
    """Pad by `padding` pixels and crop the old size at a random place (He et al. 2015, Section 4.2).

    `mode` is that of `numpy.pad`: "constant" (black) or "reflect". Needs 2 random numbers per image.

    >>> image = torch.arange(9, dtype=torch.uint8).view(1, 3, 3, 1)
    >>> crop(image, torch.tensor([[0.0, 0.5]]), padding=1)[0, :, :, 0].tolist()
    [[0, 0, 0], [0, 1, 2], [3, 4, 5]]
    """
    count, height, width, channels = images.shape
    if mode == "reflect":
        padded = reflect_pad(reflect_pad(images, 1, padding), 2, padding)
    else:
        padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    # A view of the bytes from each byte on: selecting from it copies whole rows instead of single pixels.
    high, row, part = height + 2 * padding, (width + 2 * padding) * channels, width * channels
    lines = padded.contiguous().view(-1).as_strided((count * high * row - part + 1, part), (1, 1))
    top, left = to_integers(uniform, 2 * padding + 1).unbind(1)
    first = (torch.arange(count, device=images.device) * high + top) * row + left * channels
    below = torch.arange(height, device=images.device) * row
    return lines.index_select(0, (first[:, None] + below).flatten()).view(images.shape)


def reflect_pad(images: Tensor, dim: int, padding: int) -> Tensor:
    """Pad both ends of a dimension with `padding` pixels, reflected at the first and the last one.

    >>> reflect_pad(torch.tensor([0, 1, 2, 3]), 0, 2).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    first = images.narrow(dim, 1, padding).flip(dim)
    last = images.narrow(dim, images.shape[dim] - 1 - padding, padding).flip(dim)
    return torch.cat([first, images, last], dim)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize normalised images (N, C, H, H) to (N, C, size, size), bilinear with antialiasing.

    Equal to `F.interpolate`, as two products with one small matrix: for the rows and for the columns.
    """
    count, channels, full, _ = images.shape
    if full == size:
        return images
    eye = torch.eye(full, dtype=torch.float32, device=images.device)[None, None]
    weights = F.interpolate(eye, (size, full), mode="bilinear", antialias=True)[0, 0]
    rows = weights @ images.permute(0, 2, 3, 1).reshape(count, full, full * channels)
    columns = torch.kron(weights, torch.eye(channels, dtype=torch.float32, device=images.device))
    return (rows.flatten(0, 1) @ columns.t()).view(count, size, size, channels).permute(0, 3, 1, 2)


def flip(images: Tensor, uniform: Tensor) -> Tensor:
    """Flip images left to right with probability 1/2. Needs 1 random number per image."""
    return mirror(images, uniform[:, 0] < 0.5)


def cutout(images: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Blacken a square of `size` pixels around a random centre, cut off at the border (DeVries and Taylor 2017).

    Needs 2 random numbers per image.
    """
    height, width = images.shape[1:3]
    centre_y, centre_x = to_integers(uniform[:, :1], height), to_integers(uniform[:, 1:], width)
    top, left = centre_y - size // 2, centre_x - size // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows = (y >= top) & (y < top + size)
    columns = (x >= left) & (x < left + size)
    return blacken(images, rows, columns)


def blacken(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Blacken the pixels that are in the rows (N, H) and the columns (N, W), both bool, of each image.

    Whole rows of bytes are multiplied by 0 or 1: a mask of pixels, and one of bool, take several times as long.

    >>> image = torch.arange(1, 5, dtype=torch.uint8).view(1, 2, 2, 1)
    >>> blacken(image, torch.tensor([[True, False]]), torch.tensor([[False, True]]))[0, :, :, 0].tolist()
    [[1, 0], [3, 4]]
    """
    count, height, _, channels = images.shape
    across = columns.repeat_interleave(channels, 1).view(torch.uint8)
    inside = rows.view(torch.uint8)[:, :, None] & across[:, None, :]
    return (images.reshape(count, height, -1) * inside.bitwise_xor_(1)).view(images.shape)


def resized_crop(images: Tensor, uniform: Tensor, size: int, min_area: float) -> Tensor:
    """Crop `min_area`..1 of the area at an aspect ratio of 3/4..4/3, and resize it to `size` (Szegedy et al. 2015).

    Bilinear without antialiasing, because the stored images are already small. Needs 4 random numbers per image: area,
    aspect ratio, left, top.
    """
    height, width = images.shape[1:3]
    area = (min_area + (1 - min_area) * uniform[:, 0]) * height * width
    aspect = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * uniform[:, 1])
    crop_width = (area * aspect).sqrt().clamp(1, width)
    crop_height = (area / aspect).sqrt().clamp(1, height)
    left, top = uniform[:, 2] * (width - crop_width), uniform[:, 3] * (height - crop_height)

    # The same numbers as those of `F.affine_grid`, which multiplies matrices for them in four times the time.
    places = torch.linspace(-1, 1, size, dtype=torch.float32, device=images.device) * (size - 1) / size
    x = places * (crop_width / width)[:, None] + ((2 * left + crop_width) / width - 1)[:, None]
    y = places * (crop_height / height)[:, None] + ((2 * top + crop_height) / height - 1)[:, None]
    return sample(images, x, y)


def rotation(images: Tensor, uniform: Tensor, degrees: float) -> Tensor:
    """Turn images about their centre by up to `degrees` in either direction; what comes into view is black.

    Bilinear, as torchvision's `rotate`. Needs 1 random number per image: the angle, counter-clockwise from below 0.
    """
    height, width = images.shape[1:3]
    angle = ((uniform * 2 - 1) * math.radians(degrees)).view(-1, 1, 1)
    y = (torch.arange(height, dtype=torch.float32, device=images.device) + (0.5 - height / 2)).view(1, -1, 1)
    x = (torch.arange(width, dtype=torch.float32, device=images.device) + (0.5 - width / 2)).view(1, 1, -1)
    cosine, sine = angle.cos(), angle.sin()
    grid = torch.stack([(cosine * x - sine * y) * (2 / width), (sine * x + cosine * y) * (2 / height)], 3)
    pixels = images.permute(0, 3, 1, 2).float()
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled if images.is_floating_point() else sampled.round()).to(images.dtype).permute(0, 2, 3, 1)


def erasing(images: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """Blacken a rectangle inside the image, with `probability` (Zhong et al. 2017).

    It has 2 % to 33 % of the area and an aspect ratio of 0.3 to 3.3, and is cut to the image where it would be longer.
    Needs 5 random numbers per image: whether, area, aspect ratio, top, left.
    """
    height, width = images.shape[1:3]
    area = (0.02 + (0.33 - 0.02) * uniform[:, 1]) * (height * width)
    aspect = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * uniform[:, 2])
    rows = (area * aspect).sqrt().round().long().clamp(1, height)
    columns = (area / aspect).sqrt().round().long().clamp(1, width)
    top, left = to_integers(uniform[:, 3], height - rows + 1), to_integers(uniform[:, 4], width - columns + 1)
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    inside_y = (y >= top[:, None]) & (y < (top + rows)[:, None]) & (uniform[:, :1] < probability)
    inside_x = (x >= left[:, None]) & (x < (left + columns)[:, None])
    return blacken(images, inside_y, inside_x)


def to_integers(uniform: Tensor, choices: int | Tensor) -> Tensor:
    """Turn uniform numbers in [0, 1) into integers 0 … choices - 1; the clamp is for rounding in float32."""
    integers = (uniform * choices).long()
    return integers.clamp_(max=choices - 1)
