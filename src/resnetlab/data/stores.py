"""Stores of decoded images: in memory, in a file of the cache folder, or nowhere, decoded for each batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from resnetlab.data.contents import contents_of
from resnetlab.data.decoded import (
    KINDS,
    Decoded,
    Index,
    NoRoom,
    digest_of,
    folder,
    remember_finding,
    remembered,
    rows_of,
    settings_of,
)
from resnetlab.data.depth import Limits, LostContrast, choose_range, mixed
from resnetlab.data.folder import Files
from resnetlab.data.pixels import CachedPixels, Pixels, StoredPixels, StreamedPixels, blocks
from resnetlab.data.preprocess import Preprocessing, Statistics, channel_statistics
from resnetlab.data.reading import (
    BadImages,
    Chunk,
    Decoder,
    available_memory,
    read_files,
    read_training_files,
    require_memory,
)
from resnetlab.data.splits import Split
from resnetlab.data.workers import MOST_WORKERS, Workers
from resnetlab.distributed import processes_here
from resnetlab.errors import BadInput, printable, unknown

Store = Literal["auto", "memory", "cache", "stream"]
SHARE = 0.5  # of the available memory that decoded images may take by default


@dataclass(frozen=True)
class Storage:
    """The settings that decide where the decoded images of a data set are held. They change no bit of a result.

    `memory` holds them as uint8 arrays; `cache` decodes them once, into a file that is mapped into memory; `stream`
    decodes them for each batch, in other processes; `auto` is the first of the three for which there is room. `memory`
    is the number of GB that the images may take in memory with `auto`, by default half of what is available.
    """

    store: Store = "auto"
    memory: float | None = None

    def __post_init__(self) -> None:
        """Raise BadInput for values that are not allowed."""
        if self.store not in get_args(Store):
            raise unknown("store", str(self.store), get_args(Store))
        if self.memory is not None and not self.memory >= 0:
            raise BadInput(f"memory is {self.memory}, but must be a number of GB, 0 or more")

    def choose(self, needed: int, what: str) -> Store:
        """Return "memory", or the store in which `needed` bytes of images are held instead.

        Raises BadInput if they must be held in memory, and there is too little.
        """
        if self.store in ("cache", "stream"):
            return self.store
        if self.store == "auto":
            available = available_memory()
            usable = math.inf if available is None else available / processes_here()  # each holds its own images
            if needed > (SHARE * usable if self.memory is None else min(self.memory * 1e9, usable)):
                return "auto"
        require_memory(needed, what, "use fewer images, or leave them on the disk (`store='auto'`)")
        return "memory"

    def notes_on_arrays(self, name: str) -> tuple[str, ...]:
        """Return a sentence if a named data set of arrays should not be held in memory, but is."""
        if self.store not in ("cache", "stream"):
            return ()
        return (f"the images of {name} are published as arrays, which are held in memory",)


IN_MEMORY = Storage("memory")


def bytes_of(images: int, preprocessing: Preprocessing) -> int:
    """Return the bytes of decoded images."""
    return images * preprocessing.resize_to**2 * preprocessing.channels


def read_splits(
    root: Path, splits: Mapping[str, Files], preprocessing: Preprocessing, bad: BadImages, store: Store
) -> dict[str, Split]:
    """Read the files of splits with the preprocessing of a model, in their order, without those that `bad` skips.

    `store` is what `Storage.choose` returned; "auto" is the cache or, if the disk has too little room, streaming.
    """
    if store == "memory":
        return {part: read_files(root, files, preprocessing, bad) for part, files in splits.items()}
    return _Outside(root, splits, store).open(preprocessing, bad)


def read_new_splits(
    root: Path,
    splits: Mapping[str, Files],
    preprocessing: Preprocessing,
    bad: BadImages,
    store: Store,
    *,
    channels: int | None,
) -> tuple[dict[str, Split], Preprocessing, tuple[str, ...]]:
    """Read the files of splits like `read_splits`, and choose from the training images how.

    Without a range of pixel values, one is chosen for images of more than 8 bits; without `channels`, images are grey
    if all pixels of the training images are. Returns the splits, the preprocessing and sentences about it.
    """
    if store == "memory":
        train, preprocessing, sentences = read_training_files(root, splits["train"], preprocessing, bad)
        if channels is None and preprocessing.channels == 3:
            train, preprocessing = without_colour(train, preprocessing)
        others = {part: files for part, files in splits.items() if part != "train"}
        return {"train": train, **read_splits(root, others, preprocessing, bad, store)}, preprocessing, sentences
    outside = _Outside(root, splits, store)
    found: dict[str, Limits] = {}
    if preprocessing.range is None:
        preprocessing, sentences, found = outside.with_range(preprocessing, bad)
    else:
        low, high = preprocessing.range
        sentences = (
            f"pixel values {low:g} to {high:g} of images of more than 8 bits become black to white (as given)",
        )
    if channels is None and preprocessing.channels == 3:
        preprocessing = outside.without_colour(preprocessing, bad)
    opened = outside.open(preprocessing, bad)
    return opened, preprocessing, (*sentences, *(mixed(found, len(opened["train"])) if found else ()))


def statistics_of(split: Split, preprocessing: Preprocessing) -> Statistics:
    """Return mean and standard deviation of a split's images; of those outside of memory, they are remembered."""
    if not isinstance(split.images, StoredPixels):
        return channel_statistics(block.numpy() for block in blocks(split.images))
    decoder = Decoder("", preprocessing, preprocessing.max_pixels)
    what = [settings_of(decoder), digest_of(split.contents)]
    known = remembered("statistics", what)
    if known is None:
        known = channel_statistics(block.numpy() for block in blocks(split.images))
        remember_finding("statistics", what, known)
    mean, std = known
    return tuple(mean), tuple(std)


