"""Read image files into one array in memory, in parallel; bad images are refused or counted."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from resnetlab.data.contents import content_digest
from resnetlab.data.decode import read_bytes, read_header, read_image
from resnetlab.data.folder import Files
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput

MOST_SKIPPED = 0.05
"""A data set with a larger share of bad images is refused: something else is wrong with it."""

_CHUNK = 64  # images per task: few enough to stop soon, many enough to keep the overhead small


class BadImages:
    """The policy for images that cannot be read: refuse the data set at the first one, or skip a few and list them.

    `policy` is "error" or "skip"; `total` is the number of images in the whole data set.
    """

    def __init__(self, policy: str, total: int) -> None:
        self.policy = policy
        self.total = total
        self.skipped: list[tuple[str, str]] = []

    def report(self, name: str, reason: str) -> None:
        """Record one bad image, or raise BadInput."""
        if self.policy == "error":
            raise BadInput(f"{reason}; repair or remove it, or skip bad images (--data.bad-images skip)")
        self.skipped.append((name, reason))
        if len(self.skipped) > MOST_SKIPPED * self.total:
            raise BadInput(
                f"more than {MOST_SKIPPED:.0%} of the {self.total:,} images cannot be read ({len(self.skipped)} so "
                f"far); the first: {self.skipped[0][1]}"
            )

    def notes(self) -> tuple[str, ...]:
        """Return a sentence with the number of skipped images, and one sentence for each of them."""
        if not self.skipped:
            return ()
        share = len(self.skipped) / self.total
        count = "1 image was" if len(self.skipped) == 1 else f"{len(self.skipped)} images were"
        return (f"{count} skipped ({share:.2%})", *(f"skipped: {reason}" for _, reason in self.skipped))


def read_files(root: Path, files: Files, preprocessing: Preprocessing, bad: BadImages) -> Split:
    """Read files into memory, uint8 (N, resize_to, resize_to, C), in their order, without those that `bad` skips.

    The contents of the result are the digests of the bytes that were decoded.
    """
    import torch

    size = preprocessing.resize_to
    store = np.empty((len(files), size, size, preprocessing.channels), dtype=np.uint8)
    kept = np.ones(len(files), dtype=bool)
    contents = [""] * len(files)
    base = str(root)  # joined as text: creating a Path for each image takes a tenth of the time

    def read_chunk(start: int) -> list[tuple[int, str]]:
        failures = []
        for i in range(start, min(start + _CHUNK, len(files))):
            path = f"{base}/{files.names[i]}"
            try:
                content = read_bytes(path)
                contents[i] = content_digest(content)
                image = read_image(io.BytesIO(content), name=path, at_least=2 * size)
                store[i] = preprocessing.resize(image)
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
        for target, source in enumerate(chosen.tolist()):  # in place: the images may fill half of the memory
            if target != source:
                store[target] = store[source]
        files = files.subset(chosen)
        contents = [contents[i] for i in chosen.tolist()]
    images = torch.from_numpy(store[: len(files)])
    return Split(images, torch.from_numpy(files.labels.copy()), files.names, tuple(contents))


def sample_headers(root: Path, files: Files, most: int | None = 500) -> list[tuple[tuple[int, int], str]]:
    """Return size (width, height) and mode of at most `most` files, evenly spaced; skip what cannot be opened."""
    step = 1 if most is None else max(1, -(-len(files) // most))
    found = (read_header(root / name) for name in files.names[::step])
    return [header for header in found if header is not None]


def _workers(root: Path, files: Files) -> int:
    """Choose one thread for small images, where Python does most of the work and threads wait for each other."""
    sizes = [width * height for (width, height), _ in sample_headers(root, files, most=20)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return 1 if not sizes or np.median(sizes) < 96 * 96 else max(2, min(8, cores))


def _in_order(
    work: Callable[[int], list[tuple[int, str]]], starts: Iterable[int], workers: int
) -> Generator[list[tuple[int, str]], None, None]:
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


def require_memory(needed: int, what: str) -> None:
    """Raise BadInput if `what` needs more bytes than are available, instead of being killed without a message."""
    available = available_memory()
    if available is not None and needed > available:
        raise BadInput(
            f"{what} needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available; "
            "choose a smaller image size, or use fewer images"
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
