"""The images that a model is scored on: a stored split of its run, or other data, taken whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from resnetlab.data.classes import alike, shortened
from resnetlab.data.datasets import ImageData, lacking_classes
from resnetlab.data.folder import WHOLE, Files, Found, find
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import BadImages
from resnetlab.data.shard_list import is_shards, name_of_shards
from resnetlab.data.sources import is_named
from resnetlab.data.splits import Split
from resnetlab.data.stored import few
from resnetlab.data.stores import Storage, bytes_of, read_splits
from resnetlab.data.tree import sentences
from resnetlab.errors import BadInput, printable
from resnetlab.inference.model_file import Model
from resnetlab.runs.build import open_data
from resnetlab.runs.config import DataConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.saved_data import has_moved_to, is_elsewhere, moved_to, open_saved, stored_splits

SplitName = Literal["val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True, eq=False)
class ScoringData:
    """A split to score on. `facts` are further keys for metrics.json; `unread` images were skipped.

    `is_own` is False for other data than that of the run; `is_changed` is True if recorded images are left out.
    """

    name: str
    split_name: SplitName
    split: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    unread: int = 0
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_own: bool = True
    is_changed: bool = False

    @classmethod
    def own(cls, data: ImageData, split: SplitName) -> ScoringData:
        """A split of an opened data set."""
        unread = len(data.unread.get(split, ()))
        return cls(data.name, split, getattr(data, split), data.classes, data.preprocessing, unread, data.notes)


def open_scored(
    run: RunFolder | None, model: Model, data: str | None, split: SplitName, *, allow_changed: bool = False
) -> ScoringData:
    """Read the images to score a model on: the stored split of its run, or `data`.

    `data` is the run's own if it is at the same place, or has exactly the same images; else it is scored whole.
    """
    if run is None:
        assert data is not None
        return split_of_model(model, data, split, allow_changed=allow_changed)
    own = run.config.data
    config = own if data is None else moved_to(data, own)
    if data is not None and is_elsewhere(run, config) and not allow_changed and not has_moved_to(run, config):
        return other_data(model, data, split, config, run)
    opened = open_saved(run, config, (split,), preprocessing=model.preprocessing, allow_changed=allow_changed)
    facts = {"changed_data": opened.changes.to_json()} if opened.changes else {}
    return ScoringData(
        opened.name,
        split,
        opened.splits[split],
        opened.classes,
        opened.preprocessing,
        len(opened.unread[split]),
        opened.notes,
        facts,
        is_changed=bool(opened.changes),
    )


def split_of_model(model: Model, data: str, split: SplitName, *, allow_changed: bool) -> ScoringData:
    """The images of `data` for a model file without its run: those of its own split, if they can be drawn again.

    The model file has the settings and the digests of its splits, so that splits drawn again can be recognised.
    """
    settings = model.provenance.get("data_settings") or {}
    config = data_config(data, settings)
    place = Path(data).resolve()
    spellings = {place.name, place.stem, Path(data).stem}  # the last one for a table that is a link
    names = {data} if is_named(data) else {name_of_shards(data)} if is_shards(data) else spellings
    is_named_alike = model.provenance.get("data") in names
    if not is_named(data) and not is_named_alike:
        return other_data(model, data, split, config)
    try:
        drawn: ImageData | None = open_data(config, model.preprocessing)
    except BadInput:
        if is_named(data) or allow_changed is False:
            raise
        drawn = None
    if drawn is not None and (not is_named_alike or is_drawn_alike(drawn, model)):
        return ScoringData.own(drawn, split)
    if is_named(data):
        raise BadInput(
            f"the {split} split of {data} cannot be drawn as in the training of this model: its file has other digests;"
            " evaluate the folder of its run"
        )
    if not allow_changed:
        raise BadInput(
            f"{printable(data)} has the name of the data that this model was trained on, but other images, so that "
            "training images could be scored: evaluate the folder of its run; or, if this is other data, add "
            "`allow_changed_data=True` to score all of it"
        )
    return other_data(model, data, split, config)


def is_drawn_alike(data: ImageData, model: Model) -> bool:
    """True if splits have the digests in the file of a model; those of older versions have none of contents."""
    digests, contents = (model.provenance.get(name) or {} for name in ("split_digests", "contents_digests"))
    if not all(isinstance(given, dict) and given.keys() <= {"train", "val", "test"} for given in (digests, contents)):
        return False
    return all(getattr(data, name).digest == digest for name, digest in digests.items()) and all(
        content in (None, getattr(data, name).contents_digest) for name, content in contents.items()
    )


def data_config(name: str, settings: Any) -> DataConfig:
    """The settings of the data in a model file; those of older versions have none."""
    known = settings if isinstance(settings, dict) else {}
    return DataConfig.model_validate({**{k: v for k, v in known.items() if k in DataConfig.model_fields}, "name": name})


def other_data(
    model: Model, data: str, split: SplitName, config: DataConfig, run: RunFolder | None = None
) -> ScoringData:
    """All images of a folder of classes, or of its folder of the split if it has one; of named data, its split.

    Raises BadInput for classes that the model does not know, and if there are no images of known classes.
    """
    if is_named(data):
        return as_other(ScoringData.own(open_data(config, model.preprocessing), split))
    found = find_labelled(data, model, config)
    part = part_to_score(found, split, data)
    files = known_files(found, part, model.classes, merges(config))
    size = model.preprocessing.resize_to
    what = f"{len(files):,} images at {size}×{size} pixels"
    store = Storage(config.store, config.memory).choose(bytes_of(len(files), model.preprocessing), what)
    bad = BadImages(config.bad_images, len(files), config.max_skipped, config.max_pixels)
    images = read_splits(found.root, {split: files}, model.preprocessing, bad, store)[split]
    if not len(images):
        raise BadInput(f"none of the {len(files):,} images in {printable(data)} can be read")
    where = printable(data if Path(data).is_file() else found.root / found.shown[part])
    which = f"{found.shown[part]} images" if Path(data).is_file() and part != WHOLE else "images"
    notes = [f"all {len(files):,} {which} of {where} are scored", *found.notes, *sentences(found.skipped), *bad.notes()]
    notes += lacking_classes({where: images}, model.classes)
    seen = [] if run is None else seen_before(images, run)
    is_known = run is None or stored_splits(run).has_contents
    if seen:
        here = "if this is the run's own folder at another place"
        elsewhere = "add `allow_changed_data=True` to score its stored split there"
        images_seen = f"{len(seen):,} of these {len(images):,} images"
        notes.append(
            f"{images_seen} are images that the run was trained or validated on ({few(seen)}), so the scores are too "
            f"good; {here}, {elsewhere}"
            if is_known
            else f"{images_seen} have names of images that the run was trained or validated on ({few(seen)}), and "
            f"their contents were not recorded by the older version that began it; {here}, the scores are too good: "
            f"{elsewhere}"
        )
    tested = [] if run is None or split == "test" or not is_known else seen_before(images, run, ("test",))
    if tested:
        notes.append(
            f"{len(tested):,} of these {len(images):,} images are test images of the run ({few(tested)}): score them "
            "with `split='test'`, so that their use is recorded"
        )
    facts = {
        "whole_folder": str(data if Path(data).is_file() else found.root / found.shown[part]),
        "images_seen_in_training": len(seen) if is_known else None,
    }
    return ScoringData(
        found.name,
        split,
        images,
        model.classes,
        model.preprocessing,
        len(bad.skipped),
        tuple(notes),
        facts,
        is_own=False,
    )


def as_other(data: ScoringData) -> ScoringData:
    """The same images, marked as other data than that of the run."""
    return ScoringData(**{**vars(data), "is_own": False})


def find_labelled(data: str, model: Model, config: DataConfig) -> Found:
    """The images of a folder or a table by class. Raises BadInput, pointing to `predict`, without folders of classes.

    The files of a table are relative to its folder or, like those of the run's table, to `data.root`.
    """
    try:
        found = find(data)
    except BadInput:
        if config.root is None:
            raise
        found = find(data, root=config.root)
    if any(files for classes in found.parts.values() for files in classes.values()):
        return found
    loose = sum(item.count for item in found.skipped if item.kind == "loose")
    if loose:
        raise BadInput(
            f"{printable(data)} has {loose:,} images without labels: put the images of each class "
            f"({few(model.classes)}) into a folder named after it, or use `resnetlab predict`, which needs no labels"
        )
    raise BadInput(
        f"{printable(data)} has no images to score; put the images of each class ({few(model.classes)}) into a folder "
        "named after it"
    )


def part_to_score(found: Found, split: SplitName, data: str) -> str:
    """The part of a folder or table to score: all of it, or its split. Raises BadInput if it has other splits only."""
    if WHOLE in found.parts:
        return WHOLE
    if split in found.parts:
        return split
    given = ", ".join(map(printable, found.shown.values()))
    ways = [f"`split={part!r}`" for part in found.shown if part in SPLITS]
    if Path(data).is_file():
        ways.append("a table without splits, all of whose images are scored")
        raise BadInput(f"{printable(data)} has {given}, but no {split} images; give {' or '.join(ways)}")
    ways += [f"`data={printable(found.root / shown)!r}`" for part, shown in found.shown.items() if part not in SPLITS]
    raise BadInput(
        f"{printable(found.root)} has {given}, but no folder named {split}; to score one of them, give "
        f"{' or '.join(ways)}"
    )


def merges(config: DataConfig) -> dict[str, str]:
    """The new name of each class that a run has merged into another.

    >>> merges(DataConfig(merge=("pet=cat, dog",)))
    {'cat': 'pet', 'dog': 'pet'}
    """
    rules = [rule.partition("=") for rule in config.merge]
    return {old.strip(): new.strip() for new, _, olds in rules for old in olds.split(",")}


def known_files(found: Found, part: str, classes: tuple[str, ...], merged: Mapping[str, str]) -> Files:
    """The files of a part, with the labels of the model.

    Raises BadInput, with their names, for images of classes that the model does not know.
    """
    by_class: dict[str, list[str]] = {}
    for name, files in found.parts[part].items():
        if files:
            by_class.setdefault(name if name in classes else merged.get(name, name), []).extend(files)
    where = printable(found.root / found.shown[part])
    if strange := [name for name in by_class if name not in classes]:
        total = sum(len(by_class[name]) for name in strange)
        same = [group for group in alike([*strange, *classes]) if set(group) & set(strange)]
        pairs = shortened([" and ".join(repr(printable(name)) for name in group) for group in same], 3)
        hint = f" ({pairs} differ only in case, spaces or Unicode form)" if same else ""
        raise BadInput(
            f"{where} has {total:,} images of classes that the model does not have: {few(strange)}; it has "
            f"{few(classes)}{hint}. Move them away, or rename their folders; `resnetlab predict` needs no labels"
        )
    names = [name for label in classes for name in by_class.get(label, ())]
    if not names:
        raise BadInput(f"{where} has no images of the model's classes: {few(classes)}")
    labels = np.repeat(np.arange(len(classes)), [len(by_class.get(label, ())) for label in classes])
    return Files(tuple(names), labels)


def seen_before(images: Split, run: RunFolder, parts: Sequence[str] = ("train", "val")) -> list[str]:
    """The names of images that are in these splits of a run: with the same contents.

    The contents of a run of an older version are unknown: of such a run, those with the same names.
    """
    stored = stored_splits(run)
    if not stored.has_contents:
        names = {name for part in parts for name in stored.splits[part].names}
        return [name for name in images.names if name in names]
    known = {content for part in parts for content in stored.splits[part].contents}
    return [name for name, content in zip(images.names, images.contents, strict=True) if content in known]


def run_of(path: Path) -> RunFolder | None:
    """The run in a folder, or the run whose best weights are in a model file; None if there is none."""
    run = RunFolder(path if path.is_dir() else path.parent)
    return run if (run.path / "config.json").is_file() and path in (run.path, run.best) else None
