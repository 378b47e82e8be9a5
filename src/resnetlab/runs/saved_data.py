"""Open the data of a saved run: its stored splits, never drawn again, compared with the images as they are now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resnetlab.data import DATASETS, SPLITS
from resnetlab.data.classes import ClassChoice
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.stored import (
    Changes,
    Images,
    StoredData,
    StoredSplits,
    compare_with,
    images_of,
    open_stored,
)
from resnetlab.errors import BadInput, printable
from resnetlab.runs.config import DataConfig
from resnetlab.runs.folder import RunFolder

UNCHECKED = "this run was begun by an older version, which did not record the contents of images: they are not checked"
EVALUATE_ANYWAY = (
    "bring them back, or add `allow_changed_data=True` to score the stored images that are still the same, in a folder "
    "of their own"
)
TRAIN_ANEW = "bring them back, or train anew in a new folder"


def stored_splits(run: RunFolder) -> StoredSplits:
    """The splits of a run, as they were recorded. Raises Damaged."""
    return StoredSplits.from_json(run.read_json("split.json"), printable(run.path / "split.json"))


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
        refuse=refuse,
    )
    notes = opened.notes
    if opened.changes:
        notes = (*notes, f"changed data: {opened.changes.sentence()}; only images that are still the same are scored")
    if not stored.has_contents:
        notes = (*notes, UNCHECKED)
    return StoredData(**{**vars(opened), "notes": notes})


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
    if config.name not in DATASETS and not Path(config.name).exists():
        raise BadInput(
            f"the data of {printable(run.path)} was not found: {printable(config.name)}; if it was moved, give its "
            "new place (`data='FOLDER'`)"
        )
    return images_of(config.name, **listing_settings(config))


def listing_settings(config: DataConfig) -> dict[str, Any]:
    """The settings that decide which images a data set has."""
    choice = ClassChoice(config.classes, config.merge, config.class_order)
    return {"choice": choice, "root": config.root, "download": config.download}


def is_elsewhere(run: RunFolder, config: DataConfig) -> bool:
    """True if the data of `config` is at another place than the data of the run."""
    return place_of(config.name) != place_of(run.config.data.name)


def place_of(name: str) -> str:
    return name if name in DATASETS else os.path.realpath(name)


def has_moved_to(run: RunFolder, config: DataConfig) -> bool:
    """True if the data of `config`, at another place, has exactly the images of the run, with the same contents."""
    stored = stored_splits(run)
    if not stored.has_contents or (config.name in DATASETS) != (run.config.data.name in DATASETS):
        return False
    try:
        images = images_of(config.name, **listing_settings(config))
    except BadInput:  # its layout is that of other data
        return False
    return not compare_with(images, stored)[2]
