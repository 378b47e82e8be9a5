"""List the images of many shards by split and class: the shards of a folder, or those that a pattern names."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from resnetlab.data.classes import counted, shortened
from resnetlab.data.remote import is_remote, matching
from resnetlab.data.shard_index import index_of, read_index
from resnetlab.data.shards import SUFFIX
from resnetlab.data.words import part_of
from resnetlab.distributed import from_environment
from resnetlab.errors import BadInput, printable

MOST_SHARDS = 1_000_000
"""Shards that one pattern may name."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = re.compile(r"[*?[]")
_OF = re.compile(r"(.*)-(\d+)-of-(\d+)")
_LONG = 10**9  # bytes of shards without an index, whose reading is announced

log = logging.getLogger(__name__)

Parts = dict[str | None, dict[str, list[str]]]
"""The images of each class, for each split, or for None where the names of the shards have no splits."""


def is_shards(source: str | os.PathLike[str]) -> bool:
    """Return True for the path of a shard, a pattern of shards, or a folder that has shards and no other folder.

    >>> is_shards("shards/{000..099}.tar"), is_shards("shards/train-*.tar"), is_shards("photos")
    (True, True, False)
    """
    text = os.fspath(source)
    if not os.path.isdir(text):  # noqa: PTH112 - Path raises for a null character
        return text.endswith(SUFFIX)
    try:
        with os.scandir(text) as listed:
            entries = [entry for entry in listed if not entry.name.startswith(".")]
            return any(entry.name.endswith(SUFFIX) for entry in entries) and not any(map(os.DirEntry.is_dir, entries))
    except OSError:
        return False


def shards_in(source: str | os.PathLike[str]) -> list[Path]:
    """Return the shards of a folder, in the order of their names, or those that a pattern names, in its order.

    In a pattern, `{000..099}` and `{a,b}` stand for each of their values, and `*`, `?` and `[…]` for what exists.

    Raises BadInput if there are none, if one that is named does not exist, or if one is named twice. Of shards that are
    called `…-00003-of-00010.tar` all must exist, except for those that braces leave out.
    """
    text = os.fspath(source)
    if is_remote(text):
        return _shards_elsewhere(text)
    if os.path.isdir(text):  # noqa: PTH112
        found = sorted(path for path in Path(text).iterdir() if path.suffix == SUFFIX and path.name[0] != ".")
        _require_all(found, printable(text))
        return found
    shown = printable(text)
    names = [text] if os.path.lexists(text) else list(_expanded(text, shown))
    paths: list[str] = []
    for name in names:
        paths += _existing(name) if _WILD.search(name) and not os.path.lexists(name) else [name]
    if not paths:
        raise BadInput(f"no shard matches {shown}; give the paths of tar files, such as 'shards/{{000..099}}.tar'")
    if missing := [name for name in paths if not os.path.lexists(name)]:
        which = shortened([Path(name).name for name in missing], 3)
        raise BadInput(f"{counted(len(missing), 'shard')} of {len(paths):,} in {shown} not found: {which}")
    if len(set(paths)) < len(paths):
        twice = next(name for name in paths if paths.count(name) > 1)
        raise BadInput(f"{shown} names {printable(twice)} twice; name each shard once")
    if len(names) == 1:
        _require_all(list(map(Path, paths)), shown)
    return list(map(Path, paths))


def _existing(pattern: str) -> list[str]:
    """Return the paths that match a pattern, sorted; a folder that exists under such a name is meant as it is."""
    parts = Path(pattern).parts
    for place, part in enumerate(parts):
        if _WILD.search(part) and not os.path.lexists(Path(*parts[: place + 1])):
            start = glob.escape(str(Path(*parts[:place]))) if place else ""
            return sorted(glob.glob(os.path.join(start, *parts[place:])))  # noqa: PTH207, PTH118 - text
    return [pattern]


def _shards_elsewhere(pattern: str) -> list[Path]:
    """Return the shards that an address with braces or wild cards names; reading one tells whether it exists."""
    shown = printable(pattern)
    names = list(_expanded(pattern, shown))
    paths = [path for name in names for path in (matching(name) if _WILD.search(name) else [name])]
    if not paths:
        raise BadInput(f"no shard matches {shown}")
    if len(names) == 1:
        _require_all(list(map(Path, paths)), shown)
    return list(map(Path, paths))


def root_of_shards(paths: Sequence[Path]) -> Path:
    """Return the folder that has all of the shards in it or below it."""
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:  # one absolute, one relative
        raise BadInput(f"{printable(paths[0])} and {printable(paths[-1])} have no common folder: {error}") from error


def name_of_shards(source: str | os.PathLike[str]) -> str:
    """Return the name of the data in shards: that of the one shard, or of the folder that has all of them."""
    path = Path(source)
    return path.stem if path.is_file() else root_of_shards(shards_in(path)).resolve().name


def find_in_shards(source: str | os.PathLike[str]) -> tuple[Path, Parts, tuple[str, ...]]:
    """Return the folder of the shards, their images by split and class, and sentences for the log.

    The names of images are relative to that folder. The split is a word in the name of a shard, or of a folder that it
    is in: train-000.tar, val/000.tar. Where no shard has one, it is a folder above that of the class, if all images
    have one, as in a tar file of a whole data set: train/cat/1.jpg. The images of a class come by their name in the
    shard, so that they have the order of the folder that was packed.

    Raises BadInput for a shard that is missing, damaged, or without a split where others have one.
    """
    paths = shards_in(source)
    root = root_of_shards(paths)
    _announce(paths)
    found: dict[str | None, dict[str, list[tuple[str, str]]]] = {}
    first: dict[bool, Path] = {}
    skipped = 0
    for path in _in_turn(paths):
        inside = path.relative_to(root) if root != Path() else path
        split = _split_of(inside)
        first.setdefault(split is not None, path)
        index = read_index(path)
        skipped += index.skipped
        classes = found.setdefault(split, {})
        for sample in index.samples:
            classes.setdefault(sample.label, []).append((sample.name, inside.as_posix()))
    if len(first) == 2:
        raise BadInput(
            f"{printable(first[False])} has no split in its name, but {printable(first[True])} has one; give only "
            "shards with train, val or test in their names, or only others"
        )
    if not any(found.values()):
        kinds = "an image has the suffix of one, such as .jpg"
        raise BadInput(f"{printable(os.fspath(source))} has no images, but {counted(skipped, 'other file')}; {kinds}")
    if None in found:
        found = _by_folder(found[None])
    if "eval" in found and {"val", "test"} <= found.keys():
        raise BadInput(
            f"{printable(os.fspath(source))} has shards of val, test and a fourth split (eval or holdout), which is "
            "neither; leave its shards out"
        )
    if "eval" in found:
        found["test" if "val" in found and "test" not in found else "val"] = found.pop("eval")
    parts: Parts = {}
    for split, classes in found.items():
        parts[split] = {
            name: [f"{shard}/{image}" for image, shard in sorted(classes[name])] for name in sorted(classes)
        }
    notes = [f"{counted(len(paths), 'shard')} in {printable(root)}"]
    notes += [f"skipped: {counted(skipped, 'file')} in shards that are neither images nor labels"] if skipped else []
    return root, parts, tuple(notes)


def _in_turn(paths: Sequence[Path]) -> list[Path]:
    """Return the shards in the order in which this process reads them.

    Each of several processes has another one, so that they seldom wait for each other where indexes must be made.
    """
    order = list(paths)
    with suppress(BadInput):  # variables of torchrun that are half set matter to a training only
        if rank := from_environment().rank:
            random.Random(rank).shuffle(order)
    return order


def _by_folder(classes: dict[str, list[tuple[str, str]]]) -> dict[str | None, dict[str, list[tuple[str, str]]]]:
    """Divide the images of shards without a split by a folder above that of the class, if it names a split for all."""
    found: dict[str | None, dict[str, list[tuple[str, str]]]] = {}
    for label, images in classes.items():
        for name, shard in images:
            named = (part_of(folder) for folder in name.split("/")[:-2])
            split = next((part for part, others in filter(None, named) if not others), None)
            if split is None:
                return {None: classes}
            found.setdefault(split, {}).setdefault(label, []).append((name, shard))
    return found or {None: classes}


def _expanded(pattern: str, shown: str) -> Iterator[str]:
    """Yield a pattern with each combination of the values of its braces."""
    pieces = _BRACES.split(pattern)  # text, and the content of braces in turns
    choices = [[piece] if place % 2 == 0 else _values(piece, shown) for place, piece in enumerate(pieces)]
    total = 1
    for values in choices:
        total *= len(values)
    if total > MOST_SHARDS:
        raise BadInput(f"{shown} names {total:,} shards; at most {MOST_SHARDS:,} can be named")
    return map("".join, itertools.product(*choices))


def _values(braces: str, shown: str) -> list[str]:
    numbers = _RANGE.fullmatch(braces)
    if numbers is None:
        return braces.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if not first <= last <= first + MOST_SHARDS:
        raise BadInput(f"{shown}: {{{braces}}} must count up, by at most {MOST_SHARDS:,}")
    width = len(numbers[1]) if numbers[1].startswith("0") else 1
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def _require_all(paths: Sequence[Path], shown: str) -> None:
    """Raise BadInput for a gap in shards that are numbered "of" a total."""
    sets: dict[tuple[Path, str, str], set[int]] = {}
    for path in paths:
        if found := _OF.fullmatch(path.stem):
            sets.setdefault((path.parent, found[1], found[3]), set()).add(int(found[2]))
    for (_, name, total), numbers in sets.items():
        if int(total) > MOST_SHARDS:
            raise BadInput(f"{shown} has shards of {printable(total)}; at most {MOST_SHARDS:,} are read together")
        if missing := sorted(set(range(int(total))) - numbers):
            which = shortened([f"{name}-{number:0{len(total)}}-of-{total}{SUFFIX}" for number in missing[:100]], 3)
            raise BadInput(f"{shown} lacks {counted(len(missing), 'shard')} of {int(total):,}: {printable(which)}")


def _split_of(inside: Path) -> str | None:
    """Return the split in the name of a shard or of a folder that it is in."""
    for name in (inside.stem, *reversed(inside.parts[:-1])):
        if (found := part_of(name)) is not None:
            return found[0]
    return None


def _announce(paths: Sequence[Path]) -> None:
    """Log that shards without an index are read, if that takes long."""
    new = [path for path in paths if not index_of(path).exists()]
    size = sum(path.stat().st_size for path in new if path.is_file())
    if size > _LONG:
        log.info("reading %s without an index, %.1f GB, once", counted(len(new), "shard"), size / 1e9)
