"""Read image files into one array in memory, in parallel; bad images are refused or counted."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from resnetlab.data.bands import bands_header, read_bands
from resnetlab.data.decode import decode, header, read_bytes, read_image
from resnetlab.data.depth import DeepPixels, Limits, LostContrast, choose_range
from resnetlab.data.digests import content_digest
from resnetlab.data.folder import Files
from resnetlab.data.limits import MAX_PIXELS, TooManyPixels
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.distributed import processes_here
from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SKIPPED = 0.05
"""The usual largest share of bad images; a data set with more of them is refused: something else is wrong with it."""

MOST_THREADS = 8

CHUNK = 64  # images per task: few enough to stop soon, many enough to keep the overhead small

T = TypeVar("T")


class BadImages:
    """The policy for images that cannot be read: refuse the data set at the first one, or skip a few and list them.

    `policy` is "error" or "skip"; `total` is the number of images in the whole data set, of which at most the share
    `most` is skipped. An image of which more than `max_pixels` would be decoded is bad.
    """

    def __init__(self, policy: str, total: int, most: float = MOST_SKIPPED, max_pixels: int = MAX_PIXELS) -> None:
        self.policy = policy
        self.total = total
        self.most = most
        self.max_pixels = max_pixels
        self.skipped: list[tuple[str, str]] = []
        self.lost = LostContrast()
        self.are_integers: bool | None = None  # the values for which the range was chosen; None if they are not known

    def report(self, name: str, reason: str) -> None:
        """Record one bad image, or raise BadInput."""
        if self.policy == "error":
            raise BadInput(f"{reason}; repair or remove it, or skip bad images (`bad_images='skip'`)")
        self.skipped.append((name, reason))
        if len(self.skipped) > self.most * self.total:
            raise BadInput(
                f"more than {100 * self.most:g}% of the {self.total:,} images cannot be read ({len(self.skipped)} so "
                f"far); the first: {self.skipped[0][1]}; repair or remove them, or raise the limit "
                "(`max_skipped`)"
            )

    def notes(self) -> tuple[str, ...]:
        """Return sentences about skipped images, one for each, and about images that lose their contrast."""
        return (*self._notes_on_skipped(), *self.lost.notes())

    def _notes_on_skipped(self) -> tuple[str, ...]:
        if not self.skipped:
            return ()
        share = len(self.skipped) / self.total
        count = "1 image was" if len(self.skipped) == 1 else f"{len(self.skipped)} images were"
        return (f"{count} skipped ({share:.2%})", *(f"skipped: {reason}" for _, reason in self.skipped))


def read_files(root: Path, files: Files, preprocessing: Preprocessing, bad: BadImages) -> Split:
    """Read files into memory, uint8 (N, resize_to, resize_to, C), in their order, without those that `bad` skips.

    The contents of the result are the digests of the bytes that were decoded.
    """
    reader = _Reader(root, files, preprocessing, bad)
    reader.read(range(len(files)))
    return reader.split()


def read_training_files(
    root: Path, files: Files, preprocessing: Preprocessing, bad: BadImages
) -> tuple[Split, Preprocessing, tuple[str, ...]]:
    """Read training images like `read_files`; without a range of pixel values, choose one from them.

    Images of more than 8 bits are decoded twice: to find their values, and to scale them by the range that was chosen.
    Returns the images, the preprocessing with the range, and sentences about it.
    """
    if preprocessing.range is not None:
        low, high = preprocessing.range
        given = f"pixel values {low:g} to {high:g} of images of more than 8 bits become black to white (as given)"
        return read_files(root, files, preprocessing, bad), preprocessing, (given,)
    reader = _Reader(root, files, preprocessing, bad)
    reader.limits = {}
    reader.read(range(len(files)))
    found, reader.limits = reader.limits, None
    sentences: tuple[str, ...] = ()
    if found:
        if bad.policy == "skip":
            found = reader.without_other_kind(found)
        bad.are_integers = next(iter(found.values())).are_integers
        chosen, sentences = choose_range(
            {f"{reader.base}/{files.names[i]}": found[i] for i in sorted(found)}, int(reader.kept.sum())
        )
        reader.preprocessing = replace(preprocessing, range=chosen)
        reader.read(sorted(found))
    return reader.split(), reader.preprocessing, sentences


@dataclass(frozen=True)
class Decoder:
    """The one way from a file to stored pixels, wherever they are held; it can be sent to another process.

    File names are relative to `base`. `are_integers` is True or False if only such values suit the range that was
    chosen. With `collects_limits`, images of more than 8 bits are not scaled; their limits are returned.
    """

    base: str  # as text: creating a Path for each image takes a tenth of the time
    preprocessing: Preprocessing
    max_pixels: int
    are_integers: bool | None = None
    collects_limits: bool = False

    def read(self, name: str, lost: LostContrast) -> tuple[str, np.ndarray | Limits]:
        """Return the content digest and the pixels, uint8 (resize_to, resize_to, C), of a file, or its limits.

        An image that loses its contrast is noted in `lost`. Raises BadInput.
        """
        path, preprocessing = f"{self.base}/{name}", self.preprocessing
        content = read_bytes(path)
        digest = content_digest(content)
        pixels: Image | DeepPixels | np.ndarray
        source, at_least, most = io.BytesIO(content), 2 * preprocessing.resize_to, self.max_pixels
        has_bands = preprocessing.channels not in (1, 3)
        if has_bands:
            pixels = read_bands(source, preprocessing.channels, name=path, max_pixels=most)
        else:
            pixels = decode(source, name=path, at_least=at_least, max_pixels=most, keep_depth=True)
        if isinstance(pixels, DeepPixels):
            if self.collects_limits and pixels.values.dtype != np.uint8:
                return digest, Limits.of(pixels)
            if pixels.values.dtype != np.uint8 and self.are_integers not in (None, pixels.are_integers):
                raise BadInput(other_kind(path, are_integers=bool(self.are_integers)))
            lost.add(name, pixels, preprocessing.range)
            if preprocessing.range is None and not has_bands:
                pixels = read_image(source, name=path, at_least=at_least, max_pixels=most)
            else:
                pixels = pixels.to_8bit(preprocessing.range)
        return digest, preprocessing.resize(pixels)

    def read_or_reason(self, name: str, lost: LostContrast) -> tuple[str, np.ndarray | Limits] | str:
        """Return what `read` returns or, for a bad image, the reason."""
        try:
            return self.read(name, lost)
        except TooManyPixels as error:
            return f"{error} (`max_pixels` sets the limit)"
        except BadInput as error:
            return str(error)


@dataclass
class Chunk:
    """Decoded files, by their place in the chunk: pixels (N, resize_to, resize_to, C), those of bad images unset."""

    pixels: np.ndarray
    contents: list[str]
    failures: dict[int, str] = field(default_factory=dict)
    limits: dict[int, Limits] = field(default_factory=dict)
    lost: LostContrast = field(default_factory=LostContrast)

    @classmethod
    def read(cls, decoder: Decoder, names: Sequence[str]) -> Chunk:
        """Decode files."""
        size = decoder.preprocessing.resize_to
        pixels = np.empty((len(names), size, size, decoder.preprocessing.channels), dtype=np.uint8)
        chunk = cls(pixels, [""] * len(names))
        for place, name in enumerate(names):
            found = decoder.read_or_reason(name, chunk.lost)
            if isinstance(found, str):
                chunk.failures[place] = found
                continue
            chunk.contents[place], result = found
            if isinstance(result, Limits):
                chunk.limits[place] = result
            else:
                pixels[place] = result
        return chunk


def other_kind(path: str, *, are_integers: bool) -> str:
    """Return the sentence about an image whose values are of another kind than those of most training images."""
    kinds = ("floats", "integers") if are_integers else ("integers", "floats")
    return (
        f"{printable(path)} has {kinds[0]}, and most training images of more than 8 bits have {kinds[1]}: give the "
        "values that become black and white for both (`range`)"
    )


class _Reader:
    """Reads files into one array. With `limits`, those of images of more than 8 bits are collected there instead."""

    def __init__(self, root: Path, files: Files, preprocessing: Preprocessing, bad: BadImages) -> None:
        size = preprocessing.resize_to
        self.root, self.files, self.preprocessing, self.bad = root, files, preprocessing, bad
        self.base = str(root)
        self.store = np.empty((len(files), size, size, preprocessing.channels), dtype=np.uint8)
        self.kept = np.ones(len(files), dtype=bool)
        self.contents = [""] * len(files)
        self.limits: dict[int, Limits] | None = None

    def read(self, indices: Sequence[int]) -> None:
        """Read the files at `indices` with several threads; report bad ones in their order."""
        decoder = Decoder(
            self.base, self.preprocessing, self.bad.max_pixels, self.bad.are_integers, self.limits is not None
        )

        def read_chunk(start: int) -> list[tuple[int, str]]:
            failures = []
            for i in indices[start : start + CHUNK]:
                found = decoder.read_or_reason(self.files.names[i], self.bad.lost)
                if isinstance(found, str):
                    failures.append((i, found))
                    continue
                self.contents[i], result = found
                if not isinstance(result, Limits):
                    self.store[i] = result
                elif self.limits is not None:
                    self.limits[i] = result
            return failures

        starts = range(0, len(indices), CHUNK)
        with closing(in_order(read_chunk, starts, _workers(self.root, self.files))) as results:
            for failures in results:
                for i, reason in failures:
                    self.kept[i] = False
                    self.bad.report(self.files.names[i], reason)

    def without_other_kind(self, found: dict[int, Limits]) -> dict[int, Limits]:
        """Return the limits of one kind, integers or floats, and report the images of the other, which are fewer."""
        integers = sum(limits.are_integers for limits in found.values())
        self.bad.are_integers = 2 * integers >= len(found)
        same = {}
        for i in sorted(found):
            if found[i].are_integers == self.bad.are_integers:
                same[i] = found[i]
            else:
                self.kept[i] = False
                path = f"{self.base}/{self.files.names[i]}"
                self.bad.report(self.files.names[i], other_kind(path, are_integers=self.bad.are_integers))
        return same

    def split(self) -> Split:
        """Return what was read, without the images that were skipped."""
        import torch

        files, contents = self.files, self.contents
        chosen = np.flatnonzero(self.kept)
        if len(chosen) < len(files):
            for target, source in enumerate(chosen.tolist()):  # in place: the images may fill half of the memory
                if target != source:
                    self.store[target] = self.store[source]
            files = files.subset(chosen)
            contents = [contents[i] for i in chosen.tolist()]
        images = torch.from_numpy(self.store[: len(files)])
        return Split(images, torch.from_numpy(files.labels.copy()), files.names, tuple(contents), files.groups or ())


def sample_headers(
    root: Path, files: Files, most: int | None = 500, channels: int | None = None
) -> list[tuple[tuple[int, int], str]]:
    """Return size (width, height) and mode of at most `most` files, evenly spaced; skip what cannot be opened.

    With other `channels` than 1 and 3, the files are TIFF files with bands, and their mode is "bands".
    """
    step = 1 if most is None else max(1, -(-len(files) // most))
    read = header if channels in (None, 1, 3) else bands_header
    found = (read(root / name) for name in files.names[::step])
    return [size_and_mode for size_and_mode in found if size_and_mode is not None]


def _workers(root: Path, files: Files) -> int:
    """Choose one thread for small images, where Python does most of the work and threads wait for each other."""
    sizes = [width * height for (width, height), _ in sample_headers(root, files, most=20)]
    return 1 if not sizes or np.median(sizes) < 96 * 96 else max(2, min(MOST_THREADS, usable_cores()))


def usable_cores() -> int:
    """Return the number of processors that this process may use. Those that torchrun has started here divide them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, found // processes_here())


