"""Classes that become confusable when images are mirrored, such as the letters b and d."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.data.random import RandomTables
from resnetlab.data.splits import Split

MOST = 1500  # images that are compared with each other
FEWEST = 5  # images of a class, below which nothing is said about it
SIDE = 16  # pixels, to which images are reduced
BLOCK = 256  # images that are reduced at a time
FARTHEST = 4  # times the distance of an image's nearest neighbour; distance is 1 - correlation


class Confusable(NamedTuple):
    """A class whose mirrored images resemble those of another one more than their own."""

    name: str
    other: str
    images: int
    mirrored: int  # of them, whose mirror image has its nearest neighbour in the other class
    plain: int  # of them, whose nearest neighbour without mirroring is in the other class


def confusable_when_mirrored(split: Split, classes: tuple[str, ...], seed: int) -> list[Confusable]:
    """Return the classes of which at least half of the mirrored images are nearest to one other class.

    Without mirroring at most a quarter of the images may be, so that classes that resemble each other anyway are left
    out. So are classes whose mirrored images resemble no others: they are, on average, more than four times as far from
    their nearest neighbour as the images themselves, as in a series of photos of one place. Up to 1,500 images of the
    split, uint8, are compared by the correlation of their grey values at 16×16 pixels.
    """
    chosen = RandomTables(seed, 0, len(split)).permutation()[:MOST].to(split.images.device)
    labels = split.labels[chosen]
    grey = reduced(split.images[chosen]).view(-1, SIDE, SIDE)
    (plain, distance), (mirrored, mirrored_distance) = (
        nearest(images.flatten(1), grey.flatten(1), labels) for images in (grey, grey.flip(2))
    )
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    place = labels * len(classes)
    before, after = (
        torch.bincount(place + found, minlength=len(classes) ** 2).view(len(classes), -1) for found in (plain, mirrored)
    )
    after.fill_diagonal_(0)
    found = []
    for index, (name, images) in enumerate(zip(classes, counts, strict=True)):
        other = int(after[index].argmax())
        is_frequent = 2 * after[index, other] >= images >= 4 * before[index, other]
        own = labels == index
        if images >= FEWEST and is_frequent and mirrored_distance[own].mean() <= FARTHEST * distance[own].mean():
            found.append(Confusable(name, classes[other], images, int(after[index, other]), int(before[index, other])))
    return found


def reduced(images: Tensor) -> Tensor:
    """Images (N, H, W, C) as grey values at 16×16 pixels, float32 (N, 256), with mean 0 and length 1."""
    parts = []
    for first in range(0, len(images), BLOCK):
        part = images[first : first + BLOCK].float().mean(3)
        parts.append(F.adaptive_avg_pool2d(part[:, None], SIDE).flatten(1))
    grey = torch.cat(parts)
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)


def nearest(images: Tensor, others: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return label and distance of the nearest of the other images for each image; image i is not compared with i."""
    nearness, rows = (images @ others.t()).fill_diagonal_(-2).max(1)
    return labels[rows], 1 - nearness
