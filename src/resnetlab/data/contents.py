"""Digests of the contents of images, and a cache of them that spares reading unchanged files again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.files import cache_folder, open_regular, read_regular, write_text

SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file surely changes its times; the coarsest file systems count in 2 s."""

LEAST_FILES, LEAST_BYTES = 1000, 100_000_000
"""Files of a folder that are worth a cache: fewer and smaller ones are read again in a moment."""

Times = list[int]
"""Size in bytes, and the times of the last changes of content and of status in nanoseconds."""

Entry = list[Any]
"""The times of a file when it was read, and its digest: a list, as in the cache, because converting takes longer."""

_ENTRY = [int, int, int, str]


def content_digest(content: bytes | bytearray | memoryview | np.ndarray) -> str:
    """Compute the digest of the bytes of a file, or of an array: their number and XXH3 (128 bits), hexadecimal.

    It finds changes and equal images. It is no protection against a person who wants two images to seem equal.

    >>> content_digest(b"abc")
    '3-06b05ab6733a618578af5f94892f3950'
    """
    view = np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else memoryview(content)
    return f"{view.nbytes}-{xxh3_128_hexdigest(view)}"


def contents_of(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the content digests of files by name, without those that are not regular files or cannot be read.

    A file is read only if it is not in the cache, or if its size or one of its times has changed. The digests of
    images in shards are in the indexes of these.
    """
    from resnetlab.data.shards import contents_in_shards  # which needs `content_digest`

    cache, began, base = _read_cache(root), time.time_ns(), str(root)
    found = contents_in_shards(base, names)
    known: dict[str, Entry] = {}
    for name in names:
        path = f"{base}/{name}"
        if name in found:
            continue
        try:
            times = _times(path)
            if times is None:
                continue
            entry = cache.get(name)
            if entry is None or entry[:3] != times:
                with open_regular(path) as file:
                    entry = [*times, content_digest(file.read())]
        except (OSError, BadInput):
            continue
        found[name] = entry[3]
        known[name] = entry
    _write_cache(root, known, cache, began)
    return found


def remember(root: Path, contents: Mapping[str, str], began: int) -> None:
    """Add the digests of files that were read after `began` (`time.time_ns()`) to the cache.

    Small files are left out: asking each for its times, and writing them down, takes as long as reading it again.
    """
    if sum(int(digest.partition("-")[0]) for digest in contents.values()) < LEAST_BYTES:
        return
    base = str(root)
    known: dict[str, Entry] = {}
    for name, digest in contents.items():
        try:
            times = _times(f"{base}/{name}")
        except OSError:
            continue
        if times is not None:
            known[name] = [*times, digest]
    _write_cache(root, known, {}, began)


def _times(path: str) -> Times | None:
    """Return size and times of a regular file; None for anything else, whose reading might never end."""
    status = os.stat(path)  # noqa: PTH116 - a Path for each file takes longer
    if status.st_mode & 0o170000 != 0o100000:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _cache_file(root: Path) -> Path:
    return cache_folder() / "contents" / f"{xxh3_128_hexdigest(os.fsencode(root.resolve()))}.json"


def _read_cache(root: Path) -> dict[str, Entry]:
    """Return the cached digests by name; none if there is no cache, or if it cannot be read."""
    try:
        stored: dict[str, Entry] = json.loads(read_regular(_cache_file(root)).decode())
        is_sound = all(type(entry) is list and list(map(type, entry)) == _ENTRY for entry in stored.values())
        return stored if is_sound else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_cache(root: Path, known: Mapping[str, Entry], before: Mapping[str, Entry], began: int) -> None:
    """Write the digests of files that had not changed for a while when their reading began, if they are worth it."""
    if all(before.get(name) is entry for name, entry in known.items()):  # none was read
        return
    settled = {name: entry for name, entry in known.items() if max(entry[1:3]) < began - SETTLED}
    is_large = len(settled) >= LEAST_FILES or _bytes(settled.values()) >= LEAST_BYTES
    if not is_large or all(before.get(name) == entry for name, entry in settled.items()):
        return
    try:
        file = _cache_file(root)
        file.parent.mkdir(exist_ok=True)
        write_text(file, json.dumps({**before, **settled}))
    except (DiskTrouble, OSError):  # without a cache the files are read again
        return


def _bytes(entries: Iterable[Entry]) -> int:
    return sum(entry[0] for entry in entries)
