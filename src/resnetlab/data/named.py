"""The data sets with a name: scikit-learn's digits, and published sets that are downloaded and read by torchvision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from resnetlab.archives import unpack
from resnetlab.data.classes import ClassChoice, require_two
from resnetlab.data.groups import named_groups
from resnetlab.data.sources import Resource, Source, source_of
from resnetlab.download import by_hand, download, has_digest
from resnetlab.errors import BadInput, Damaged, printable
from resnetlab.files import cache_folder, locked

UNREADABLE = (RuntimeError, OSError, ValueError, LookupError)
"""The errors that torchvision's classes raise for files that are missing or have other contents."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 (N, H, W, C), labels int64 (N,), and a name and perhaps a group for each image."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray) -> Arrays:
        """Copy the images at `indices`, in that order."""
        places = indices.tolist()
        groups = None if self.groups is None else tuple(self.groups[i] for i in places)
        return Arrays(self.images[indices], self.labels[indices], tuple(self.names[i] for i in places), groups)

    def chosen(self, labels: np.ndarray) -> Arrays:
        """Copy the images under new labels, without those whose label is -1."""
        return replace(self, labels=labels).subset(np.flatnonzero(labels >= 0))


@dataclass(frozen=True, eq=False)
class NamedDataset:
    """A data set as it is published; `test` is None if there is no published test split."""

    classes: tuple[str, ...]
    train: Arrays
    test: Arrays | None
    notes: tuple[str, ...] = ()

    def chosen(self, choice: ClassChoice) -> NamedDataset:
        """Keep and merge classes; those that are left stay in the published order."""
        names = choice.names_of(self.classes)
        classes = tuple(dict.fromkeys(names[name] for name in self.classes if name in names))
        if choice.order == "natural":
            classes = choice.ordered(classes)
        require_two(classes)
        new = np.array([classes.index(names[name]) if name in names else -1 for name in self.classes])
        parts = (None if part is None else part.chosen(new[part.labels]) for part in (self.train, self.test))
        train, test = parts
        assert train is not None
        return replace(self, classes=classes, train=train, test=test)

    def grouped(self, pattern: str) -> NamedDataset:
        """Give every image the group that a regular expression finds in its name."""
        parts = [part for part in (self.train, self.test) if part is not None]
        groups = named_groups([name for part in parts for name in part.names], pattern)
        with_groups = [replace(part, groups=tuple(groups[name] for name in part.names)) for part in parts]
        return replace(self, train=with_groups[0], test=with_groups[1] if len(with_groups) > 1 else None)


@dataclass(frozen=True, eq=False)
class NamedFiles:
    """A data set of image files as it is published. `parts` maps each split to its classes, and each class to files.

    The files are POSIX paths relative to `root`.
    """

    root: Path
    parts: Mapping[str, Mapping[str, Sequence[str]]]
    notes: tuple[str, ...]


def open_named(name: str, *, root: str | Path | None = None, may_download: bool = True) -> NamedDataset:
    """Return a named data set whose images are in arrays, complete and in the published order.

    `root` is the folder of the downloaded files (default: $RESNETLAB_DATA, else the user's cache folder), or the
    archive of a set that has only one, which is then unpacked to the default folder. Raises BadInput if the data set is
    missing and cannot or must not be downloaded.

    >>> open_named("digits").train.images.shape
    (1797, 8, 8, 1)
    """
    if name == "digits":
        return _digits()
    source = source_of(name)
    splits = _opened(name, source, root, may_download)
    parts = {part: _arrays(part, data) for part, data in splits.items()}
    return NamedDataset(_classes(source, splits), parts["train"], parts.get("test"), _notes(source))


def find_named(name: str, *, root: str | Path | None = None, may_download: bool = True) -> NamedFiles:
    """Find the files of a named data set that consists of image files. The arguments and errors are `open_named`'s."""
    source = source_of(name)
    splits = _opened(name, source, root, may_download)
    classes = _classes(source, splits)
    samples = {part: _samples(data) for part, data in splits.items()}
    paths = [path for files, _ in samples.values() for path in files]
    folder = os.path.commonpath(map(os.path.dirname, paths))
    names = iter(path[len(folder) + 1 :].replace(os.sep, "/") for path in paths)
    parts: dict[str, dict[str, list[str]]] = {}
    for part, (files, labels) in samples.items():
        found: dict[str, list[str]] = {}
        for label, file in sorted((label, next(names)) for _, label in zip(files, labels, strict=True)):
            found.setdefault(classes[label], []).append(file)
        parts[part] = found
    return NamedFiles(Path(folder), parts, _notes(source))


def _digits() -> NamedDataset:
    """Return 1,797 handwritten digits of 8×8 pixels from UCI, which are a part of scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # published as counts 0..16
    names = tuple(f"digits/{i:04d}" for i in range(len(images)))
    return NamedDataset(tuple("0123456789"), Arrays(images, bunch.target.astype(np.int64), names), None)


def _opened(name: str, source: Source, given_root: str | Path | None, may_download: bool) -> dict[str, Any]:
    """Return torchvision's data set for each split, after downloading and unpacking what is missing."""
    kind = _torchvision_class(name, source.kind)
    place, archive = _places(given_root)
    root = place.absolute()
    if archive is not None and (len(source.resources) > 1 or not has_digest(archive, "md5", source.resources[0].md5)):
        raise BadInput(f"data.root {printable(archive)} is a file, but {_needed(name, source)}")
    with suppress(*UNREADABLE):
        return _splits(kind, source, root)
    with ExitStack() as held:
        with suppress(OSError):  # without a place for it: several processes then fetch the same files
            held.enter_context(locked(_lock_file(name, root), f"waiting for another process that fetches {name}"))
        with suppress(*UNREADABLE):  # it has fetched them
            return _splits(kind, source, root)
        _fetch(name, source, root, archive, may_download)
    try:
        return _splits(kind, source, root)
    except UNREADABLE as error:
        raise Damaged(
            f"{name} in {printable(root)} cannot be read ({printable(error)}); remove it there and try again"
        ) from error


