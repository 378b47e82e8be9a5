"""Shards: tar files of labelled images in WebDataset's layout, read by an index and never unpacked.

A sample is one or more members with the same key, which is their path up to the first dot of the file name: the image
(`0001.jpg`), and its class as text (`0001.cls`) or in JSON (`0001.json`). In a shard without such labels, as in a
folder of classes that was packed by `tar`, each image is a sample of the class that its folder names.

The index beside a shard has the name, class, offset, size and content digest of every sample. It is made once, by
reading the shard from end to end. An image is then read by its offset and compared with its digest. The path of an
image in a shard is that of the shard, followed by the image's name: `shards/000.tar/cat/1.jpg`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from resnetlab.data.classes import counted
from resnetlab.data.digests import content_digest
from resnetlab.data.remote import is_remote, opened, read_range, read_small, size_of
from resnetlab.data.tree import SUFFIXES, skipped_by_name
from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable
from resnetlab.files import cache_folder, open_regular, read_regular, read_whole, replacing, write_text

SUFFIX = ".tar"
INDEX_SUFFIX = ".index.json"
SLOW = 10.0
"""Seconds for one image, or for each 100 MB of a shard, after which a shard is named as slow."""

_FORMAT = "resnetlab shard index, version 1"
_LABEL_KEYS = ("class", "class_name", "label_name", "label", "cls", "category")
_MOST_LABEL_BYTES = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")  # gzip, zstd, xz, bzip2
_DIGEST = re.compile(r"\d+-[0-9a-f]{32}")
_BLOCK = 512  # bytes; a tar file consists of such blocks

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """An image in a shard: its name and class, its place in bytes, and the digest of its content."""

    name: str
    label: str
    offset: int
    size: int
    content: str


class Member(NamedTuple):
    """A sample as it is written: its name, its class, and the number of the class."""

    name: str
    label: str
    number: int


def write_shard(path: Path, members: Iterable[tuple[Member, bytes]], size: int) -> int:
    """Write a shard and its index, each whole or not at all; return the number of samples.

    The key of a sample is its number in the shard, so that keys are unique and have no dots. `size` are the bytes that
    are needed, for the message if the disk is full. Raises DiskTrouble.
    """
    samples = []
    index_of(path).unlink(missing_ok=True)  # of an older shard of that name
    with replacing(path, size) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for number, (member, content) in enumerate(members):
                key = f"{path.stem}/{number:08d}"
                facts = {"class": member.label, "file": member.name}
                suffix = os.path.splitext(member.name)[1].lower()  # noqa: PTH122
                offset = _add(archive, f"{key}{suffix}", content)
                _add(archive, f"{key}.cls", str(member.number).encode())
                _add(archive, f"{key}.json", json.dumps(facts).encode())
                samples.append(Sample(member.name, member.label, offset, len(content), content_digest(content)))
        total = file.tell()
    _write_index(index_of(path), total, samples, 0)
    return len(samples)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member with neutral owner and time, so that equal data gives equal bytes; return its offset."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
    archive.members.clear()  # type: ignore[attr-defined]  # they would be kept until the archive is closed
    return archive.offset - -(-len(content) // _BLOCK) * _BLOCK


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
    _note_slow(shard, time.monotonic() - began, len(content))
    if xxh3_128_hexdigest(content) != digest:
        raise _disagrees(shard, name)
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
    than its index is read again, unless one `trusts` it: the images must be the same, but may have other classes.

    Raises BadInput for a shard that is missing, and Damaged for one that ends early, is no tar file, or has other
    images than its index.
    """
    path = os.fspath(shard)
    if is_remote(path):
        return _read_remote_index(path)
    before: Index | None = None
    with io.BufferedReader(open_regular(path), 1 << 20) as file:
        status = os.fstat(file.fileno())
        size, written = status.st_size, status.st_mtime_ns
        for place in (index_of(path), _cached_index(path)):
            if (known := _load_index(place, size)) is not None:
                if trusts or _time_of(place) >= written:
                    return known
                before = before or known
        began = time.monotonic()
        index = _scan(path, file, size)
    _note_slow(path, time.monotonic() - began, size)
    if before is not None:
        _require_same_images(path, before, index)
    try:
        _write_index(index_of(path), size, index.samples, index.skipped, written)
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
            raise _disagrees(path, sample.name)
        others += same.label != sample.label
    if others:
        which = counted(others, "image")
        log.warning("%s has %s in another class than its index, which is made again", printable(path), which)


