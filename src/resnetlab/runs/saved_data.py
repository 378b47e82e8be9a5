"""Open the data of a saved run: its stored splits, never drawn again, compared with the images as they are now."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnetlab.data import SPLITS
from resnetlab.data.balance import class_weights
from resnetlab.data.classes import ClassChoice
from resnetlab.data.folder import find
from resnetlab.data.manifest import root_of_table
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import BadImages
from resnetlab.data.remote import is_remote
from resnetlab.data.shard_list import is_shards, root_of_shards, shards_in
from resnetlab.data.sources import is_named, published_side
from resnetlab.data.splits import Split
from resnetlab.data.stored import (
    Changes,
    Images,
    StoredData,
    StoredSplits,
    compare_with,
    images_of,
    open_stored,
)
from resnetlab.data.stores import Storage
from resnetlab.errors import BadInput, printable
from resnetlab.interpret.embedding import spread
from resnetlab.runs.config import DataConfig
from resnetlab.runs.folder import RunFolder

UNCHECKED = "this run was begun by an older version, which did not record the contents of images: they are not checked"
EVALUATE_ANYWAY = (
    "undo that, or add `allow_changed_data=True` to score the stored images that are still the same, in a folder "
    "of their own"
)
NO_EXPORT = "undo that: the export is compared with the model on images of its run"
TRAIN_ANEW = "undo that, or train again in a new folder"


def stored_splits(run: RunFolder) -> StoredSplits:
    """The splits of a run, as they were recorded. Raises Damaged."""
    return StoredSplits.from_json(run.read_json("split.json"), printable(run.path / "split.json"))


BALANCE = {"sampler": "each drawn, times an epoch", "weights": "weight in the loss"}
"""The effect of data.balance on the images of a class, by its value; the heading of a column."""


def balanced_classes(run: RunFolder, classes: Sequence[str]) -> list[tuple[int, float]] | None:
    """Return the training images of each class, and how often each is drawn, or its weight.

    None if nothing was balanced, or the splits of the run cannot be read or have other classes.
    """
    if run.config.data.balance == "none":
        return None
    try:
        stored = stored_splits(run)
    except BadInput:
        return None
    found = stored.splits["train"].labels
    if found is None or list(stored.classes) != list(classes):
        return None
    labels = torch.from_numpy(found)
    counts = torch.bincount(labels, minlength=len(classes))
    return list(zip(counts.tolist(), class_weights(labels, len(classes)).tolist(), strict=True))


def open_saved(
    run: RunFolder,
    config: DataConfig,
    parts: Sequence[str] = SPLITS,
    *,
    preprocessing: Preprocessing | None = None,
    allow_changed: bool = False,
    advice: str = EVALUATE_ANYWAY,
) -> StoredData:
    """Read splits of a saved run from the data of `config`, for whatever scores the run or continues it.

    Raises BadInput, with the names of a few images, if any image is new, gone, in another class or changed; with
    `allow_changed` the others are returned.
    """
    stored, images = stored_splits(run), images_in(run, config)
    refuse = None if allow_changed else partial(refusal, run, config, advice=advice)
    opened = open_stored(
        images,
        stored,
        parts,
        preprocessing=preprocessing,
        bad_images=config.bad_images,
        max_skipped=config.max_skipped,
        max_pixels=config.max_pixels,
        storage=Storage(config.store, config.memory),
        refuse=refuse,
    )
    notes = opened.notes
    if opened.changes:
        notes = (*notes, f"changed data: {opened.changes.sentence()}; only images that are still the same are scored")
    if not stored.has_contents:
        notes = (*notes, UNCHECKED)
    return StoredData(**{**vars(opened), "notes": notes})


def open_sample(
    run: RunFolder, config: DataConfig, part: str, most: int, *, preprocessing: Preprocessing, advice: str
) -> Split:
    """Read at most `most` images of a stored split from the data of `config`, evenly spread; decode no others.

    Raises BadInput like `open_saved`.
    """
    stored, images = stored_splits(run), images_in(run, config)
    same, labels, changes = compare_with(images, stored, skips=config.bad_images == "skip")
    if changes:
        raise refusal(run, config, changes, advice=advice)
    names = [same[part][place] for place in spread(len(same[part]), most)]
    bad = BadImages(config.bad_images, max(len(names), 1), config.max_skipped, config.max_pixels)
    split = images.read(names, np.asarray([labels[name] for name in names], np.int64), preprocessing, bad, "memory")
    if not len(split):
        raise BadInput(f"none of the {part} images in {printable(config.name)} can be read")
    return split


def refusal(run: RunFolder, config: DataConfig, changes: Changes, *, advice: str) -> BadInput:
    """The error for images that are not as they were."""
    return BadInput(
        f"the images in {printable(config.name)} are not those of {printable(run.path)}: {changes.sentence()}; {advice}"
    )


def require_unchanged(run: RunFolder, config: DataConfig) -> None:
    """Raise BadInput, with the names of a few, if any image is not as it was when the run began. Decodes none."""
    changes = compare_with(images_in(run, config), stored_splits(run), skips=config.bad_images == "skip")[2]
    if changes:
        raise refusal(run, config, changes, advice=TRAIN_ANEW)


def images_in(run: RunFolder, config: DataConfig) -> Images:
    """The images of a run's data. Raises BadInput, with the way out, if its folder was moved away."""
    if not is_named(config.name) and not is_shards(config.name) and not Path(config.name).exists():
        raise BadInput(
            f"the data of {printable(run.path)} was not found: {printable(config.name)}; if it was moved, give its "
            "new place (`data='FOLDER'`)"
        )
    if config.root and not is_named(config.name) and not Path(config.root).exists():
        raise BadInput(
            f"the images of {printable(run.path)} were not found: {printable(config.root)}; if they were moved, put a "
            f"copy of the table {printable(Path(config.name).name)} into their new folder and give it "
            "(`data='FOLDER/TABLE.csv'`)"
        )
    return images_of(config.name, **listing_settings(config))


