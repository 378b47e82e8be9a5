"""Shards: tar files of labelled images, written with their index and read by it, never unpacked.

The path of an image in a shard is that of the shard, followed by the image's name: `shards/000.tar/cat/1.jpg`. The
image is read by its offset in the index, and compared with its digest.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from resnetlab.data.remote import is_remote, read_range
from resnetlab.data.shard_index import Index, disagrees, index_of, note_slow, read_index, write_index
from resnetlab.data.shard_layout import Member, Sample, write_samples
from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular, read_whole, replacing

SUFFIX = ".tar"


def write_shard(path: Path, members: Iterable[tuple[Member, bytes]], size: int) -> int:
    """Write a shard and its index, each whole or not at all; return the number of samples.

    `size` are the bytes that are needed, for the message if the disk is full. Raises DiskTrouble.
    """
    index_of(path).unlink(missing_ok=True)  # of an older shard of that name
    with replacing(path, size) as file:
        samples = write_samples(file, path.stem, members)
        total = file.tell()
    write_index(index_of(path), total, Index(tuple(samples), 0))
    return len(samples)


def split_path(path: str) -> tuple[str, str] | None:
    """Return the shard and the name of an image in it; None for a path that leads into no shard.

    >>> split_path("shards/000.tar/cat/1.jpg"), split_path("cat/1.jpg")
    (('shards/000.tar', 'cat/1.jpg'), None)
    """
    end = path.find(SUFFIX + "/")
    while end >= 0:
        shard = path[: end + len(SUFFIX)]
        if not os.path.isdir(shard):  # noqa: PTH112 - called for each image; a folder may have such a name
            return shard, path[end + len(SUFFIX) + 1 :]
        end = path.find(SUFFIX + "/", end + 1)
    return None


def open_image(path: str | Path, *, name: str | None = None) -> io.FileIO | io.BytesIO:
    """Open an image for reading: a regular file, or an image in a shard. Raises BadInput as `open_regular` does."""
    parts = split_path(os.fspath(path))
    return open_regular(path, name=name) if parts is None else io.BytesIO(read_member(*parts))


def read_image_file(path: str | Path, *, name: str | None = None) -> bytes:
    """Return the bytes of an image, a regular file or in a shard.

    Raises BadInput as `open_image` does, and OSError if the file cannot be read to its end.
    """
    parts = split_path(os.fspath(path))
    return read_whole(path, name=name) if parts is None else read_member(*parts)


def read_member(shard: str, name: str) -> bytes:
    """Return the bytes of an image in a shard.

    Raises BadInput, naming the shard, if it is missing, has no such image, or does not agree with its index.
    """
    began = time.monotonic()
    if is_remote(shard):
        offset, size, digest = _find(shard, name, _places(shard, ()))
        content = read_range(shard, offset, size)
    else:
        with io.BufferedReader(open_regular(shard)) as file:
            status = os.fstat(file.fileno())
            identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            offset, size, digest = _find(shard, name, _places(shard, identity))
            try:
                file.seek(offset)
                content = file.read(size)
            except OSError as error:
                raise BadInput(f"{printable(shard)} cannot be read: {error.strerror or error}") from error
    note_slow(shard, time.monotonic() - began, len(content))
    if xxh3_128_hexdigest(content) != digest:
        raise disagrees(shard, name)
    return content


def _find(shard: str, name: str, places: _Places) -> tuple[int, int, str]:
    found = places.find(name)
    if found is None:
        raise BadInput(f"{printable(shard)} has no image named {printable(name)}")
    return found


def contents_in_shards(base: str, names: Iterable[str]) -> dict[str, str]:
    """Return the content digests of those names below `base` that are in shards, by their indexes."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if SUFFIX + "/" in name and (parts := split_path(f"{base}/{name}")) is not None:
            wanted.setdefault(parts[0], []).append((name, parts[1]))
    found = {}
    for shard, inside in wanted.items():
        with suppress(BadInput):  # as for a file that cannot be read
            known = {sample.name: sample.content for sample in read_index(shard).samples}
            found.update({name: known[member] for name, member in inside if member in known})
    return found


class _Places:
    """The samples of a shard for reading: 40 bytes for each, because all shards of a large set stay open."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        hashes = np.array([_hash(sample.name) for sample in samples], dtype=np.uint64)
        order = np.argsort(hashes)
        self.hashes = hashes[order]
        self.ranges = np.array([(sample.offset, sample.size) for sample in samples], dtype=np.int64)[order]
        digests = b"".join(bytes.fromhex(sample.content.partition("-")[2]) for sample in samples)
        self.digests = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)[order]

    def find(self, name: str) -> tuple[int, int, str] | None:
        """Return offset, size and digest of a sample."""
        wanted = np.uint64(_hash(name))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            return None
        offset, size = self.ranges[place].tolist()
        return offset, size, self.digests[place].tobytes().hex()


def _hash(name: str) -> int:
    return int(xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")))


@cache
def _places(shard: str, identity: tuple[int, ...]) -> _Places:  # noqa: ARG001 - a shard that was replaced has another
    return _Places(read_index(shard, trusts=True).samples)