def _disagrees(shard: str, name: str) -> Damaged:
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
    if known is None and (known := _load_index(_cached_index(path), size)) is None:
        began = time.monotonic()
        with opened(path) as file:
            known = _scan(path, file, size)
        _note_slow(path, time.monotonic() - began, size)
        _write_cached_index(path, size, known)
    return known


def _write_cached_index(path: str, size: int, index: Index, since: int = 0) -> None:
    with suppress(OSError):  # without an index the shard is read again
        place = _cached_index(path)
        place.parent.mkdir(exist_ok=True)
        _write_index(place, size, index.samples, index.skipped, since)


def _note_slow(shard: str, seconds: float, size: int) -> None:
    if seconds > SLOW * max(1.0, size / 1e8):
        log.warning("%s is slow: reading %s bytes took %.0f s", printable(shard), f"{size:,}", seconds)


def _cached_index(shard: str) -> Path:
    return cache_folder() / "shards" / f"{xxh3_128_hexdigest(os.fsencode(os.path.realpath(shard)))}{INDEX_SUFFIX}"


def _found_index(shard: str) -> Path:
    beside = index_of(shard)
    return beside if beside.exists() else _cached_index(shard)


def _write_index(path: Path, size: int, samples: Sequence[Sample], skipped: int, since: int = 0) -> None:
    """Write an index. It is not older than `since`, the time of its shard in ns, whatever the clock says."""
    text = json.dumps({"format": _FORMAT, "size": size, "skipped": skipped, "samples": samples}, separators=(",", ":"))
    write_text(path, text + "\n")
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
    is_sound = all(_is_sound(sample, size) for sample in samples)
    return Index(samples, skipped) if is_sound and len({s.name for s in samples}) == len(samples) else None


def _is_sound(sample: Sample, size: int) -> bool:
    """Return True for a sample that can be in a shard of `size` bytes."""
    is_there = sample.offset >= 0 and 0 < sample.size <= size - sample.offset
    return (
        is_there
        and _is_inside(sample.name)
        and _is_class(sample.label)
        and _DIGEST.fullmatch(sample.content) is not None
    )


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


def _scan(shard: str, file: IO[bytes], size: int) -> Index:
    """Read a whole shard and return its index."""
    shown = printable(shard)
    if not size:
        raise Damaged(f"{shown} is an empty file; use another copy")
    if file.read(8).startswith(_COMPRESSED):
        raise BadInput(
            f"{shown} is compressed; images are read by their place in a shard: unpack it to a plain tar file"
        )
    file.seek(0)
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, bytes] = {}
    skipped = 0
    with _reading(shown), tarfile.open(fileobj=file, mode="r:") as archive:
        for name, info in _regular_members(archive, shown):
            kind = _suffix(name)
            if name in images or name in labels:
                raise BadInput(f"{shown} has {printable(name)} twice; pack it again, with each name once")
            if _is_skipped(name):
                skipped += 1
            elif kind in (".cls", ".json"):
                labels[name] = _content(file, info, shown, most=_MOST_LABEL_BYTES)
            elif kind in SUFFIXES:
                images[name] = info.offset_data, info.size, content_digest(_content(file, info, shown))
            else:
                skipped += 1
        file.seek(archive.offset)
        if len(end := file.read(_BLOCK)) < _BLOCK or end.strip(b"\0"):
            raise _truncated(shown)
    return Index(_samples(shown, images, labels), skipped)