def without_colour(split: Split, preprocessing: Preprocessing) -> tuple[Split, Preprocessing]:
    """Return one channel instead of three if all pixels of the training images are grey, whatever their files' mode.

    Reading the files as grey gives the same values.
    """
    images = split.images
    if is_grey(images) and not isinstance(images, StoredPixels):
        return replace(split, images=images[..., :1].contiguous()), with_one_channel(preprocessing)
    return split, preprocessing


def with_one_channel(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, channels=1, mean=preprocessing.mean[:1], std=preprocessing.std[:1])


def is_grey(images: Pixels) -> bool:
    """Return True if all pixels of colour images are grey. Stops at the first image with a colour."""
    return not any(
        bool((block[..., 0] != block[..., 1]).any() or (block[..., 0] != block[..., 2]).any())
        for block in blocks(images)
    )


class _Outside:
    """The files of splits whose decoded images are not held in memory."""

    def __init__(self, root: Path, splits: Mapping[str, Files], store: Store) -> None:
        self.root, self.splits, self.store = root, splits, store
        names = [name for files in splits.values() for name in files.names]
        self.contents = contents_of(root, names)
        self.names: dict[str, str] = {}  # one for each content: equal files are decoded once
        for name in names:
            if name in self.contents:
                self.names.setdefault(self.contents[name], name)
        self.digest = digest_of(self.names)
        self.workers = Workers()

    def decoder(self, preprocessing: Preprocessing, bad: BadImages) -> Decoder:
        return Decoder(str(self.root), preprocessing, bad.max_pixels, bad.are_integers)

    def open(self, preprocessing: Preprocessing, bad: BadImages) -> dict[str, Split]:
        """Open the splits; decode what was not decoded before."""
        decoder = self.decoder(preprocessing, bad)
        decoded, (path, index) = self._found(decoder) or self._built(decoder, bad)
        return {part: self._split(files, decoded, path, index, bad) for part, files in self.splits.items()}

    def with_range(
        self, preprocessing: Preprocessing, bad: BadImages
    ) -> tuple[Preprocessing, tuple[str, ...], dict[str, Limits]]:
        """Choose the range from the limits of the training images that have more than 8 bits.

        Returns the preprocessing, sentences, and the limits by file. `bad.are_integers` is set.
        """
        what = [settings_of(self.decoder(preprocessing, bad)), self.digest]
        known = remembered("limits", what)
        if known is None:
            self._build(self.decoder(preprocessing, bad), bad, what)
            known = remembered("limits", what)
        of_contents = {content: Limits(*given) for content, given in (known or {}).items()}
        found = {
            f"{self.root}/{name}": of_contents[self.contents[name]]
            for name in self.splits["train"].names
            if self.contents.get(name) in of_contents
        }
        if not found:
            return preprocessing, (), {}
        if bad.policy == "skip":
            bad.are_integers = 2 * sum(limits.are_integers for limits in found.values()) >= len(found)
            found = {name: limits for name, limits in found.items() if limits.are_integers == bad.are_integers}
        bad.are_integers = next(iter(found.values())).are_integers
        chosen, sentences = choose_range(found, len(found))
        return replace(preprocessing, range=chosen), sentences, found

    def without_colour(self, preprocessing: Preprocessing, bad: BadImages) -> Preprocessing:
        """Return the preprocessing with one channel if all pixels of the training images are grey."""
        train = (self.contents[name] for name in self.splits["train"].names if name in self.contents)
        what = [settings_of(self.decoder(preprocessing, bad)), digest_of(train)]
        known = remembered("grey", what)
        if known is None:
            scratch = BadImages(bad.policy, bad.total, bad.most, bad.max_pixels)
            scratch.are_integers = bad.are_integers
            known = is_grey(self.open(preprocessing, scratch)["train"].images)
            remember_finding("grey", what, known)
        if not known:
            return preprocessing
        return with_one_channel(preprocessing)

    def _found(self, decoder: Decoder) -> tuple[Decoded, tuple[Path, Index]] | None:
        """Return the file of images that were decoded before."""
        kinds = {"cache": (True,), "stream": (False,), "auto": (True, False)}[self.store]
        for decoded in (Decoded(decoder, with_pixels) for with_pixels in kinds):
            if (found := decoded.find(self.names, self.digest)) is not None:
                return decoded, found
        return None

    def _built(self, decoder: Decoder, bad: BadImages) -> tuple[Decoded, tuple[Path, Index]]:
        """Decode all images and return their file."""
        built = self._build(decoder, bad)
        assert built is not None  # images of more than 8 bits are decoded like the others
        return built

    def _build(
        self, decoder: Decoder, bad: BadImages, limits_of: Sequence[object] | None = None
    ) -> tuple[Decoded, tuple[Path, Index]] | None:
        """Decode all images into a file or, with the store "auto", without one if the disk has too little room.

        With `limits_of`, the name of a finding, the limits of images of more than 8 bits are remembered. If there are
        any, nothing is written, and the result is None.
        """
        try:
            return self._build_one(Decoded(decoder, with_pixels=self.store != "stream"), bad, limits_of)
        except NoRoom:
            if self.store != "auto":
                raise
        return self._build_one(Decoded(decoder, with_pixels=False), bad, limits_of)

    def _build_one(
        self, decoded: Decoded, bad: BadImages, limits_of: Sequence[object] | None
    ) -> tuple[Decoded, tuple[Path, Index]] | None:
        contents, names = list(self.names), list(self.names.values())
        decoder = replace(decoded.decoder, collects_limits=limits_of is not None)
        limits: dict[str, list[Any]] = {}

        def write(file: BinaryIO | None) -> Index:
            rows: dict[str, int] = {}
            failed: set[str] = set()
            lost: dict[str, set[str]] = {kind: set() for kind in KINDS}
            for part, chunk in self._chunks(decoder, names):
                good = []
                for place, name in enumerate(part):
                    content = self.contents[name]
                    if place in chunk.failures:
                        if bad.policy == "error":
                            bad.report(name, chunk.failures[place])
                        failed.add(content)
                        continue
                    if chunk.contents[place] != content:
                        raise BadInput(
                            f"{printable(name)} is being changed by another program; try again when it is done"
                        )
                    if place in chunk.limits:
                        one = chunk.limits[place]
                        limits[content] = [one.lowest, one.highest, one.are_integers]
                        continue
                    rows[content] = len(rows)
                    good.append(place)
                for kind in KINDS:
                    lost[kind].update(self.contents[name] for name in getattr(chunk.lost, kind))
                if file is not None and not limits:
                    file.write(chunk.pixels[good].data)
            if limits:
                raise _HaveLimits
            return Index(rows, frozenset(failed), {kind: frozenset(found) for kind, found in lost.items()})

        with decoded.locked(self.digest) as path:
            if limits_of is None:
                if (found := decoded.find(contents, self.digest)) is not None:
                    return decoded, found  # another process has built it in the meantime
                return decoded, (path, decoded.write(path, len(contents), write))
            if remembered("limits", limits_of) is not None:  # another process, too
                return None
            try:
                built = decoded, (path, decoded.write(path, len(contents), write))
            except _HaveLimits:
                built = None
            remember_finding("limits", limits_of, limits)
            return built

    def _chunks(self, decoder: Decoder, names: Sequence[str]) -> Iterator[tuple[Sequence[str], Chunk]]:
        """Decode files on all cores of the machine, because its other processes wait for this one."""
        count = processes_here()
        if count == 1:
            yield from self.workers.chunks(decoder, names)
            return
        workers = Workers(min(MOST_WORKERS, count * self.workers.count))
        try:
            yield from workers.chunks(decoder, names)
        finally:
            workers.close()

    def _split(self, files: Files, decoded: Decoded, path: Path, index: Index, bad: BadImages) -> Split:
        """Return the images of a split; report those that cannot be decoded, in their order."""
        import torch

        kept, decoder = [], decoded.decoder
        for place, name in enumerate(files.names):
            content = self.contents.get(name)
            if content in index.rows:
                kept.append(place)
                continue
            found = decoder.read_or_reason(name, LostContrast())
            again = f"{printable(name)} could not be decoded before, but can be now; remove {printable(folder())}"
            bad.report(name, found if isinstance(found, str) else again)
        names = tuple(files.names[place] for place in kept)
        contents = tuple(self.contents[name] for name in names)
        for kind, lost in (index.lost or {}).items():
            if not lost:
                continue
            getattr(bad.lost, kind).extend(
                name for name, content in zip(names, contents, strict=True) if content in lost
            )
        size = decoder.preprocessing.resize_to
        shape = size, size, decoder.preprocessing.channels
        images: Pixels
        if decoded.with_pixels:
            images = CachedPixels(path, shape, rows_of(index, contents))
        else:
            images = StreamedPixels(decoder, names, contents, self.workers)
        groups = tuple(files.groups[place] for place in kept) if files.groups else ()
        return Split(images, torch.from_numpy(files.labels[kept]), names, contents, groups)


class _HaveLimits(Exception):
    """Some images have more than 8 bits, so that a range must be chosen before they are decoded."""


def note_on(parts: Sequence[Split]) -> tuple[str, ...]:
    """Return a sentence about images that are not held in memory, or nothing. All parts have the store of the first."""
    images, count = parts[0].images, sum(map(len, parts))
    what = f"{count:,} decoded images ({count * math.prod(images.shape[1:]) / 1e9:,.2f} GB)"
    if isinstance(images, CachedPixels):
        return (f"{what} are in a file in {printable(folder())}, which can be removed at any time",)
    if isinstance(images, StreamedPixels):
        return (f"{what} are not held: images are decoded for each batch, in other processes",)
    return ()
