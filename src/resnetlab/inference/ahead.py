"""Decode images in threads, ahead of the network that uses them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from resnetlab.errors import BadInput

AHEAD = 64  # images that are decoded, or being decoded, before they are asked for
MOST_THREADS = 16
Image = TypeVar("Image")
Pixels = np.ndarray | BadInput


def read_ahead(
    read: Callable[[Image], np.ndarray], images: Iterable[Image], *, ahead: int = AHEAD
) -> Iterator[tuple[Image, Pixels]]:
    """Yield each image with `read(image)`, in order; or with the BadInput that `read` raised for it.

    Paths and bytes are read in threads, up to `ahead` images early, so that decoding and computing overlap. All other
    images are read when they are taken from the iterable: an open file may be given twice, and a generator may use one
    array for all its images. At most `ahead` images are held, however many there are. If the iterable raises an
    exception, the images before it are yielded first.

    >>> read = lambda path: np.full((1, 1, 3), len(path), np.uint8)
    >>> [(path, int(pixels[0, 0, 0])) for path, pixels in read_ahead(read, ["a", "bcd"])]
    [('a', 1), ('bcd', 3)]
    """
    waiting: deque[tuple[Image, Pixels | Future[Pixels]]] = deque()
    iterator, error = iter(images), None
    pool = ThreadPoolExecutor(min(torch.get_num_threads(), MOST_THREADS), thread_name_prefix="resnetlab-decode")
    try:
        while True:
            try:
                image = next(iterator)
            except StopIteration:
                break
            except Exception as raised:
                error = raised
                break
            if isinstance(image, str | os.PathLike | bytes):
                waiting.append((image, pool.submit(attempt, read, image)))
            else:
                waiting.append((image, attempt(read, image)))
            if len(waiting) >= ahead:
                yield finished(waiting.popleft())
        while waiting:
            yield finished(waiting.popleft())
        if error is not None:
            raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def attempt(read: Callable[[Image], np.ndarray], image: Image) -> Pixels:
    """Return `read(image)`, or the BadInput that it raises."""
    try:
        return read(image)
    except BadInput as error:
        return error


def finished(entry: tuple[Image, Pixels | Future[Pixels]]) -> tuple[Image, Pixels]:
    """Wait for the pixels of an image."""
    image, pixels = entry
    return image, pixels.result() if isinstance(pixels, Future) else pixels
