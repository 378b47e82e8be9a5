"""Walk a folder: the image files in each of its folders, and what is skipped there by name.

No image is opened. Output of resnetlab itself (runs, series, evaluations, explanations, cards) is never data.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from resnetlab.data.classes import counted
from resnetlab.data.sources import is_named
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_regular

# of the formats in `resnetlab.data.formats`
_JPEG_PNG_WEBP = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
_OTHERS = (".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
_NEWER = (".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc")
_HEIC = (".heic", ".heif", ".hif")
HAS_HEIF = find_spec("pillow_heif") is not None
SUFFIXES = frozenset((*_JPEG_PNG_WEBP, *_OTHERS, *_NEWER, *(_HEIC if HAS_HEIF else ())))

_TO_JPEG = "convert them to JPEG or PNG to use them"
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".raf", ".raw", ".rw2")
_UNREAD = (".ico", ".jxl", ".psd", ".svg", ".tga", ".xcf")
PICTURES = dict.fromkeys((*_RAW, *_UNREAD, ".dcm", ".exr", ".hdr", ".npy"), _TO_JPEG)
PICTURES |= {} if HAS_HEIF else dict.fromkeys(_HEIC, "to read them: pip install 'resnetlab[heif]'")
"""Advice about files that hold pictures but are not read, by suffix."""

_SYSTEM = {"__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}
_SYSTEM |= {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found"}  # of NAS and Linux

_MARKS = {  # keys of a file that resnetlab writes, by its name
    "config.json": frozenset(("recipe", "data", "model", "optim", "schedule")),
    "summary.json": frozenset(("config", "runs", "together")),
    "metrics.json": frozenset(("split", "weights_digest", "split_digest")),
}
_SORTED = {"sorted.json": frozenset(("weights_digest", "sorted_as"))}  # of `predict`; given as data, it is data
_PICTURES = {  # beside the file of a card or a comparison: its name, its keys, and the names of the pictures
    "config.json": (frozenset(("architecture", "label_names")), frozenset(("calibration.png", "confusion_matrix.png"))),
    "comparison.json": (frozenset(("split_digest", "runs", "pairs")), frozenset(("curves.png",))),
}
_FILES = _MARKS.keys() | _SORTED.keys() | _PICTURES.keys()
_EXPLAINED = ".explain.png"

Kind = Literal["loose", "beside", "suffix", "hidden", "system", "folder", "output"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Skipped:
    """Files or folders that are not data: `count` of `what` in `folder`, a POSIX path relative to the root ("": it).

    `kind` is the reason: "hidden" and "system" files and folders, `what` being their name; "output" of resnetlab;
    files with another "suffix" than an image's; an empty "folder" with the suffix of an image; "loose" images beside
    the folders of classes; and folders "beside" those of the splits, `count` being their images.
    """

    kind: Kind
    what: str
    folder: str
    count: int


@dataclass(eq=False)
class Folder:
    """A folder in the tree: its sub-folders by name, its images sorted, and what was skipped in it."""

    path: str  # relative to the root, "" for the root
    above: Folder | None = None
    identity: tuple[int, int] = (0, 0)
    folders: dict[str, Folder] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    skipped: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    below: int = 0
    """number of images in it and in its sub-folders"""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def filled(self) -> list[Folder]:
        """The sub-folders that have images in them or below them."""
        return [folder for folder in self.folders.values() if folder.below]

    def everything(self) -> Iterator[Folder]:
        """Yield the folder and all folders below it."""
        rest = [self]
        while rest:
            folder = rest.pop()
            yield folder
            rest += folder.folders.values()

    def files(self) -> list[str]:
        """Return the images in it and below it, relative to the root, sorted."""
        return sorted(f"{folder.path}/{image}" for folder in self.everything() for image in folder.images)

    def all_skipped(self) -> list[Skipped]:
        """Return what was skipped in it and below it, counted together."""
        total: Counter[tuple[Kind, str]] = Counter()
        for folder in self.everything():
            total.update(folder.skipped)
        return skipped_in(self.path, total)


def skipped_in(folder: str, counts: Counter[tuple[Kind, str]]) -> list[Skipped]:
    return [Skipped(kind, what, folder, count) for (kind, what), count in sorted(counts.items())]


def walk(root: Path) -> Folder:
    """List a folder and all folders below it. A link to a parent folder is not followed.

    The result does not depend on the order in which the file system lists files. Raises BadInput for a folder that
    cannot be read, and for the output of resnetlab.
    """
    tree = Folder("")
    order, rest = [], [tree]
    while rest:  # no recursion: folders may be nested deeper than Python's stack
        folder = rest.pop()
        if _list(root, folder):
            order.append(folder)
            rest += folder.folders.values()
        elif folder.above is None:
            raise BadInput(f"{printable(root)} is output of resnetlab, not a folder of images; give the images' folder")
        else:
            del folder.above.folders[folder.name]
            folder.above.skipped["output", folder.name] += 1
    for folder in reversed(order):
        folder.below += len(folder.images)
        if folder.above is None:
            continue
        folder.above.below += folder.below
        if not folder.below and (kind := _emptiness(folder)):
            del folder.above.folders[folder.name]
            folder.above.skipped[kind, folder.name] += 1
    return tree


def _list(root: Path, folder: Folder) -> bool:
    """Fill in the content of a folder; return False if it is output of resnetlab."""
    path = f"{root}/{folder.path}" if folder.path else str(root)
    marks = []
    try:
        status = os.stat(path)  # noqa: PTH116 - as text: many folders, and a Path for each takes longer
        folder.identity = status.st_dev, status.st_ino
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise BadInput(f"the folder {printable(path)} cannot be read: {error.strerror}") from error
    ancestors = set(_identities(folder))
    for entry in entries:
        name = entry.name
        is_folder = _is_folder(entry)
        if reason := skipped_by_name(name, is_folder=is_folder):
            folder.skipped[reason] += 1
        elif is_folder:
            if not entry.is_symlink() or _identity(entry) not in ancestors:
                below = f"{folder.path}/{name}" if folder.path else name
                folder.folders[name] = Folder(below, folder)
        else:
            dot = name.rfind(".")  # as text: many files, and a Path for each takes longer
            suffix = name[dot:].lower() if dot > 0 else ""
            if suffix in SUFFIXES:
                if name.endswith(_EXPLAINED):
                    folder.skipped["output", f"*{_EXPLAINED}"] += 1
                else:
                    folder.images.append(name)
                continue
            if name in _FILES:
                marks.append(name)
            folder.skipped["suffix", suffix] += 1
    for name in _PICTURES.keys() & set(marks):
        keys, pictures = _PICTURES[name]
        if (ours := pictures.intersection(folder.images)) and _is_ours(f"{path}/{name}", keys):
            folder.images = [image for image in folder.images if image not in ours]
            folder.skipped.update(("output", image) for image in ours)
    whole = _MARKS if folder.above is None else {**_MARKS, **_SORTED}
    return not any(name in whole and _is_ours(f"{path}/{name}", whole[name]) for name in marks)


def skipped_by_name(name: str, *, is_folder: bool) -> tuple[Kind, str] | None:
    """Return the kind and the name under which a hidden or system file or folder is counted; None for any other."""
    if name[0] == ".":
        return "hidden", name if is_folder else _hidden(name)
    return ("system", name) if name.casefold() in _SYSTEM else None


def _hidden(name: str) -> str:
    """Return the name of a well-known hidden file, and "" for the others."""
    return name if name in (".DS_Store", ".gitkeep", ".gitignore") else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Identify a folder independently of its name."""
    status = os.stat(entry.path)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _identities(folder: Folder | None) -> Iterator[tuple[int, int]]:
    while folder is not None:
        yield folder.identity
        folder = folder.above