def own_config(run: RunFolder, data: str | os.PathLike[str] | None) -> DataConfig:
    """The settings of a run's own data; `data` is its new place, if it was moved."""
    return run.config.data if data is None else moved_to(os.fspath(data), run.config.data)


def moved_to(data: str, own: DataConfig) -> DataConfig:
    """The settings of a run's data for other data. If the folder of the images is gone, it is that of the new table."""
    is_gone = own.root is not None and not is_named(data) and not Path(own.root).exists()
    return own.model_copy(update={"name": data, **({"root": None} if is_gone else {})})


def listing_settings(config: DataConfig) -> dict[str, Any]:
    """The settings that decide which images a data set has."""
    choice = ClassChoice(config.classes, config.merge, config.class_order)
    return {"choice": choice, "root": config.root, "download": config.download}


def is_elsewhere(run: RunFolder, config: DataConfig) -> bool:
    """True if the data of `config` is at another place than the data of the run."""
    return place_of(config.name) != place_of(run.config.data.name)


def place_of(name: str) -> str:
    return name if is_named(name) or is_remote(name) else os.path.realpath(name)


def has_moved_to(run: RunFolder, config: DataConfig) -> bool:
    """True if the data of `config`, at another place, has exactly the images of the run, with the same contents."""
    stored = stored_splits(run)
    if not stored.has_contents or is_named(config.name) != is_named(run.config.data.name):
        return False
    try:
        images = images_of(config.name, **listing_settings(config))
    except BadInput:  # its layout is that of other data
        return False
    return not compare_with(images, stored)[2]


def root_of(config: DataConfig) -> Path | None:
    """The folder that the file names in a run's data are relative to; None for a named data set without image files."""
    if is_named(config.name):
        if published_side(config.name) is not None:
            return None
        return find(config.name, root=config.root, may_download=config.download).root
    source = Path(config.name)
    if is_shards(source):
        return root_of_shards(shards_in(source))
    if source.is_dir():
        return source
    return Path(config.root) if config.root else root_of_table(source)


def groups_of(config: DataConfig) -> Mapping[str, str] | None:
    """The group of each file of a run's data; None without groups, and for a named data set without image files."""
    if is_named(config.name) and published_side(config.name) is not None:
        return None
    settings = listing_settings(config)
    found = find(
        config.name, settings["choice"], group_by=config.group_by, root=config.root, may_download=config.download
    )
    return found.groups
