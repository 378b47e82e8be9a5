"""Files of decoded images, and what was found out about them, in the user's cache folder.

A file has the pixels of images, one after another, and then an index: the content digest of each image, of those that
cannot be decoded, and of those that lose their contrast. The index alone is the file of a data set that is decoded for
each batch. Names are digests of all that determines the pixels: settings, decoders, and contents of the images. A file
is written under a temporary name and renamed, by one process at a time. Files that were not used for a month are
removed when another one is written; those that a process has open never are.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_128_hexdigest

from resnetlab.data.digests import content_digest
from resnetlab.data.reading import Decoder
from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import cache_folder, locked, read_regular, replacing, write_json
from resnetlab.host import warnings_ignored

try:
    import fcntl
except ImportError:  # Windows: two processes may build the same file, each a part of its own
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

FORMAT = 1  # of these files
CODE = (
    "avif",
    "bands",
    "decode",
    "decode_deep",
    "depth",
    "formats",
    "limits",
    "orientation",
    "preprocess",
    "reading",
    "tiff",
)  # the modules here that decode and resize
KERNEL = ("resize.py", "csrc/resize.c")  # beside them, in kernels
SHARE_FREE = 0.05  # of a disk, which is left free
KEPT = 30 * 86_400  # seconds for which a file that nobody uses is kept, if the disk has room
RECENT = 3600  # seconds for which it is kept in any case: it was just built, or is about to be opened
KINDS = ("cut_off", "deep", "flat")  # of images that lose their contrast
PART = ".part"  # the suffix of a file that is being written, which is removed if its process was killed
_TAIL = 16 + 32  # bytes: the length of the index, and its digest


class NoRoom(BadInput):
    """A disk that has too little room for the decoded images."""


@dataclass(frozen=True)
class Index:
    """The content digests of the images in a file by row, of those that cannot be decoded, and of lost contrast."""

    rows: Mapping[str, int]
    bad: frozenset[str] = frozenset()
    lost: Mapping[str, frozenset[str]] | None = None

    def has(self, contents: Iterable[str]) -> bool:
        """Return True if all of these contents were decoded, or tried."""
        return all(content in self.rows or content in self.bad for content in contents)

    def to_bytes(self) -> bytes:
        """Return the index as it is at the end of a file."""
        lost = {kind: sorted(found) for kind, found in (self.lost or {}).items() if found}
        text = json.dumps({"rows": list(self.rows), "bad": sorted(self.bad), "lost": lost}).encode()
        return text + f"{len(text):016d}{xxh3_128_hexdigest(text)}".encode()

    @classmethod
    def read(cls, path: Path, image_bytes: int) -> Index | None:
        """Read the index at the end of a file; None if there is none, or if the file is not whole."""
        with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
            size = file.seek(-_TAIL, os.SEEK_END)
            tail = file.read().decode()
            length = int(tail[:16])
            file.seek(size - length)
            text = file.read(length)
            given = json.loads(text)
            rows = {content: row for row, content in enumerate(given["rows"])}
            if xxh3_128_hexdigest(text) == tail[16:] and size - length == len(rows) * image_bytes:
                lost = {kind: frozenset(found) for kind, found in given["lost"].items()}
                return cls(rows, frozenset(given["bad"]), lost)
        return None


@dataclass(frozen=True)
class Decoded:
    """The files of images that were decoded in one way; `with_pixels` is False for those that have the index alone."""

    decoder: Decoder
    with_pixels: bool

    @property
    def image_bytes(self) -> int:
        """The bytes of an image in a file."""
        chosen = self.decoder.preprocessing
        return chosen.resize_to**2 * chosen.channels if self.with_pixels else 0

    @property
    def prefix(self) -> str:
        """The beginning of the names of these files."""
        return key(settings_of(self.decoder), self.with_pixels)[:16]

    def path(self, digest: str) -> Path:
        """Return the path of the file of the contents with this digest (`digest_of`)."""
        return folder() / f"{self.prefix}-{digest[:16]}.decoded"

    def find(self, contents: Iterable[str], digest: str) -> tuple[Path, Index] | None:
        """Return a file that has all of these contents: their own, by their digest, or a larger one."""
        own = self.path(digest)
        others = sorted(set(folder().glob(f"{self.prefix}-*.decoded")) - {own})
        for path in (own, *others):
            index = Index.read(path, self.image_bytes)
            if index is not None and index.has(contents):
                with suppress(OSError):
                    os.utime(path)  # the time of its last use
                return path, index
        return None

    @contextmanager
    def locked(self, digest: str) -> Iterator[Path]:
        """Let one process at a time build the file of the contents with this digest; yield its path."""
        path = self.path(digest)
        with locked(_lock_file(path)):
            if fcntl is not None:
                for other in folder().glob(f"*{PART}"):
                    _remove_abandoned(other, path)
            yield path

    def write(self, path: Path, images: int, write: Callable[[BinaryIO | None], Index]) -> Index:
        """Write a file whole or not at all: the pixels, which `write` writes, and the index, which it returns.

        Raises NoRoom if the disk would become full, DiskTrouble if the file cannot be written.
        """
        needed = images * (self.image_bytes + 64)
        remove_unused(needed)
        require_room(needed)
        with replacing(path, needed, PART) as file:
            index = write(file if self.with_pixels else None)
            file.write(index.to_bytes())
        return index


def folder() -> Path:
    """Create and return the folder of these files. Raises DiskTrouble."""
    found = cache_folder() / "decoded"
    try:
        found.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not create {printable(found)}: {error.strerror or error}") from error
    return found


def require_room(needed: int) -> None:
    """Raise NoRoom if so many bytes do not fit onto the disk of the cache folder, of which a part is left free."""
    usable = usable_bytes()
    if needed > usable:
        raise NoRoom(
            f"the decoded images need {needed / 1e9:.1f} GB in {printable(folder())}, where {usable / 1e9:.1f} GB can "
            f"be used ({SHARE_FREE:.0%} of the disk stays free); remove what is no longer needed there, set "
            "XDG_CACHE_HOME to a folder on a larger disk, choose a smaller `image_size`, or decode the images for each "
            "batch (`store='stream'`)"
        )


def usable_bytes() -> int:
    """Return the bytes that may be written to the disk of the cache folder."""
    disk = shutil.disk_usage(folder())
    return max(0, disk.free - int(SHARE_FREE * disk.total))


def remove_unused(needed: int) -> None:
    """Remove files that were not used for a month and, if that makes room for `needed` bytes, those unused for longest.

    A file that a process has open, or that was used within the last hour, is kept.
    """
    if fcntl is None:  # one cannot tell which files are open
        return
    files = []
    for path in folder().glob("*.decoded"):
        with suppress(OSError):  # removed by another process
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    now, missing = time.time(), needed - usable_bytes()
    idle = [(used, size, path) for used, size, path in sorted(files) if now - used > RECENT]
    can_make_room = missing <= sum(size for _, size, _ in idle)
    for used, size, path in idle:
        if now - used <= KEPT and not (missing > 0 and can_make_room):
            continue
        if _remove_idle(path, used):
            missing -= size
            log.info(
                "removed decoded images that were not used for %.0f days: %s (%.1f GB)",
                (now - used) / 86_400,
                printable(path),
                size / 1e9,
            )


def _remove_idle(path: Path, used: float) -> bool:
    """Remove a file that no process has open and that was last used at `used`; return False for any other."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an open one has a shared lock, see `CachedPixels`
        if path.stat().st_mtime == used:
            path.unlink()
            return True
    return False


