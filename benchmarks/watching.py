"""How much memory a tree of processes takes: proportional set size, so that what loader workers share counts once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
EVERY = 0.2  # seconds between two looks
COST = 50  # looking takes at most one part in so many of the time: it walks every page of the tree


@dataclass
class Memory:
    """Looks at the tree below `pid` whenever it is time to; `seen` has (seconds since 1970, bytes)."""

    pid: int
    seen: list[tuple[float, int]] = field(default_factory=list)
    due: float = 0.0

    def look(self) -> None:
        began = time.perf_counter()
        if began < self.due:
            return
        total = sum(filter(None, map(proportional, tree(self.pid))))
        if total:
            self.seen.append((time.time(), total))
        ended = time.perf_counter()
        self.due = began + max(EVERY, COST * (ended - began))

    def peak(self, begin: float = 0.0, end: float = float("inf")) -> int | None:
        """The most bytes seen between two times; None where the system does not tell."""
        return max((size for when, size in self.seen if begin <= when <= end), default=None)


def tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for path in PROC.glob(f"{pid}/task/*/children"):
        with suppress(OSError):  # it has ended meanwhile
            for child in path.read_text().split():
                yield from tree(int(child))


def proportional(pid: int) -> int | None:
    """Bytes of one process, a page that n processes share counted as 1/n; None if it has ended or none can be had."""
    with suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
