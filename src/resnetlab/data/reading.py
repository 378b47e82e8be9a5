"""Image files into memory: decoded in parallel into one array, with bad ones refused or counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from resnetlab.data.decode import read_header, read_image
from resnetlab.data.folder import Files
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput, printable

MOST_SKIPPED = 0.05
"""A set with a larger share of bad images is refused: something else is wrong with it."""

_CHUNK = 64  # images per task: small enough to stop soon, large enough to cost nothing


class BadImages:
    """What happens to images that cannot be read: an error at the first one, or a list of them, within bounds.

    `policy` is "error" or "skip"; `total` the number of images in the whole set.
    """

    def __init__(self, policy: str, total: int) -> None:
        if policy not in ("error", "skip"):
            raise BadInput(f"bad_images is {printable(policy)!r}; choose from error, skip")
        self.policy = policy
        self.total = total
        self.skipped: list[tuple[str, str]] = []

    def report(self, name: str, reason: str) -> None:
        """Take note of one, or raise BadInput."""
        if self.policy == "error":
            raise BadInput(f"{reason}; mend or remove it, or skip bad images (--data.bad-images skip)")
        self.skipped.append((name, reason))
        if len(self.skipped) > MOST_SKIPPED * self.total:
            raise BadInput(
                f"more than {MOST_SKIPPED:.0%} of the {self.total:,} images cannot be read ({len(self.skipped)} so "
                f"far); the first: {self.skipped[0][1]}"
            )

    def notes(self) -> tuple[str, ...]:
        """What was skipped, one sentence for each, after one with their number."""
        if not self.skipped:
            return ()
        share = len(self.skipped) / self.total
        count = "1 image was" if len(self.skipped) == 1 else f"{len(self.skipped)} images were"
        return (f"{count} skipped ({share:.2%})", *(f"skipped: {reason}" for _, reason in self.skipped))


def read_files(root: Path, files: Files, preprocessing: Preprocessing, bad: BadImages) -> Split:
    """The files in memory, uint8 (N, resize_to, resize_to, C), in their order, without those that `bad` skips."""
    import torch

    size = preprocessing.resize_to
    store = np.empty((len(files), size, size, preprocessing.channels), dtype=np.uint8)
    kept = np.ones(len(files), dtype=bool)
    base = str(root)  # joined as text: a Path for each image would cost a tenth of the whole

    def read_chunk(start: int) -> list[tuple[int, str]]:
        failures = []
        for i in range(start, min(start + _CHUNK, len(files))):
            try:
                image = read_image(f"{base}/{files.names[i]}", at_least=2 * size)
                store[i] = preprocessing.pixels(image)
            except BadInput as error:
                failures.append((i, str(error)))
        return failures

    starts = range(0, len(files), _CHUNK)
    workers = _workers(root, files)
    with closing(_in_order(read_chunk, starts, workers)) as results:
        for failures in results:
            for i, reason in failures:
                kept[i] = False
                bad.report(files.names[i], reason)
    chosen = np.flatnonzero(kept)
    if len(chosen) < len(files):
        for target, source in enumerate(chosen.tolist()):  # in place: the set may fill half of the memory
            if target != source:
                store[target] = store[source]
        files = files.subset(chosen)
    return Split(torch.from_numpy(store[: len(files)]), torch.from_numpy(files.labels.copy()), files.names)


def sample_headers(root: Path, files: Files, most: int | None = 500) -> list[tuple[tuple[int, int], str]]:
    """Size and mode of at most `most` files, evenly spaced; what cannot be opened is left out."""
    step = 1 if most is None else max(1, -(-len(files) // most))
    found = (read_header(root / name) for name in files.names[::step])
    return [header for header in found if header is not None]


def _workers(root: Path, files: Files) -> int:
    """One thread for small pictures, where Python does most of the work and threads only wait for each other."""
    sizes = [width * height for (width, height), _ in sample_headers(root, files, most=20)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return 1 if not sizes or np.median(sizes) < 96 * 96 else max(2, min(8, cores))


def _in_order(
    work: Callable[[int], list[tuple[int, str]]], starts: Iterable[int], workers: int
) -> Generator[list[tuple[int, str]], None, None]:
    """`work` for every start, side by side, the results in order; closing it drops what has not begun."""
    if workers == 1:
        yield from map(work, starts)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resnetlab-decode")
    try:
        yield from pool.map(work, starts)
    finally:
        pool.shutdown(cancel_futures=True)
