"""How much memory is left, asked before it is needed: a killed process explains nothing."""

from __future__ import annotations

import os
from pathlib import Path

from resnetlab.errors import BadInput


def available_memory(system: Path = Path("/")) -> int | None:
    """Bytes that can still be used, the limit of a container included; None where the system does not say.

    >>> (available_memory() or 1) > 0
    True
    """
    found = [amount for amount in (_free(system), _control_group(system)) if amount is not None]
    return min(found) if found else None


def require_memory(needed: int, what: str) -> None:
    """Raise BadInput when `needed` bytes for `what` are more than there are."""
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
    try:  # macOS says what is built in, not what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _control_group(system: Path) -> int | None:
    """What a container may still take (cgroup 2); its reclaimable file cache counts as free."""
    group = system / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())  # the word "max" where there is none
        used = int((group / "memory.current").read_text())
        cache = [line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if line[:5] == "file "]
        return max(0, limit - used + sum(map(int, cache)))
    except (OSError, ValueError):
        return None
