"""List the image files that paths, folders, patterns and lists name, for prediction. No image is opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resnetlab.data.classes import natural_key
from resnetlab.data.tree import SUFFIXES, Kind, Skipped, sentences, skipped_by_name, skipped_in, walk
from resnetlab.errors import BadInput, printable

_PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True, eq=False)
class ImagePaths:
    """The image files that a path names, in natural order ("2.jpg" before "10.jpg").

    `folders` are the folders that were searched. `notes` are sentences about the files that were skipped there.
    """

    files: tuple[str, ...]
    folders: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def find_images(path: str, *, is_pattern_allowed: bool = True) -> ImagePaths:
    """Return a file as it is, the images in a folder and below it, or those that a pattern (glob) matches.

    In a folder, and for a pattern, files that are hidden, of the system, or not named like an image are skipped and
    counted. Of a pattern, `**` stands for any number of folders.

    Raises BadInput for a folder that cannot be read or has no images, and for a pattern that matches no image. A file
    need not exist: reading it gives the reason.

    >>> find_images("photos/cat.jpg").files
    ('photos/cat.jpg',)
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path raises for a null character
        return _in_folder(Path(path))
    if is_pattern_allowed and _PATTERN.search(path) and not os.path.lexists(path):
        return _matching(path)
    return ImagePaths((path,))


def read_paths(stream: BinaryIO, *, separator: bytes = b"\n") -> Iterator[str]:
    """Yield the paths of a list, one at a time; empty lines, a byte-order mark and carriage returns are left out.

    The separator is a line feed, or a null character, which no file name contains: then each path is taken as it is.

    >>> import io
    >>> list(read_paths(io.BytesIO(b"a.png\\nb c.png\\r\\n\\n")))
    ['a.png', 'b c.png']
    """
    for number, entry in enumerate(_entries(stream, separator)):
        line = entry
        if separator == b"\n":
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            line = line.removesuffix(b"\r")
            if b"\0" in line:
                raise BadInput("the list of paths has null characters; separate the paths by line feeds, or add -0")
        if line:
            yield os.fsdecode(line)


def _entries(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """Yield what is between the separators, as soon as it has arrived."""
    if separator == b"\n":
        for line in stream:
            yield line.removesuffix(b"\n")
        return
    rest = b""
    read = getattr(stream, "read1", stream.read)  # read1 does not wait for more than what is there
    while block := read(65536):
        *entries, rest = (rest + block).split(separator)
        yield from entries
    if rest:
        yield rest


def _in_folder(folder: Path) -> ImagePaths:
    """Return the images in a folder and below it. Raises BadInput if there are none."""
    tree = walk(folder)
    inside = [f"{below.path}/{image}" if below.path else image for below in tree.everything() for image in below.images]
    skipped = tree.all_skipped()
    if not inside:
        found = sentences(skipped)
        raise BadInput(f"{printable(folder)} has no images{'; ' * bool(found)}{'; '.join(found)}")
    prefix = str(folder / "_")[:-1]  # joined as text, because a Path for each image takes longer
    files = tuple(prefix + name for name in _sorted(inside))
    return ImagePaths(files, (folder,), _notes(str(folder), skipped))


def _matching(pattern: str) -> ImagePaths:
    """Return the images that match a pattern, and those in the folders that match it."""
    path = Path(pattern)
    # a folder that exists under such a name, as "photos [1]", is meant as it is
    wild = (i for i, part in enumerate(path.parts) if _PATTERN.search(part))
    fixed = next((i for i in wild if not os.path.lexists(Path(*path.parts[: i + 1]))), None)
    if fixed is None:
        return ImagePaths((pattern,))
    base, rest = Path(*path.parts[:fixed]), str(Path(*path.parts[fixed:]))
    skipped: Counter[tuple[Kind, str]] = Counter()
    files: list[str] = []
    folders: list[Path] = []
    notes: list[str] = []
    try:
        matches = sorted(base.glob(rest))  # a folder comes before what is in it
    except (ValueError, NotImplementedError) as error:  # "a**", for example
        raise BadInput(f"{printable(pattern)} is not a pattern that can be used: {printable(error)}") from error
    except OSError as error:
        raise BadInput(f"{printable(error.filename or base)} cannot be read: {error.strerror}") from error
    searched: set[Path] = set()
    for match in matches:
        if searched.intersection(match.parents):
            continue
        is_folder = match.is_dir()
        reasons = (skipped_by_name(part, is_folder=True) for part in match.relative_to(base).parts[:-1])
        own = skipped_by_name(match.name, is_folder=is_folder) if match != base else None
        if reason := next(filter(None, reasons), None) or own:
            skipped[reason] += 1
        elif is_folder:
            searched.add(match)
            try:
                below = _in_folder(match)
            except BadInput as error:  # without images, output of resnetlab, or not readable
                notes.append(f"skipped: {error}")
                continue
            files += below.files
            folders.append(match)
            notes += below.notes
        elif match.suffix.lower() in SUFFIXES:
            files.append(str(match))
        else:
            skipped["suffix", match.suffix.lower()] += 1
    if not files:
        found = sentences(skipped_in("", skipped))
        raise BadInput(f"no image matches {printable(pattern)}{'; ' * bool(found)}{'; '.join(found)}")
    return ImagePaths(tuple(_sorted(files)), tuple(folders), (*_notes(pattern, skipped_in("", skipped)), *notes))


def _notes(path: str, skipped: list[Skipped]) -> tuple[str, ...]:
    return tuple(f"{printable(path)}: {sentence}" for sentence in sentences(skipped))


def _sorted(files: list[str]) -> list[str]:
    """Sort paths by the natural order of each of their parts."""
    return sorted(files, key=lambda name: [natural_key(part) for part in name.split("/")])
