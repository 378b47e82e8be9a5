"""The layout of a shard: samples in a tar file as WebDataset has them, or a folder of classes as `tar` packs it.

A sample is one or more members with the same key, which is their path up to the first dot of the file name: the image
(`0001.jpg`), and its class as text (`0001.cls`) or in JSON (`0001.json`). In a shard without such labels, as in a
folder of classes that was packed by `tar`, each image is a sample of the class that its folder names.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from resnetlab.data.digests import content_digest
from resnetlab.data.tree import SUFFIXES, skipped_by_name
from resnetlab.errors import BadInput, Damaged, printable

_LABEL_KEYS = ("class", "class_name", "label_name", "label", "cls", "category")
_MOST_LABEL_BYTES = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")  # gzip, zstd, xz, bzip2
_DIGEST = re.compile(r"\d+-[0-9a-f]{32}")
_BLOCK = 512  # bytes; a tar file consists of such blocks


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


def write_samples(file: IO[bytes], folder: str, members: Iterable[tuple[Member, bytes]]) -> list[Sample]:
    """Write a tar file of samples into an open file; return them.

    The key of a sample is `folder` and its number, so that keys are unique and have no dots.
    """
    samples = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, (member, content) in enumerate(members):
            key = f"{folder}/{number:08d}"
            facts = {"class": member.label, "file": member.name}
            suffix = os.path.splitext(member.name)[1].lower()  # noqa: PTH122
            offset = _add(archive, f"{key}{suffix}", content)
            _add(archive, f"{key}.cls", str(member.number).encode())
            _add(archive, f"{key}.json", json.dumps(facts).encode())
            samples.append(Sample(member.name, member.label, offset, len(content), content_digest(content)))
    return samples


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member with neutral owner and time, so that equal data gives equal bytes; return its offset."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
    archive.members.clear()  # type: ignore[attr-defined]  # they would be kept until the archive is closed
    return archive.offset - -(-len(content) // _BLOCK) * _BLOCK


def read_samples(shard: str, file: IO[bytes], size: int) -> tuple[tuple[Sample, ...], int]:
    """Read a whole tar file of `size` bytes; return its samples, and the number of members that belong to none.

    `shard` is its name for messages. Raises BadInput for a sample that cannot be used, and Damaged for a file that ends
    early or is no tar file.
    """
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
    return _samples(shown, images, labels), skipped


def is_sound(sample: Sample, size: int) -> bool:
    """Return True for a sample that can be in a shard of `size` bytes."""
    is_there = sample.offset >= 0 and 0 < sample.size <= size - sample.offset
    return (
        is_there
        and _is_inside(sample.name)
        and _is_class(sample.label)
        and _DIGEST.fullmatch(sample.content) is not None
    )


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
