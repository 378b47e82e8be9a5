"""Pack a folder of images into shards: splits and classes stay, and each shard is a random sample of its split."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnetlab.data.decode import read_bytes
from resnetlab.data.folder import Files, Listing, scan
from resnetlab.data.random import RandomTables
from resnetlab.data.shard_index import INDEX_SUFFIX, index_of, read_index
from resnetlab.data.shard_layout import Member
from resnetlab.data.shard_list import is_shards
from resnetlab.data.shards import SUFFIX, split_path, write_shard
from resnetlab.data.tree import require_outside, sentences
from resnetlab.errors import BadInput, printable
from resnetlab.files import as_path

IMAGES_PER_SHARD = 1000

_OVERHEAD = 5 * 512  # bytes of a sample beside its image: three headers, and two labels of a block each

log = logging.getLogger(__name__)


def pack(
    source: str | Path, out: str | Path, *, images_per_shard: int = IMAGES_PER_SHARD, seed: int = 0
) -> Iterator[Path]:
    """Write the images of a folder, a table or a named set of image files into shards; yield each when it is complete.

    The bytes of an image are copied as they are. The shards of a split are called `train-00003-of-00010.tar`; those of
    images without splits begin with `images`. The images of a split are divided at random, by `seed`, into shards whose
    sizes differ by one image at most. Each shard and its index are written whole or not at all. What an earlier call
    with the same arguments has completed is left as it is, unless one of its images has changed since.

    Raises BadInput for images that cannot be trained on or read, and for an `out` that has other files or lies in the
    folder of the images.

    >>> for shard in pack("photos", "shards"):  # doctest: +SKIP
    ...     print(shard)
    """
    if images_per_shard < 1:
        raise BadInput(f"`images_per_shard` is {images_per_shard}, but must be 1 or more")
    if is_shards(source):
        raise BadInput(f"{printable(source)} has shards already; give a folder of images")
    folder = as_path(out, "out")
    require_outside(folder, str(source))
    listing = scan(source)
    _require_files(listing)
    plan = _plan(listing, images_per_shard, seed)
    _prepare(folder, plan)
    for note in (*sentences(listing.skipped), *_note_on_groups(listing)):
        log.info("note: %s", note)
    return _write(folder, listing, plan)


def _require_files(listing: Listing) -> None:
    """Raise BadInput for a table that lists images in shards, which are packed already."""
    for files in filter(None, (listing.train, listing.val, listing.test)):
        for name in files.names:
            if SUFFIX + "/" in name and split_path(f"{listing.root}/{name}") is not None:
                raise BadInput(f"{printable(name)} is in a shard already; give a table of image files")


def _note_on_groups(listing: Listing) -> tuple[str, ...]:
    """Return a sentence if a table has groups that splits drawn from the shards would not keep together."""
    missing = [part for part, files in (("test", listing.test), ("val", listing.val)) if files is None]
    if listing.train.groups is None or not missing:
        return ()
    return (
        f"shards hold no groups, and the images have no {' and no '.join(missing)} split: a split that is drawn from "
        "the shards may have images of one group on both sides; give the table a column split, or train on the shards "
        "with a regular expression for the groups (data.group_by)",
    )


def _plan(listing: Listing, images_per_shard: int, seed: int) -> dict[str, Files]:
    """Return the images of each shard by its file name."""
    is_split = listing.val is not None or listing.test is not None or listing.layout != "classes"
    parts = {"train" if is_split else "images": listing.train, "val": listing.val, "test": listing.test}
    plan = {}
    for part, files in parts.items():
        if files is None:
            continue
        count = -(-len(files) // images_per_shard)
        order = RandomTables(seed, 0, len(files)).generator(f"pack {part}").permutation(len(files))
        for number, rows in enumerate(np.array_split(order, count)):
            plan[f"{part}-{number:05d}-of-{count:05d}{SUFFIX}"] = files.subset(rows)
    return plan


def _prepare(folder: Path, plan: dict[str, Files]) -> None:
    """Create the folder, or require that it has only shards of the plan; remove what a killed call has left."""
    folder.mkdir(parents=True, exist_ok=True)
    others = []
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".tmp") and path.name.startswith("."):
            path.unlink()
        elif path.name.removesuffix(INDEX_SUFFIX) not in plan:
            others.append(path.name)
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise BadInput(f"{printable(folder)} has other files ({printable(others[0])}{more}); give a new folder")


def _write(folder: Path, listing: Listing, plan: dict[str, Files]) -> Iterator[Path]:
    for name, files in plan.items():
        path = folder / name
        labels = [listing.classes[label] for label in files.labels.tolist()]
        found = [os.stat(listing.root / image) for image in files.names]  # noqa: PTH116
        sizes = [status.st_size for status in found]
        newest = max(status.st_mtime_ns for status in found)
        if not _is_complete(path, files, labels, sizes, newest):
            members = (
                (Member(image, label, number), read_bytes(listing.root / image))
                for image, label, number in zip(files.names, labels, files.labels.tolist(), strict=True)
            )
            write_shard(path, members, sum(sizes) + len(files) * _OVERHEAD)
        yield path


def _is_complete(path: Path, files: Files, labels: list[str], sizes: list[int], newest: int) -> bool:
    """Return True for a shard that has exactly these images, by name, class and size, and none that changed after it.

    `newest` is the latest time at which one of them changed, in ns.
    """
    if not path.exists() or not index_of(path).exists() or path.stat().st_mtime_ns < newest:
        return False
    try:
        samples = read_index(path).samples
    except BadInput:
        return False
    return [(s.name, s.label, s.size) for s in samples] == list(zip(files.names, labels, sizes, strict=True))
