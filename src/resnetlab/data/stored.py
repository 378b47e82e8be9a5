"""Stored splits: the record of the images of a run, and those images found again and compared with the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from resnetlab.data import SPLITS
from resnetlab.data.classes import ClassChoice
from resnetlab.data.contents import contents_of, remember
from resnetlab.data.datasets import ImageData, lacking_classes, resized
from resnetlab.data.decode import read_image
from resnetlab.data.digests import content_digest, names_digest
from resnetlab.data.duplicates import notes_on_copies
from resnetlab.data.folder import Files, Found, find
from resnetlab.data.limits import MAX_PIXELS
from resnetlab.data.named import open_named
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import MOST_SKIPPED, BadImages
from resnetlab.data.sources import is_named, published_side
from resnetlab.data.splits import Split
from resnetlab.data.stores import IN_MEMORY, Storage, Store, bytes_of, read_splits
from resnetlab.data.tree import sentences
from resnetlab.errors import BadInput, Damaged, printable

MOST_NAMED = 3  # images of one kind of change that are named in a message


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """The record of one split: names, labels int64 (N,), content digests, and the images that could not be read.

    `unread` maps the name of an image to its content digest, "" if it had none. Runs of older versions have neither
    labels nor contents, and `names` in which control characters are escaped.
    """

    names: tuple[str, ...]
    digest: str
    labels: np.ndarray | None = None
    contents: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        assert self.labels is not None  # this version records them
        return {
            "images": len(self.names),
            "digest": self.digest,
            "contents_digest": names_digest(self.names, self.labels.tolist(), self.contents) if self.contents else None,
            "unread": dict(self.unread),
            "names": list(self.names),
            "labels": self.labels.tolist(),
            "contents": list(self.contents),
        }

    @classmethod
    def from_json(cls, given: Any) -> StoredSplit:
        """Read a record. Raises ValueError, KeyError or TypeError if it is damaged."""
        names, labels, contents = tuple(given["names"]), given.get("labels"), tuple(given.get("contents", ()))
        unread = dict(given.get("unread", {}))
        if not all(isinstance(word, str) for word in (*names, *contents, *unread, *unread.values())):
            raise ValueError("its names are not words")
        if contents and len(contents) != len(names):
            raise ValueError(f"{len(names)} names and {len(contents)} content digests")
        if labels is None:
            return cls(names, str(given["digest"]), None, contents, unread)
        if len(labels) != len(names) or not all(type(label) is int for label in labels):
            raise ValueError(f"{len(names)} names and {len(labels)} labels")
        if names_digest(names, labels) != given["digest"]:
            raise ValueError("its digest belongs to other images")
        return cls(names, given["digest"], np.asarray(labels, dtype=np.int64), contents, unread)


@dataclass(frozen=True, eq=False)
class StoredSplits:
    """The record of all splits of a run. `preprocessing` is None for runs of older versions."""

    classes: tuple[str, ...]
    splits: Mapping[str, StoredSplit]
    preprocessing: Preprocessing | None
    notes: tuple[str, ...] = ()

    @property
    def has_contents(self) -> bool:
        """True if changed contents can be found."""
        return all(split.contents or not split.names for split in self.splits.values())

    @classmethod
    def of(cls, data: ImageData) -> StoredSplits:
        """Return the record of an opened data set."""
        splits: dict[str, Split] = {name: getattr(data, name) for name in SPLITS}
        stored = {
            name: StoredSplit(
                split.names, split.digest, split.labels.cpu().numpy(), split.contents, data.unread.get(name, {})
            )
            for name, split in splits.items()
        }
        notes = dict.fromkeys((*data.notes, *notes_on_copies(data)))  # those of stored data have the copies already
        return cls(data.classes, stored, data.preprocessing, tuple(notes))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "classes": list(self.classes),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "notes": list(self.notes),
            "splits": {name: split.to_json() for name, split in self.splits.items()},
        }

    @classmethod
    def from_json(cls, given: Any, shown: str) -> StoredSplits:
        """Read a record; `shown` is the name of its file. Raises Damaged."""
        try:
            splits = {name: StoredSplit.from_json(given["splits"][name]) for name in SPLITS}
            classes, preprocessing = tuple(given["classes"]), given.get("preprocessing")
            if not all(isinstance(name, str) for name in classes):
                raise ValueError("its classes are not words")
            for split in splits.values():
                if split.labels is not None and not np.isin(split.labels, np.arange(len(classes))).all():
                    raise ValueError("it has a label without a class")
            chosen = None if preprocessing is None else Preprocessing.from_json(preprocessing)
            return cls(classes, splits, chosen, tuple(map(str, given.get("notes", ()))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"{shown} is not the record of a run's images") from error


@dataclass(frozen=True)
class Changes:
    """The images that differ from the record, by name; `moved` are in another class now, `renamed` in the same."""

    gone: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def sentence(self) -> str:
        """Return the numbers of changes, with a few names of each.

        >>> Changes(gone=("cat/1.jpg",), new=("cat/2.jpg", "dog/3.jpg")).sentence()
        '1 image is gone (cat/1.jpg), 2 images are new (cat/2.jpg, dog/3.jpg)'
        """
        kinds = {
            "gone": self.gone,
            "in another class": self.moved,
            "under another name": self.renamed,
            "changed": self.changed,
            "new": self.new,
        }
        return ", ".join(f"{count(names)} {kind} ({few(names)})" for kind, names in kinds.items() if names)

    def to_json(self) -> dict[str, int]:
        """Return the number of images of each kind."""
        return {kind: len(names) for kind, names in vars(self).items()}


@dataclass(frozen=True, eq=False)
class StoredData:
    """The stored images that are still the same: those of the splits that were asked for, in memory."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    preprocessing: Preprocessing
    changes: Changes
    unread: Mapping[str, Mapping[str, str]]  # of each split: images that cannot be read, with their content digests
    notes: tuple[str, ...]

    def all_splits(self) -> ImageData:
        """Return the data set; all splits must have been asked for."""
        three = {name: self.splits[name] for name in SPLITS}
        return ImageData(
            self.name, self.classes, preprocessing=self.preprocessing, notes=self.notes, unread=self.unread, **three
        )


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a data set as it is now: the class of each by name, their content digests, and how to read them."""

    name: str
    classes: Mapping[str, str]
    contents: Callable[[Sequence[str]], Mapping[str, str]]
    read: Callable[[Sequence[str], np.ndarray, Preprocessing, BadImages, Store], Split]
    notes: tuple[str, ...]
    is_readable: Callable[[str], bool]


def images_of(
    source: str,
    *,
    choice: ClassChoice | None = None,
    root: str | None = None,
    download: bool = True,
) -> Images:
    """List the images of a named data set, a folder or a manifest, without requiring that they can be trained on."""
    choice = choice or ClassChoice()
    if is_named(source) and published_side(source) is not None:
        return _named_images(source, choice, root, download=download)
    return _folder_images(find(source, choice, root=root, may_lack_files=True, may_download=download), choice)


def open_stored(
    images: Images,
    stored: StoredSplits,
    parts: Sequence[str] = SPLITS,
    *,
    preprocessing: Preprocessing | None = None,
    bad_images: Literal["error", "skip"] = "error",
    max_skipped: float = MOST_SKIPPED,
    max_pixels: int = MAX_PIXELS,
    storage: Storage = IN_MEMORY,
    refuse: Callable[[Changes], Exception] | None = None,
) -> StoredData:
    """Read the stored splits `parts`, without the images that are gone, in another class, or changed.

    `refuse` makes the error that is raised if any image of the three splits is not as it was. Raises BadInput if
    nothing is left of a part, or if an image cannot be read.
    """
    preprocessing = preprocessing or stored.preprocessing
    assert preprocessing is not None  # of the model, for a run of an older version
    same, labels, changes = compare_with(images, stored, skips=bad_images == "skip")
    if changes and refuse is not None:
        raise refuse(changes)
    total = sum(len(split.names) for split in stored.splits.values())
    size = preprocessing.resize_to
    needed = bytes_of(sum(len(same[part]) for part in parts), preprocessing)
    store = storage.choose(needed, f"{images.name} at {size}×{size} pixels")
    bad = BadImages(bad_images, total, max_skipped, max_pixels)
    splits: dict[str, Split] = {}
    unread: dict[str, dict[str, str]] = {}
    for part in parts:
        names, record = same[part], stored.splits[part]
        wanted = np.asarray([labels[name] for name in names], dtype=np.int64)
        if not names:
            raise BadInput(
                f"none of the {len(record.names):,} stored {part} images is as it was in {images.name}: "
                f"{changes.sentence()}"
            )
        split = images.read(names, wanted, preprocessing, bad, store)
        if not len(split):
            raise BadInput(f"none of the {part} images in {images.name} can be read")
        recorded = dict(zip(record.names, record.contents, strict=True)) if record.contents else {}
        for name, content in zip(split.names, split.contents, strict=True):
            if recorded.get(name, content) != content:  # in spite of what was found a moment ago
                raise BadInput(f"{printable(name)} is being changed by another program; try again when it is done")
        lost = set(names) - set(split.names)
        unread[part] = {**record.unread, **{name: recorded.get(name, "") for name in names if name in lost}}
        splits[part] = split
    found = (*stored.notes, *images.notes, *bad.notes(), *lacking_classes(splits, stored.classes))
    return StoredData(
        images.name, stored.classes, splits, preprocessing, changes, unread, tuple(dict.fromkeys(found))
    )  # fmt: skip


def compare_with(
    images: Images, stored: StoredSplits, *, skips: bool = False
) -> tuple[dict[str, list[str]], dict[str, int], Changes]:
    """Compare the images with the record.

    Returns the names that are still the same, by split; their labels; and the changes. With `skips`, new images that
    cannot be read are none: a run of an older version has no record of those that it skipped.
    """
    exact = {printable(name): name for name in images.classes}
    known = {split: _exact_names(record, exact) for split, record in stored.splits.items()}
    recorded = {name for names in known.values() for name in names}
    unread = {name: content for record in stored.splits.values() for name, content in record.unread.items()}
    new = [name for name in images.classes if name not in recorded and name not in unread]
    if not stored.has_contents and skips:
        new = [name for name in new if images.is_readable(name)]
    contents = images.contents([*recorded, *unread])
    label = {name: number for number, name in enumerate(stored.classes)}
    gone: list[str] = []
    moved: list[str] = []
    renamed: list[str] = []
    changed = [name for name, had in unread.items() if contents.get(name, had) != had]
    same: dict[str, list[str]] = {}
    labels: dict[str, int] = {}
    lost: dict[str, list[tuple[str, int]]] = {}
    for split, record in stored.splits.items():
        same[split] = []
        for place, name in enumerate(known[split]):
            now = label.get(images.classes[name]) if name in images.classes else None
            had = now if record.labels is None else int(record.labels[place])
            if name not in contents or name not in images.classes or had is None:
                gone.append(name)
                if record.contents:
                    lost.setdefault(record.contents[place], []).append((name, int(had or 0)))
            elif record.contents and contents[name] != record.contents[place]:
                changed.append(name)
            elif now != had:
                moved.append(name)
            else:
                same[split].append(name)
                labels[name] = had
    if lost and new:
        found_again: set[str] = set()  # lists would take minutes for a hundred thousand images
        for name, content in images.contents(new).items():
            if lost.get(content):
                before, had = lost[content].pop()
                found_again |= {before, name}
                kind = renamed if label.get(images.classes[name]) == had else moved
                kind.append(f"{before}, now {name}")
        gone = [name for name in gone if name not in found_again]
        new = [name for name in new if name not in found_again]
    return same, labels, Changes(tuple(gone), tuple(moved), tuple(renamed), tuple(changed), tuple(new))


def few(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED:,} more"


def count(names: Sequence[str]) -> str:
    return "1 image is" if len(names) == 1 else f"{len(names):,} images are"


def _exact_names(record: StoredSplit, exact: Mapping[str, str]) -> list[str]:
    """Return the names of a record; an older version escaped control characters in them."""
    return [exact.get(name, name) for name in record.names] if record.labels is None else list(record.names)


def _folder_images(found: Found, choice: ClassChoice) -> Images:
    root = found.root
    new_names = choice.names_of(found.class_names()) if found.class_names() else {}
    classes = {
        file: new_names[name]
        for part in found.parts.values()
        for name, files in part.items()
        if name in new_names
        for file in files
    }

    def read(
        names: Sequence[str], labels: np.ndarray, preprocessing: Preprocessing, bad: BadImages, store: Store
    ) -> Split:
        began = time.time_ns()
        split = read_splits(root, {"": Files(tuple(names), labels)}, preprocessing, bad, store)[""]
        if store == "memory":
            remember(root, dict(zip(split.names, split.contents, strict=True)), began)
        return split

    def is_readable(name: str) -> bool:
        try:
            read_image(f"{root}/{name}")
        except BadInput:
            return False
        return True

    notes = (*found.notes, *choice.notes(found.class_names()), *sentences(found.skipped))
    return Images(found.name, classes, lambda names: contents_of(root, names), read, notes, is_readable)


def _named_images(source: str, choice: ClassChoice, root: str | None, *, download: bool) -> Images:
    named = open_named(source, root=root, may_download=download).chosen(choice)
    published = [named.train] if named.test is None else [named.train, named.test]
    place = {name: (arrays, i) for arrays in published for i, name in enumerate(arrays.names)}
    classes = {name: named.classes[arrays.labels[i]] for name, (arrays, i) in place.items()}

    def contents(names: Iterable[str]) -> dict[str, str]:
        return {name: content_digest(place[name][0].images[place[name][1]]) for name in names if name in place}

    def read(
        names: Sequence[str],
        labels: np.ndarray,
        preprocessing: Preprocessing,
        bad: BadImages,  # noqa: ARG001
        store: Store,  # noqa: ARG001
    ) -> Split:
        pixels = np.stack([place[name][0].images[place[name][1]] for name in names])
        return resized(pixels, labels, tuple(names), preprocessing)

    return Images(source, classes, contents, read, (), lambda _: True)