def settings_of(decoder: Decoder) -> dict[str, Any]:
    """Return all that determines the pixels of an image besides its contents."""
    given = asdict(decoder.preprocessing)
    for name in ("image_size", "mean", "std", "max_pixels"):  # they are applied to decoded images, or to none
        del given[name]
    return {
        "format": FORMAT,
        "decoders": versions(),
        "preprocessing": given,
        "max_pixels": decoder.max_pixels,
        "are_integers": decoder.are_integers,
        "collects_limits": decoder.collects_limits,
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that decode and resize images, and digests of our own code that does."""
    from PIL import features

    here = Path(__file__).parent
    sources = [*(here / f"{name}.py" for name in CODE), *(here.parent / "kernels" / name for name in KERNEL)]
    found = {path.name.removesuffix(".py"): content_digest(path.read_bytes()) for path in sources}
    for name in ("pillow", "pillow-heif", "tifffile", "imagecodecs"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with warnings_ignored():  # about features that this Pillow does not know
        for name in ("jpg", "libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif", "zlib"):
            found[name] = str(features.version(name))
    return found


def digest_of(contents: Iterable[str]) -> str:
    """Compute the digest of contents in any order.

    >>> digest_of(["b", "a"]) == digest_of(["a", "b"])
    True
    """
    return xxh3_128_hexdigest("\n".join(sorted(contents)).encode())


def key(*values: object) -> str:
    """Compute the digest of JSON-able values.

    >>> key(1, "a") == key(1, "a"), key(1) == key(2)
    (True, False)
    """
    text = json.dumps(values, sort_keys=True)
    return xxh3_128_hexdigest(text.encode("utf-8", "surrogateescape"))


def remembered(name: str, what: Sequence[object]) -> Any:
    """Return what was found out about images before; None if nothing was, or if its file is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(read_regular(folder() / f"{key(name, *what)}.json").decode())
        if stored["digest"] == key(stored["found"]):
            return stored["found"]
    return None


def remember_finding(name: str, what: Sequence[object], found: Any) -> None:
    """Keep something JSON-able that was found out about images."""
    with suppress(DiskTrouble):  # it is found out again
        write_json(folder() / f"{key(name, *what)}.json", {"found": found, "digest": key(found)})


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name.lstrip('.').partition('.')[0]}.lock")


def _remove_abandoned(part: Path, own: Path) -> None:
    """Remove the part of a file whose process was killed: nobody holds its lock. `own` is locked by this process."""
    with suppress(OSError):
        if _lock_file(part) == _lock_file(own):
            part.unlink()
        else:
            with _lock_file(part).open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


def rows_of(index: Index, contents: Sequence[str]) -> np.ndarray:
    """Return the rows of images by their contents, int64 (N,)."""
    return np.fromiter((index.rows[content] for content in contents), np.int64, len(contents))
