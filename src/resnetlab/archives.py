"""Unpack .tar, .zip and .gz archives: files and folders below one folder, up to a total size, and nothing else."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable

MOST_BYTES = 50 * 10**9
MOST_FILES = 2_000_000
BLOCK = 1 << 20

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
"""The errors of the readers of archives. A name that is no text in its encoding is a ValueError."""


def unpack(
    archives: Path | Sequence[Path], folder: Path, *, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES
) -> None:
    """Unpack an archive, or the parts of one, into `folder`; what is at its top level appears whole or not at all.

    Files and folders replace those of the same name. Owners, permissions and times in the archive are ignored.

    Raises Damaged for an archive that ends early, BadInput for one that contains a link, a device, a path outside of
    the folder, or more than is allowed; DiskTrouble if the disk is full. Nothing is left behind then.
    """
    archives = [archives] if isinstance(archives, Path) else list(archives)
    shown = ", ".join(map(printable, archives))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-", ignore_cleanup_errors=True) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            old.mkdir()
            left = most_bytes
            for number, (name, content) in enumerate(itertools.chain.from_iterable(map(_members, archives))):
                if number == most_files:
                    raise BadInput(f"{shown} contains more than the {most_files:,} files and folders allowed")
                place = new / _inside(name, shown)
                if content is None:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with content, place.open("xb") as file:
                    while block := content.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise BadInput(f"{shown} unpacks to more than the {most_bytes / 1e6:,.1f} MB allowed")
                        file.write(block)
            for entry in sorted(new.iterdir()):
                _put(entry, folder / entry.name, old / entry.name)
    except (BadInput, DiskTrouble):
        raise
    except DAMAGE as error:
        raise Damaged(f"{shown} cannot be unpacked ({printable(error)}); use another copy") from error
    except FileExistsError as error:
        raise BadInput(f"{shown} contains a name twice: {printable(Path(str(error.filename)).name)}") from error
    except OSError as error:
        if error.errno is None:  # gzip raises it for content that is not gzip
            raise Damaged(f"{shown} cannot be unpacked ({printable(error)}); use another copy") from error
        raise DiskTrouble(f"could not unpack {shown}: {error.strerror or error}") from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """The name of each member, and its content unless it is a folder."""
    shown = printable(archive)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise BadInput(f"{shown} contains a link or a device: {printable(entry.filename)}")
                yield entry.filename, None if entry.is_dir() else packed.open(entry)
        return
    if archive.suffix == ".gz" and not archive.stem.endswith(".tar"):  # a single file
        yield archive.stem, cast(IO[bytes], gzip.GzipFile(archive))
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise BadInput(f"{shown} contains a link or a device: {printable(member.name)}")
            if hasattr(tarfile, "data_filter"):  # Python's own rules; it is missing in Python 3.11.0 to 3.11.3
                try:
                    tarfile.data_filter(member, os.fspath(archive.parent))
                except tarfile.FilterError as error:
                    raise BadInput(f"{shown} is refused: {printable(error)}") from error
            yield member.name, tar.extractfile(member)
        while tar.fileobj is not None and tar.fileobj.read(BLOCK):  # to the checksum, which is at the end
            pass


def _inside(name: str, shown: str) -> PurePosixPath:
    """Return a member's path if it cannot leave the folder on any system."""
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in (*path.parts, *windows.parts) or "\0" in name:
        raise BadInput(f"{shown} contains a path outside of its folder: {printable(name)}")
    return path


def _put(new: Path, place: Path, old: Path) -> None:
    """Rename `new` to `place`, after what is there has been moved away, where another process may do the same."""
    for _ in range(10):
        if place.is_dir() or new.is_dir():
            with suppress(FileNotFoundError):
                place.rename(old)
        try:
            new.replace(place)
        except OSError:
            if not place.exists():
                raise
            _remove(old)  # another process was faster; its files are replaced, too
        else:
            return
    raise DiskTrouble(f"could not replace {printable(place)}: another process writes to it")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
