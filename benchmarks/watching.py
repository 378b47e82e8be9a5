"""Memory of a process tree: proportional set size, so that memory shared with loader workers counts once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
EVERY = 0.2  # seconds between two measurements
COST = 50  # a measurement walks every page of the tree, so it takes at most 1/50 of the time


@dataclass
class Memory:
    """Measures the process tree of `pid` at most every `EVERY` seconds; `seen` has (seconds since 1970, bytes)."""

    pid: int
    seen: list[tuple[float, int]] = field(default_factory=list)
    due: float = 0.0

    def measure(self) -> None:
        began = time.perf_counter()
        if began < self.due:
            return
        total = sum(filter(None, map(proportional, tree(self.pid))))
        if total:
            self.seen.append((time.time(), total))
        ended = time.perf_counter()
        self.due = began + max(EVERY, COST * (ended - began))

    def peak(self, begin: float = 0.0, end: float = float("inf")) -> int | None:
        """Highest number of bytes between two times; None if the system does not provide it."""
        return max((size for when, size in self.seen if begin <= when <= end), default=None)


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for path in PROC.glob(f"{pid}/task/*/children"):
        with suppress(OSError):  # the process has ended
            for child in path.read_text().split():
                yield from tree(int(child))


def proportional(pid: int) -> int | None:
    """Bytes of one process; a page shared by n processes counts as 1/n. None if not available."""
    with suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
