"""Sentences about the training images of a run, for its log: left out, balanced, or confusable when mirrored."""

from __future__ import annotations

import torch

from resnetlab.data.balance import class_weights
from resnetlab.data.datasets import ImageData
from resnetlab.data.mirrored import confusable_when_mirrored
from resnetlab.errors import printable
from resnetlab.runs.config import RunConfig


def notes_on_training_images(config: RunConfig, data: ImageData) -> list[str]:
    """Return all of the sentences below."""
    drawn = "draws" if config.data.balance == "sampler" else "training images"
    return [
        *notes_on_dropped(len(data.train), config.batch_size, drawn),
        *notes_on_balance(config, data),
        *notes_on_mirrored(config, data),
    ]


def notes_on_dropped(images: int, batch_size: int, what: str = "training images") -> list[str]:
    """Return a sentence about the images that are left out of each epoch with its incomplete last batch, or nothing.

    `what` are the images: the draws of a sampler may have one image several times.

    >>> notes_on_dropped(63, 32)
    ['31 of the 63 training images are left out of each epoch, others every time: batches have 32 images']
    >>> notes_on_dropped(64, 32), notes_on_dropped(31, 32)
    ([], [])
    >>> notes_on_dropped(43, 42, "draws")
    ['1 of the 43 draws is left out of each epoch, others every time: batches have 42 images']
    """
    rest = images % batch_size if images > batch_size else 0
    if not rest:
        return []
    are = "is" if rest == 1 else "are"
    return [
        f"{rest:,} of the {images:,} {what} {are} left out of each epoch, others every time: batches have "
        f"{batch_size:,} images"
    ]


def notes_on_balance(config: RunConfig, data: ImageData) -> list[str]:
    """Return a sentence about the smallest and the largest class if the classes are balanced."""
    if config.data.balance == "none":
        return []
    weights = class_weights(data.train.labels, len(data.classes))
    counts = torch.bincount(data.train.labels.cpu(), minlength=len(data.classes))
    present = counts.nonzero()[:, 0].tolist()
    least, most = min(present, key=counts.__getitem__), max(present, key=counts.__getitem__)
    per_image = "times an epoch" if config.data.balance == "sampler" else "times the loss"
    words = [
        f"{data.classes[place]} ({counts[place]:,} images) {float(weights[place]):.3g} {per_image}"
        for place in dict.fromkeys((least, most))
    ]
    way = "an image is drawn, on average" if config.data.balance == "sampler" else "an image counts"
    return [f"data.balance {config.data.balance}: {way}, by its class: {', '.join(words)}"]


def notes_on_mirrored(config: RunConfig, data: ImageData) -> list[str]:
    """Return sentences about classes that can no longer be told apart if images are mirrored, three at most."""
    if not config.augment.flip:
        return []
    found = confusable_when_mirrored(data.train, data.classes, config.data.split_seed)
    return [
        f"mirrored images of {printable(one.name)} resemble {printable(one.other)}: the nearest neighbour of "
        f"{one.mirrored} of {one.images} is of that class, without mirroring of {one.plain}; if the direction matters, "
        "turn augment.flip off"
        for one in found[:3]
    ]
