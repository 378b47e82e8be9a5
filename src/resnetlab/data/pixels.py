"""Decoded images of a split that are not held in memory: memory-mapped from a file, or decoded for each batch.

A tensor is the third way. All three give the same uint8 images for the same rows.
"""

from __future__ import annotations

import copy
import mmap
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import Chunk, Decoder
from resnetlab.data.workers import Workers
from resnetlab.errors import BadInput, printable

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pixels: TypeAlias = "Tensor | StoredPixels"
Rows: TypeAlias = "Tensor | np.ndarray | Sequence[int] | slice"

BLOCK = 64 * 2**20  # bytes of images that are held at a time by whoever goes through all of them


class StoredPixels(ABC):
    """The rows of a split in stored images of one shape, indexed as a tensor uint8 (N, H, W, C) would be."""

    def __init__(self, shape: tuple[int, int, int], rows: np.ndarray) -> None:
        self.image_shape, self.rows = shape, rows

    @property
    def shape(self) -> torch.Size:
        import torch

        return torch.Size((len(self.rows), *self.image_shape))

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.uint8

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Copy the images at `rows` into memory."""
        return next(self.in_turn([rows]))

    @abstractmethod
    def in_turn(self, batches: Iterable[Tensor | slice]) -> Iterator[Tensor]:
        """Yield the images of each batch of rows."""

    def subset(self, rows: Rows) -> Self:
        """Return the images at `rows`, without copying them."""
        part = copy.copy(self)
        part.rows = self.chosen(rows)
        return part

    def chosen(self, rows: Rows) -> np.ndarray:
        return self.rows[rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)]


class CachedPixels(StoredPixels):
    """Images in a file that is mapped into memory: `rows` of those at its beginning.

    The pages that a batch has touched are given back at once, so that the resident memory of the process does not grow
    with the data set; the system keeps them as long as it has memory for them.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], rows: np.ndarray) -> None:
        super().__init__(shape, rows)
        with path.open("rb") as file:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_SH)  # as long as it is mapped: it is not removed from the cache
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = len(self._map) // int(np.prod(shape))
        self._images = np.frombuffer(self._map, np.uint8, count * int(np.prod(shape))).reshape(count, *shape)

    def in_turn(self, batches: Iterable[Tensor | slice]) -> Iterator[Tensor]:
        """Yield the images of each batch of rows."""
        import torch

        for rows in batches:
            images = torch.from_numpy(self._images.take(self.chosen(rows), axis=0))
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
            yield images


class StreamedPixels(StoredPixels):
    """Images that are decoded by other processes when they are asked for: `rows` of the files `names`.

    `contents` are the digests of the files when they were listed. A file that has changed since is refused.
    """

    def __init__(self, decoder: Decoder, names: Sequence[str], contents: Sequence[str], workers: Workers) -> None:
        preprocessing = decoder.preprocessing
        shape = preprocessing.resize_to, preprocessing.resize_to, preprocessing.channels
        super().__init__(shape, np.arange(len(names)))
        self.decoder, self.names, self.contents = decoder, names, contents
        self._workers, self._process = workers, os.getpid()

    def in_turn(self, batches: Iterable[Tensor | slice]) -> Iterator[Tensor]:
        """Yield the images of each batch of rows, which are decoded while the batch before is used."""
        if os.getpid() != self._process:  # a fork has no threads, and must not read from pipes of its parent
            self._workers, self._process = Workers(self._workers.count), os.getpid()
        waiting: deque[list[tuple[np.ndarray, Future[Chunk]]]] = deque()
        try:
            for rows in batches:
                waiting.append(self._ask(self.chosen(rows)))
                if len(waiting) > 2:
                    yield self._answer(waiting.popleft())
            while waiting:
                yield self._answer(waiting.popleft())
        finally:
            for parts in waiting:
                for _, future in parts:
                    future.cancel()

    def _ask(self, rows: np.ndarray) -> list[tuple[np.ndarray, Future[Chunk]]]:
        size = max(1, min(64, -(-len(rows) // self._workers.count)))
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        return [(part, self._workers.submit(self.decoder, [self.names[i] for i in part.tolist()])) for part in parts]

    def _answer(self, parts: list[tuple[np.ndarray, Future[Chunk]]]) -> Tensor:
        import torch

        chunks = [np.empty((0, *self.image_shape), np.uint8)]
        for rows, future in parts:
            chunk = future.result()
            for place, row in enumerate(rows.tolist()):
                if chunk.contents[place] != self.contents[row]:
                    why = chunk.failures.get(place, f"{printable(self.names[row])} has other contents")
                    raise BadInput(f"an image has changed since the data set was opened: {why}")
            chunks.append(chunk.pixels)
        return torch.from_numpy(np.concatenate(chunks))


def in_turn(images: Pixels, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the images of each batch of rows."""
    if isinstance(images, StoredPixels):
        yield from images.in_turn(batches)
        return
    for rows in batches:
        # in a tenth of the time of `images[rows]`
        yield images.index_select(0, rows.to(images.device, non_blocking=True))


def blocks(images: Pixels) -> Iterator[Tensor]:
    """Yield all images in order, some at a time; those in memory are not copied."""
    size = max(1, BLOCK // max(1, int(np.prod(images.shape[1:]))))
    starts = range(0, len(images), size)
    slices = (slice(first, first + size) for first in starts)
    if isinstance(images, StoredPixels):
        yield from images.in_turn(slices)
        return
    for part in slices:
        yield images[part]


class Cropped:
    """The images of a split as a network sees them, uint8 arrays; those that are asked for are read then."""

    def __init__(self, images: Pixels, preprocessing: Preprocessing) -> None:
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        import torch

        chosen = self.images[torch.from_numpy(np.asarray(rows, np.int64)).to(self.images.device)]
        return np.asarray(self.preprocessing.center_crop(chosen).cpu())