def in_order(work: Callable[[int], T], starts: Iterable[int], workers: int) -> Generator[T, None, None]:
    """Run `work` for every start in threads and yield the results in order; closing cancels what has not started."""
    if workers == 1:
        yield from map(work, starts)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resnetlab-decode")
    try:
        try:
            results = pool.map(work, starts)
        except RuntimeError:  # the main thread has ended, and this is another: Python starts no more threads
            results = map(work, starts)
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def available_memory(system: Path = Path("/")) -> int | None:
    """Return the bytes that can still be used, within the limit of a container; None if the system does not report it.

    >>> (available_memory() or 1) > 0
    True
    """
    found = [amount for amount in (_free(system), _control_group(system)) if amount is not None]
    return min(found) if found else None


def require_memory(needed: int, what: str, otherwise: str = "or use fewer images") -> None:
    """Raise BadInput if `what` needs more bytes than are available, instead of being killed without a message.

    `otherwise` is another way on, for the message.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise BadInput(
            f"{what} needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available; "
            f"choose a smaller image size, {otherwise}"
        )


def _free(system: Path) -> int | None:
    try:
        for line in (system / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # macOS reports the total, not what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _control_group(system: Path) -> int | None:
    """Return the bytes left to a container (cgroup 2); its file cache can be reclaimed and counts as free."""
    group = system / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())  # the word "max" if there is none
        used = int((group / "memory.current").read_text())
        cache = [line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if line[:5] == "file "]
        return max(0, limit - used + sum(map(int, cache)))
    except (OSError, ValueError):
        return None