def _is_ours(path: str, keys: frozenset[str]) -> bool:
    """Return True for a JSON file with the keys that resnetlab writes."""
    try:
        content = json.loads(read_regular(Path(path)).decode())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and keys <= content.keys()


def _emptiness(folder: Folder) -> Kind | None:
    """Return the reason to skip a folder without images; None if it may be a class that lacks images."""
    if folder.name == "runs" or any(kind == "output" for kind, _ in folder.skipped):
        return "output"  # `train` makes a folder "runs" before the first run in it
    return "folder" if os.path.splitext(folder.name)[1].lower() in SUFFIXES else None  # noqa: PTH122


def require_outside(out: Path | str | None, data: str) -> None:
    """Raise BadInput for output that would lie in a folder of images, and be taken for data itself.

    A folder `runs` directly in the data folder is allowed: it is the default, and never read as images.
    """
    if out is None or is_named(data) or not Path(data).is_dir():
        return
    folder = Path(data).resolve()
    inside = Path(out).resolve()
    if inside == folder or (folder in inside.parents and inside.relative_to(folder).parts[0] != "runs"):
        raise BadInput(
            f"`out` is {printable(out)}, which lies in the data folder {printable(data)}: its files would be taken for "
            "data; give a folder outside of it"
        )


def sentences(skipped: Iterable[Skipped]) -> list[str]:
    """Return a few sentences about what was skipped, with counts and folders, for the log.

    >>> sentences([Skipped("loose", "", "", 2), Skipped("suffix", ".txt", "cat", 1), Skipped("suffix", "", "dog", 3)])
    ['skipped: 2 images beside the folders of classes', 'skipped: 1 .txt file in cat, 3 files without a suffix in dog']
    """
    found: dict[tuple[Kind, str], list[Skipped]] = {}
    for item in sorted(skipped, key=lambda item: KINDS.index(item.kind)):
        found.setdefault((item.kind, item.what), []).append(item)
    lines: list[str] = []
    together: dict[str, list[str]] = {}
    for (kind, what), items in found.items():
        count, name = sum(item.count for item in items), printable(what)
        match kind:
            case "loose":
                lines.append(f"{counted(count, 'image')} beside the folders of classes{_where(items)}")
            case "beside":
                lines.append(f"{counted(count, 'image')} in {name}, a folder beside those of the splits")
            case "suffix" if what in PICTURES:
                lines.append(f"{counted(count, f'{name} file')}{_where(items)}; {PICTURES[what]}")
            case "suffix":
                files = counted(count, f"{name} file") if what else f"{counted(count, 'file')} without a suffix"
                together.setdefault("suffix", []).append(f"{files}{_where(items)}")
            case "output":
                times = f"{count:,} × " if count > 1 else ""
                together.setdefault("output", []).append(f"output of resnetlab: {times}{name}{_where(items)}")
            case _:
                named = counted(count, "hidden file") if not what else f"{count:,} × {name}" if count > 1 else name
                together.setdefault("name", []).append(f"{named}{_where(items)}")
    lines += [_shortened(phrases, 10, "kinds") for phrases in together.values()]
    return [f"skipped: {line}" for line in lines]


def _where(items: Sequence[Skipped]) -> str:
    """Return the folders with their counts, such as " in cat", or ": 9 in cat, 1 in dog"; nothing for the root."""
    if len(items) == 1:
        return f" in {printable(items[0].folder)}" if items[0].folder else ""
    parts = [f"{item.count:,} in {printable(item.folder) or 'the folder itself'}" for item in items]
    return f" ({_shortened(parts, 3, 'folders')})"


def _shortened(names: list[str], most: int, more: str) -> str:
    """Return names with commas, shortened.

    >>> _shortened(["a", "b", "c", "d", "e"], 3, "kinds")
    'a, b, c and 2 more kinds'
    """
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more {more}"
