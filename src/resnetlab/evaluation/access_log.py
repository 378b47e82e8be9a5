"""Access log of a test set: one line for each scoring, in the run and in the folder that contains the runs.

A test set that is used many times is no longer an unbiased test, so the log counts its uses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from resnetlab.errors import printable
from resnetlab.files import read_regular, sync_folder


@dataclass(frozen=True)
class Access:
    """One scoring of a test split: the time, the command, the weights and the images."""

    when: str
    command: tuple[str, ...]
    run: str | None  # the name of its folder
    model: str
    weights_digest: str
    data: str
    split_digest: str
    images: int
    tta: str


@dataclass(frozen=True)
class AccessCount:
    """Number of times that a test set was used: by one model, and by all runs in the known logs."""

    by_model: int
    runs: int
    accesses: int

    def sentence(self) -> str:
        """The count in words, for reports and the console.

        >>> AccessCount(by_model=1, runs=14, accesses=20).sentence()
        'test set used 1 time by this model; 14 runs were scored on it'
        """
        return f"test set used {times(self.by_model)} by this model; {runs_were(self.runs)} scored on it"


@dataclass(frozen=True)
class AccessLog:
    """Log files. Every access is written to each of them, and reading merges them.

    Lines are appended (`O_APPEND`) and flushed to the disk one at a time, so that several processes can share a file.
    """

    run: str | None
    files: tuple[Path, ...]

    def record(self, access: Access) -> list[str]:
        """Append an access to every file; return a sentence for each file that could not be written."""
        line = json.dumps(asdict(access)).encode() + b"\n"
        failures = []
        for path in self.files:
            try:
                append(path, line)
            except OSError as error:
                reason = f"{printable(path)} could not be written: {error.strerror or error}"
                failures.append(f"this use of the test set is missing in its access log: {reason}")
        return failures

    def accesses(self) -> tuple[list[Access], list[str]]:
        """All accesses, each once, oldest first, and a sentence for each line or file that could not be read."""
        found: dict[Access, None] = {}
        notes = []
        for path in self.files:
            accesses, unread = read(path)
            found |= dict.fromkeys(accesses)
            notes += unread
        return sorted(found, key=lambda access: access.when), notes

    def count(self, weights_digest: str, split_digest: str) -> AccessCount:
        """Count the accesses to a test set by these weights and by all runs.

        Weights that belong to no run count as a run of their own.
        """
        accesses = [access for access in self.accesses()[0] if access.split_digest == split_digest]
        return AccessCount(
            by_model=sum(access.weights_digest == weights_digest for access in accesses),
            runs=len({access.run or access.weights_digest for access in accesses}),
            accesses=len(accesses),
        )


def runs_were(number: int) -> str:
    return "1 run was" if number == 1 else f"{number:,} runs were"


def times(number: int) -> str:
    return "1 time" if number == 1 else f"{number:,} times"


def append(path: Path, line: bytes) -> None:
    """Append a line to a file in one write, and flush it. An unfinished line at the end of the file is closed first."""
    is_new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            line = line if os.read(descriptor, 1) == b"\n" else b"\n" + line
        written = os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if written < len(line):
        raise OSError(f"only {written} of {len(line)} bytes were written")
    if is_new:
        sync_folder(path.parent)


def read(path: Path) -> tuple[list[Access], list[str]]:
    """The accesses in a log file, none if it does not exist, and a sentence for each damaged line."""
    try:
        lines = read_regular(path).split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"the access log {printable(path)} could not be read: {error.strerror or error}"]
    accesses, notes = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        access = parse_line(line)
        if access is None:
            notes.append(f"line {number} of the access log {printable(path)} is damaged and was skipped")
        else:
            accesses.append(access)
    return accesses, notes


KINDS: dict[str, type | tuple[type, ...]] = {
    "when": str,
    "run": (str, type(None)),
    "model": str,
    "weights_digest": str,
    "data": str,
    "split_digest": str,
    "images": int,
    "tta": str,
}


def parse_line(line: bytes) -> Access | None:
    """The access in a line, or None if the line contains none; unknown keys, from later versions, are ignored."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("command"), list):
        return None
    if not all(isinstance(given.get(name, 0.0), kind) for name, kind in KINDS.items()):
        return None
    return Access(**{name: given[name] for name in KINDS}, command=tuple(map(str, given["command"])))
