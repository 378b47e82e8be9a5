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
    out. Up to 1,500 images of the split, uint8, are compared by the correlation of their grey values at 16×16 pixels.
    """
    chosen = RandomTables(seed, 0, len(split)).permutation()[:MOST].to(split.images.device)
    labels = split.labels[chosen]
    grey = reduced(split.images[chosen]).view(-1, SIDE, SIDE)
    plain, mirrored = (nearest(images.flatten(1), grey.flatten(1), labels) for images in (grey, grey.flip(2)))
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    place = labels * len(classes)
    before, after = (
        torch.bincount(place + found, minlength=len(classes) ** 2).view(len(classes), -1) for found in (plain, mirrored)
    )
    after.fill_diagonal_(0)
    found = []
    for index, (name, images) in enumerate(zip(classes, counts, strict=True)):
        other = int(after[index].argmax())
        if images >= FEWEST and 2 * after[index, other] >= images >= 4 * before[index, other]:
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


def nearest(images: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """Return the label of the nearest of the other images for each image; image i is not compared with other i."""
    similarity = images @ others.t()
    return labels[similarity.fill_diagonal_(-2).argmax(1)]
