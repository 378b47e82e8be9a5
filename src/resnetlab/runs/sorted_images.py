"""Sort images into folders by predicted class, as symbolic links or copies. Nothing is ever replaced."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import write_json
from resnetlab.inference.predict_files import FilePrediction, FileResult
from resnetlab.runs.prediction_table import require_same_origin

REJECTED = "none of these"
ORIGIN = "sorted.json"
LONGEST = 120  # bytes of a folder's name, of 255 on most file systems
DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}
UNSAFE = re.compile(r'[/\\:*?"<>|]')


class SortedImages:
    """A folder with a sub-folder for each predicted class, and one for rejected images.

    A sub-folder gets the file under its own name; if another file has that name, a number is added ("1-2.jpg").
    Sorting the same files again changes nothing.
    """

    def __init__(self, folder: Path, classes: Sequence[str], origin: Mapping[str, Any], *, copy: bool = False) -> None:
        """Check the folder, which must be new, empty, or sorted by the same model. Nothing is created yet.

        Raises BadInput for any other folder.
        """
        self.folder, self.copy = folder, copy
        self.origin = {**origin, "sorted_as": "copies" if copy else "links"}
        self.names = folder_names([*classes, rejected_name(classes)])
        self.taken: dict[Path, str] = {}  # the source of each file of this session
        self.resolved = folder.resolve()
        self.is_begun = (folder / ORIGIN).exists()
        if self.is_begun:
            require_same_origin(folder / ORIGIN, self.origin, folder)
        elif folder.exists() and not folder.is_dir():
            raise BadInput(f"{printable(folder)} is a file; give a new or empty folder")
        elif folder.is_dir() and any(folder.iterdir()):
            raise BadInput(f"{printable(folder)} is not empty, and holds no sorted images; give a new or empty folder")

    def write(self, results: Sequence[FileResult]) -> None:
        """Sort the files of a batch; those that could not be read are left out. Raises DiskTrouble."""
        for result in results:
            if isinstance(result, FilePrediction):
                self.add(result.file, self.names[-1 if result.is_rejected else result.predicted])

    def _begin(self) -> None:
        """Create the folder, with the facts about its origin."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskTrouble(f"could not make {printable(self.folder)}: {error.strerror or error}") from error
        write_json(self.folder / ORIGIN, self.origin)
        self.is_begun = True

    def add(self, file: str, name: str) -> None:
        """Put a file into the sub-folder `name`. Raises BadInput for a file that is among the sorted ones."""
        source = Path(os.path.abspath(file))  # noqa: PTH100 - Path.resolve would follow links
        if self.resolved in source.parent.resolve().parents or self.resolved == source.parent.resolve():
            raise BadInput(f"{printable(file)} lies in {printable(self.folder)}, the folder to sort into")
        if not self.is_begun:
            self._begin()
        folder = self.folder / name
        try:
            folder.mkdir(exist_ok=True)
            target, number = folder / source.name, 1
            while not self._put(source, target):
                number += 1
                target = folder / f"{source.stem}-{number}{source.suffix}"
            self.taken[target] = str(source)
        except OSError as error:
            reason = error.strerror or error
            hint = "" if self.copy else "; where links are not possible, copy the images (`copy=True`)"
            raise DiskTrouble(f"could not sort {printable(file)} into {printable(folder)}: {reason}{hint}") from error

    def _put(self, source: Path, target: Path) -> bool:
        """Create the link or copy, unless it is there already; return False if the name belongs to another file."""
        if target in self.taken:
            return self.taken[target] == str(source)
        try:
            copy_whole(source, target) if self.copy else target.symlink_to(source)
        except FileExistsError:
            is_link = target.is_symlink()
            if self.copy:
                return not is_link and target.is_file() and filecmp.cmp(source, target, shallow=False)
            return is_link and str(target.readlink()) == str(source)
        return True


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file with its time, whole or not at all. Raises FileExistsError if the name is taken."""
    if os.path.lexists(target):
        raise FileExistsError(target)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".copy.", suffix=".tmp")
    os.close(descriptor)
    try:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
        try:
            os.link(temporary, target)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            Path(temporary).rename(target)
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()


def rejected_name(classes: Sequence[str]) -> str:
    """Return the name for rejected images, which is not that of a class, also where letter case is ignored.

    >>> rejected_name(["cat", "dog"]), rejected_name(["None of these"])
    ('none of these', 'none of these (rejected)')
    """
    name, plain = REJECTED, {_plain(label) for label in classes}
    while _plain(name) in plain:
        name += " (rejected)"
    return name


def folder_names(names: Sequence[str]) -> list[str]:
    """Return a name for the folder of each class: safe on every system, not hidden, and different from all others.

    >>> folder_names(["cat", "a/b", "a_b", "..", "Cat"])
    ['cat', 'a_b', 'a_b-2', '_', 'Cat-2']
    """
    found: list[str] = []
    used: set[str] = set()
    for name in names:
        base = _safe(name)
        candidate, number = base, 1
        while _plain(candidate) in used:
            number += 1
            candidate = f"{base}-{number}"
        used.add(_plain(candidate))
        found.append(candidate)
    return found


def _safe(name: str) -> str:
    """Return a class name without separators, control characters, and dots or spaces at its ends, shortened."""
    plain = UNSAFE.sub("_", "".join(c if c.isprintable() else "_" for c in name)).strip(" .") or "_"
    short = plain.encode()[:LONGEST].decode("utf-8", "ignore").rstrip(" .")
    return f"{short}_" if short.partition(".")[0].casefold() in DEVICES else short


def _plain(name: str) -> str:
    """Return a name as file systems compare it that ignore case or the form of accents."""
    return unicodedata.normalize("NFKC", name).casefold()