def _lock_file(name: str, root: Path) -> Path:
    """Return the file that the process holds which fetches a data set into a folder."""
    folder = cache_folder() / "locks"
    folder.mkdir(exist_ok=True)
    return folder / f"{xxh3_128_hexdigest(os.fsencode(f'{root}/{name}'))}.lock"


def _splits(kind: Any, source: Source, root: Path) -> dict[str, Any]:
    if source.kind == "STL10":  # reading the 2.8 GB without labels, for their digest, takes 10 s for each split
        kind = type("STL10", (kind,), {"train_list": kind.train_list[:2]})
    return {part: kind(root, download=False, **options) for part, options in source.splits.items()}


def _fetch(name: str, source: Source, root: Path, archive: Path | None, may_download: bool) -> None:
    """Download the files that are missing, and unpack all of them: torchvision has found none, or a changed one."""
    archives = {file: archive or root / file.path for file in source.resources}
    if not may_download:
        missing = [file for file, place in archives.items() if not has_digest(place, "md5", file.md5)]
        if missing:
            steps = "; ".join(by_hand(file.addresses, archives[file], "md5", file.md5) for file in missing)
            other = "; or give the path of the archive as data.root" if len(archives) == 1 else ""
            raise BadInput(f"{name} is not in {printable(root)}, and downloading is off. {steps}{other}")
    for file, place in archives.items():
        download(file.addresses, place, algorithm="md5", digest=file.md5, most_bytes=source.most_bytes)
    packed = [file for file in source.resources if file.is_archive]
    for folder in dict.fromkeys((root / file.path).parent for file in packed):  # archives may share a folder inside
        inside = [archives[file] for file in packed if (root / file.path).parent == folder]
        unpack(inside, folder, most_bytes=source.most_bytes)


def _needed(name: str, source: Source) -> str:
    """Return the end of the sentence about a file that is not the archive of a data set."""

    def shown(file: Resource) -> str:
        return f"{file.path} (MD5 {file.md5})"

    if len(source.resources) == 1:
        return f"not the archive of {name}, whose MD5 is {source.resources[0].md5}; give that archive or a folder"
    files = ", ".join(map(shown, source.resources))
    return f"{name} has {len(source.resources)} files; give the folder in which they are: {files}"


def _classes(source: Source, splits: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes by label; Imagenette has several for each, of which this is the first."""
    given = source.classes or splits["train"].classes
    return tuple(name if isinstance(name, str) else name[0] for name in given)


def _notes(source: Source) -> tuple[str, ...]:
    return (source.note,) if source.note else ()


def _samples(data: Any) -> tuple[list[str], list[int]]:
    """Return the paths and labels of a data set of torchvision that consists of image files."""
    pairs = getattr(data, "samples", None) or getattr(data, "_samples", None)
    if pairs is not None:
        return [os.fspath(path) for path, _ in pairs], [int(label) for _, label in pairs]
    files = data._images if hasattr(data, "_images") else data._image_files
    return [os.fspath(path) for path in files], [int(label) for label in data._labels]


def _places(given: str | Path | None) -> tuple[Path, Path | None]:
    """Return the folder for a data set, and its archive if `given`, or else $RESNETLAB_DATA, is a file."""
    default = os.environ.get("RESNETLAB_DATA")
    given = default if given is None else given
    archive: Path | None = None
    for place in [place for place in (given, default) if place] if given else []:
        try:
            path = Path(place).expanduser()
        except RuntimeError as error:
            raise BadInput(
                f"{printable(place)} begins with ~, and this user has no home folder; give a full path"
            ) from error
        if not path.is_file():
            return path, archive
        archive = archive or path.absolute()
    return cache_folder(), archive


def _arrays(prefix: str, data: Any) -> Arrays:
    """Return the images of a data set of torchvision that has them in an array (N, H, W), (N, H, W, 3) or (N, 3, H, W).

    Images of each split are numbered from 0.
    """
    images = np.asarray(data.data)
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[-1] != 3:
        images = images.transpose(0, 2, 3, 1)
    labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels, dtype=np.int64)
    names = tuple(f"{prefix}/{i:05d}" for i in range(len(labels)))
    return Arrays(np.ascontiguousarray(images), labels, names)


def _torchvision_class(name: str, kind: str) -> Any:
    """Import torchvision's class when it is needed: it takes 1.4 s, and fails with a torch from another index."""
    try:
        from torchvision import datasets
    except Exception as error:  # ImportError if it is missing, RuntimeError if it does not fit torch
        raise BadInput(
            f"{name} is read by torchvision, which cannot be imported ({printable(error)}); install torch and "
            "torchvision together from one index, for a machine without a GPU: "
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return getattr(datasets, kind)
