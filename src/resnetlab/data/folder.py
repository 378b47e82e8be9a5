"""List a folder of images: its layout, its classes and its files, without opening an image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetlab.errors import BadInput, printable

# of the formats in `resnetlab.data.decode`
_JPEG_PNG_WEBP = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
_OTHERS = (".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
SUFFIXES = frozenset((*_JPEG_PNG_WEBP, *_OTHERS))

_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("val", "valid", "validation", "dev"), "val")}

_HELP = "put the images of each class into a sub-folder named after it: FOLDER/cat/1.jpg, or FOLDER/train/cat/1.jpg"


@dataclass(frozen=True, eq=False)
class Files:
    """Images by name: POSIX paths relative to the root, by class and then by name; labels int64 (N,)."""

    names: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray) -> Files:
        """Copy the files at `indices`, in that order."""
        return Files(tuple(self.names[i] for i in indices.tolist()), self.labels[indices])


@dataclass(frozen=True, eq=False)
class Listing:
    """The classes and files in a folder. Without a train folder all images are in `train`, and the others are None.

    `layout` is "classes", or the splits that have a folder of their own, such as "train/test". `ignored` is the number
    of hidden files and of files without the suffix of an image. `notes` are sentences for the log.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    train: Files
    val: Files | None
    test: Files | None
    ignored: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(files) for files in (self.train, self.val, self.test) if files is not None)


def scan(root: str | Path) -> Listing:
    """List the classes and image files of a folder with train/val/test, train/test or train/val folders, or classes.

    Sub-folders of a class belong to it; a link to a parent folder is not followed. The result does not depend on the
    order in which the file system lists files. Raises BadInput, with advice, if the folder cannot be trained on.
    """
    root = Path(root)
    shown = printable(root)
    if not root.exists():
        raise BadInput(f"folder not found: {shown}")
    if not root.is_dir():
        raise BadInput(f"{shown} is a file; a folder is needed: {_HELP}")
    counter = _Counter()
    folders, _ = _entries(root, counter)
    parts = _split_folders(root, folders)
    if "train" not in parts:
        classes, train = _classes(root, root, folders, counter)
        return Listing(root, "classes", classes, train, None, None, counter.ignored, ())
    found: dict[str, Files] = {}
    classes = ()
    for part in ("train", "val", "test"):
        if part not in parts:
            continue
        folder = root / parts[part]
        names, files = _classes(root, folder, _entries(folder, counter)[0], counter)
        if part == "train":
            classes = names
        elif names != classes:
            raise BadInput(_difference(shown, parts["train"], classes, parts[part], names))
        found[part] = files
    others = sorted(set(folders) - set(parts.values()))
    notes = (f"ignored beside {parts['train']}: {', '.join(map(printable, others))}",) if others else ()
    layout = "/".join(found)
    return Listing(root, layout, classes, found["train"], found.get("val"), found.get("test"), counter.ignored, notes)


class _Counter:
    """Counts ignored files."""

    ignored = 0


def _entries(folder: Path, counter: _Counter) -> tuple[list[str], list[str]]:
    """Return the sub-folders and the image files of a folder, sorted; count the other files."""
    folders, images = [], []
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                hidden = entry.name.startswith(".") or entry.name == "__MACOSX"  # added to archives by macOS
                if entry.is_dir():
                    if not hidden:
                        folders.append(entry.name)
                elif not hidden and os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - twice as fast
                    images.append(entry.name)
                else:
                    counter.ignored += 1
    except OSError as error:
        raise BadInput(f"the folder {printable(folder)} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(images)


def _split_folders(root: Path, folders: list[str]) -> dict[str, str]:
    """Map split to folder; empty if the folders are classes (a class may be called "train")."""
    parts: dict[str, str] = {}
    for folder in folders:
        part = _SPLITS.get(folder.casefold())
        if part is None:
            continue
        if part in parts:
            raise BadInput(f"{printable(root)} has both {parts[part]} and {folder}; which one is {part}? Keep one")
        parts[part] = folder
    if "train" not in parts:
        if parts and len(parts) == len(folders):
            raise BadInput(f"{printable(root)} has {', '.join(parts.values())}, but no folder named train")
        return {}
    if len(parts) < len(folders) and all(_entries(root / name, _Counter())[1] for name in parts.values()):
        return {}  # images directly in "train", and other folders beside it: "train" is a class, too
    return parts


def _classes(root: Path, folder: Path, names: list[str], counter: _Counter) -> tuple[tuple[str, ...], Files]:
    """Return the classes in a folder and all their files; BadInput for an empty class or fewer than two."""
    shown = printable(folder)
    if not names:
        raise BadInput(f"{shown} has no classes; {_HELP}")
    files: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(names):
        inside = sorted(_walk(folder / name, (_identity(root), _identity(folder)), counter))
        if not inside:
            empty.append(name)
        prefix = (folder / name).relative_to(root).as_posix()
        files += [f"{prefix}/{file}" for file in inside]
        labels += [label] * len(inside)
    if not files:
        raise BadInput(f"{shown} has no images in its {len(names)} sub-folders; {_HELP}")
    if empty:
        which = f"class {printable(empty[0])!r} has" if len(empty) == 1 else f"{_quoted(empty)} have"
        raise BadInput(f"{shown}: {which} no images; add some, or remove the folder")
    if len(names) == 1:
        raise BadInput(f"{shown} has one class only, {printable(names[0])!r}; classification needs at least two")
    return tuple(names), Files(tuple(files), np.asarray(labels, dtype=np.int64))


def _walk(folder: Path, above: tuple[tuple[int, int], ...], counter: _Counter) -> list[str]:
    """Return the image files below a folder, relative to it, without following a link to a parent folder for ever."""
    here = _identity(folder)
    if here in above:
        return []
    folders, files = _entries(folder, counter)
    for name in folders:
        files += [f"{name}/{file}" for file in _walk(folder / name, (*above, here), counter)]
    return files


def _identity(folder: Path) -> tuple[int, int]:
    """Identify a folder independently of its name."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _difference(shown: str, train: str, classes: tuple[str, ...], part: str, names: tuple[str, ...]) -> str:
    """Return the sentence for two lists of classes that differ."""
    missing, extra = sorted(set(classes) - set(names)), sorted(set(names) - set(classes))
    sides = [f"{part} lacks {_quoted(missing)}"] * bool(missing) + [f"{part} also has {_quoted(extra)}"] * bool(extra)
    return f"{shown}: the classes of {part} differ from those of {train}: {' and '.join(sides)}"


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(printable(name)) for name in names)