@contextmanager
def _reading(shown: str) -> Iterator[None]:
    """Raise every error of reading a tar file as BadInput with the name of the shard."""
    try:
        yield
    except BadInput:
        raise
    except tarfile.ReadError as error:
        if any(words in str(error) for words in ("unexpected end", "truncated")):
            raise _truncated(shown) from error
        raise Damaged(f"{shown} is not a tar file ({printable(error)}); use another copy") from error
    except OSError as error:
        raise BadInput(f"{shown} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # parsers of hostile files can raise anything
        raise Damaged(f"{shown} cannot be read as a tar file: {printable(error) or type(error).__name__}") from error


def _regular_members(archive: tarfile.TarFile, shown: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the names and headers of files, without folders. Raises BadInput for links and devices."""
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # they would be kept until the archive is closed
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise BadInput(f"{shown} has {printable(info.name)}, which is no file but a link or a device")
        yield _inside(info.name, shown), info


def _truncated(shown: str) -> Damaged:
    return Damaged(f"{shown} is truncated or damaged: it ends without the mark at the end of a tar file; copy it again")


def _content(file: IO[bytes], info: tarfile.TarInfo, shown: str, most: int | None = None) -> bytes:
    if most is not None and info.size > most:
        raise BadInput(f"{shown}: {printable(info.name)} is too large for a label, {info.size:,} bytes")
    file.seek(info.offset_data)
    content = file.read(info.size)
    if len(content) < info.size:
        raise _truncated(shown)
    if not content:
        raise BadInput(f"{shown}: {printable(info.name)} is empty; pack the shard again without it")
    return content


def _samples(
    shown: str, members: Mapping[str, tuple[int, int, str]], labels: Mapping[str, bytes]
) -> tuple[Sample, ...]:
    """Join images and labels to samples, in the order of the images."""
    if not labels:  # a folder of classes
        found = []
        for name, (offset, size, content) in members.items():
            label = name.rpartition("/")[0].rpartition("/")[2]
            if not label:
                raise BadInput(
                    f"{shown}: {printable(name)} has no label; each image needs a .cls or .json member of the same "
                    "key, or a folder that names its class"
                )
            found.append(Sample(name, label, offset, size, content))
        return tuple(found)
    fields: dict[str, dict[str, bytes]] = {}
    for name, text in labels.items():
        fields.setdefault(_key(name), {})[_suffix(name)] = text
    samples: dict[str, Sample] = {}
    names: set[str] = set()
    for member, (offset, size, digest) in members.items():
        key = _key(member)
        if key in samples:
            raise BadInput(f"{shown} has the key {printable(key)} twice; a sample is one image and its label")
        label, original = _label(shown, key, fields.get(key, {}))
        name = original or member
        if name in names:
            raise BadInput(f"{shown} has two samples of the file {printable(name)}; pack it again, with each once")
        names.add(name)
        samples[key] = Sample(name, label, offset, size, digest)
    return tuple(samples.values())


def _label(shown: str, key: str, fields: Mapping[str, bytes]) -> tuple[str, str | None]:
    """Return the class of a sample and, if it is known, the name of its file before it was packed.

    The class is a text in .json, else .cls, else a number in .json.
    """
    what = f"{shown}: the label of {printable(key)}"
    facts: Any = {}
    if ".json" in fields:
        try:
            facts = json.loads(fields[".json"])
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{what} is no JSON that can be read: {printable(error)}") from error
    given = [facts[name] for name in _LABEL_KEYS if name in facts] if isinstance(facts, dict) else [facts]
    texts = [value for value in given if isinstance(value, str)]
    numbers = [str(value) for value in given if isinstance(value, int) and not isinstance(value, bool)]
    try:
        written = [fields[".cls"].decode().strip()] if ".cls" in fields else []
    except UnicodeDecodeError as error:
        raise BadInput(f"{what} is not UTF-8 text; the class is its number or its name") from error
    found = [*texts, *written, *numbers]
    if not found:
        keys = ", ".join(_LABEL_KEYS)
        raise BadInput(f"{what} is missing; each image needs a .cls member, or a .json member with one of {keys}")
    if not _is_class(found[0]):
        raise BadInput(f"{what} is {printable(found[0])!r}, which cannot be the name of a class")
    original = facts.get("file") if isinstance(facts, dict) else None
    is_name = isinstance(original, str) and _is_inside(original) and _suffix(original) in SUFFIXES
    return found[0], original if is_name else None


def _is_class(name: str) -> bool:
    return bool(name.strip()) and name not in (".", "..") and not {"/", "\0"} & set(name) and len(name) <= 255


def _inside(name: str, shown: str) -> str:
    """Return the name of a member without a leading "./". Raises BadInput for one that leads out of the shard."""
    plain = name
    while plain.startswith("./"):
        plain = plain[2:]
    if not _is_inside(plain):
        raise BadInput(f"{shown} has a member named {printable(name)}, which leads out of it; pack it again without it")
    return plain


def _is_skipped(name: str) -> bool:
    """Return True for a member that is hidden or of the system, or in such a folder, as in a folder of images."""
    *folders, file = name.split("/")
    return any(skipped_by_name(folder, is_folder=True) for folder in folders) or bool(
        skipped_by_name(file, is_folder=False)
    )


def _is_inside(name: str) -> bool:
    return bool(name) and "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def _key(name: str) -> str:
    """Return the part of a member's name that all members of a sample share."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _suffix(name: str) -> str:
    """Return the last suffix of a member's name, in lower case."""
    dot, suffix = name.rpartition("/")[2].rpartition(".")[1:]
    return (dot + suffix).lower()
