"""The index of a shard: made once, by reading the shard from end to end, and stored beside it or in the cache folder.

It has the name, class, offset, size and content digest of every sample.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from xxhash import xxh3_128_hexdigest

from resnetlab.data.classes import counted
from resnetlab.data.remote import is_remote, opened, read_small, size_of
from resnetlab.data.shard_layout import Sample, is_sound, read_samples
from resnetlab.errors import Damaged, DiskTrouble, printable
from resnetlab.files import cache_folder, locked, open_regular, read_regular, write_text

INDEX_SUFFIX = ".index.json"
SLOW = 10.0
"""Seconds for one image, or for each 100 MB of a shard, after which a shard is named as slow."""

_FORMAT = "resnetlab shard index, version 1"

log = logging.getLogger(__name__)


class Index(NamedTuple):
    """The samples of a shard in their order, and the number of members that belong to none."""

    samples: tuple[Sample, ...]
    skipped: int


def index_of(shard: str | Path) -> Path:
    """Return the path of the index beside a shard."""
    return Path(f"{os.fspath(shard)}{INDEX_SUFFIX}")


def read_index(shard: str | Path, *, trusts: bool = False) -> Index:
    """Return the index of a shard; make it if there is none, or if the size of the shard is another than it was.

    It is written beside the shard or, where that is not allowed, into the cache folder. A shard that was written later
    than its index is read again, unless one `trusts` it: the images must be the same, but may have other classes. Of
    several processes of a machine that need an index, one makes it, and the others wait.

    Raises BadInput for a shard that is missing, and Damaged for one that ends early, is no tar file, or has other
    images than its index.
    """
    path = os.fspath(shard)
    if is_remote(path):
        return _read_remote_index(path)
    with io.BufferedReader(open_regular(path), 1 << 20) as file:
        status = os.fstat(file.fileno())
        size, written = status.st_size, None if trusts else status.st_mtime_ns
        known, _ = _known_index(path, size, written)
        if known is not None:
            return known
        with _one_at_a_time(path):
            known, before = _known_index(path, size, written)
            return _made_index(path, file, status, before) if known is None else known


def _known_index(path: str, size: int, written: int | None) -> tuple[Index | None, Index | None]:
    """Return the stored index of a shard, if it is not older than `written` (ns), and the first one that is older."""
    before: Index | None = None
    for place in (index_of(path), _cached_index(path)):
        if (known := _load_index(place, size)) is not None:
            if written is None or _time_of(place) >= written:
                return known, before
            before = before or known
    return None, before


@contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Let one process of this machine at a time make the index of a shard; the others then find it."""
    lock = _cached_index(path).with_suffix(".lock")
    with ExitStack() as stack:
        with suppress(OSError):  # a cache folder that cannot be written: each makes its own
            lock.parent.mkdir(exist_ok=True)
            stack.enter_context(locked(lock))
        try:
            yield
        finally:
            with suppress(OSError):  # who waits for it finds the index
                lock.unlink()


def _made_index(path: str, file: IO[bytes], status: os.stat_result, before: Index | None) -> Index:
    """Make the index of a shard, which replaces the one `before`, and store it."""
    began, size, written = time.monotonic(), status.st_size, status.st_mtime_ns
    index = Index(*read_samples(path, file, size))
    note_slow(path, time.monotonic() - began, size)
    if before is not None:
        _require_same_images(path, before, index)
    try:
        write_index(index_of(path), size, index, written)
    except DiskTrouble:
        _write_cached_index(path, size, index, written)
    return index


def _require_same_images(path: str, before: Index, now: Index) -> None:
    """Raise Damaged unless a shard has the images of its index; log how many have other classes."""
    found = {sample.name: sample for sample in now.samples}
    others = 0
    for sample in before.samples:
        same = found.get(sample.name)
        if same is None or same._replace(label=sample.label) != sample:
            raise disagrees(path, sample.name)
        others += same.label != sample.label
    if others:
        which = counted(others, "image")
        log.warning("%s has %s in another class than its index, which is made again", printable(path), which)


def disagrees(shard: str, name: str) -> Damaged:
    """Return the error for an image whose bytes in a shard are not those of the index."""
    return Damaged(
        f"{printable(shard)} does not agree with its index: {printable(name)} has other bytes; if the shard was "
        f"replaced, remove {printable(_found_index(shard))}, so that it is made again; else use another copy"
    )


def _time_of(place: Path) -> int:
    """Return the time of the last change of a file, ns; 0 if it is gone."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return 0


def _read_remote_index(path: str) -> Index:
    """Return the index beside a shard elsewhere, or that in the cache folder, which is made if it is missing."""
    size = size_of(path)
    content = read_small(f"{path}{INDEX_SUFFIX}")
    known = None if content is None else _parse_index(content, size)
    if known is None:
        known = _load_index(_cached_index(path), size)
    if known is not None:
        return known
    with _one_at_a_time(path):
        if (known := _load_index(_cached_index(path), size)) is None:
            began = time.monotonic()
            with opened(path) as file:
                known = Index(*read_samples(path, file, size))
            note_slow(path, time.monotonic() - began, size)
            _write_cached_index(path, size, known)
        return known


def _write_cached_index(path: str, size: int, index: Index, since: int = 0) -> None:
    with suppress(OSError):  # without an index the shard is read again
        place = _cached_index(path)
        place.parent.mkdir(exist_ok=True)
        write_index(place, size, index, since)


def note_slow(shard: str, seconds: float, size: int) -> None:
    """Log a shard of which `size` bytes took longer than `SLOW` to read."""
    if seconds > SLOW * max(1.0, size / 1e8):
        log.warning("%s is slow: reading %s bytes took %.0f s", printable(shard), f"{size:,}", seconds)


def _cached_index(shard: str) -> Path:
    return cache_folder() / "shards" / f"{xxh3_128_hexdigest(os.fsencode(os.path.realpath(shard)))}{INDEX_SUFFIX}"


def _found_index(shard: str) -> Path:
    beside = index_of(shard)
    return beside if beside.exists() else _cached_index(shard)


def write_index(path: Path, size: int, index: Index, since: int = 0) -> None:
    """Write the index of a shard of `size` bytes.

    It is not older than `since`, the time of the shard in ns, whatever the clock says. Raises DiskTrouble.
    """
    stored = {"format": _FORMAT, "size": size, "skipped": index.skipped, "samples": index.samples}
    write_text(path, json.dumps(stored, separators=(",", ":")) + "\n")
    if _time_of(path) < since:
        with suppress(OSError):  # then the shard is read again the next time
            os.utime(path, ns=(since, since))


def _load_index(path: Path, size: int) -> Index | None:
    """Return a stored index; None if there is none, if it is damaged, or if it is that of a shard of another size."""
    try:
        content = read_regular(path)
    except OSError:
        return None
    return _parse_index(content, size)


def _parse_index(content: bytes, size: int) -> Index | None:
    try:
        stored = json.loads(content)
        if stored["format"] != _FORMAT or stored["size"] != size:
            return None
        samples = tuple(Sample(str(n), str(c), int(o), int(s), str(d)) for n, c, o, s, d in stored["samples"])
        skipped = int(stored["skipped"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    are_sound = all(is_sound(sample, size) for sample in samples)
    return Index(samples, skipped) if are_sound and len({s.name for s in samples}) == len(samples) else None
