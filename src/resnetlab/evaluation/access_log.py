"""The ledger of a test set: every look at it is a line that stays, in the run and at the root of its runs.

A test set that has been looked at often has quietly become a validation set; the ledger says how often.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from resnetlab.errors import printable
from resnetlab.files import sync_folder


@dataclass(frozen=True)
class Access:
    """One scoring of a test split: when, by which command, which weights, which images."""

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
class Count:
    """How often a test set has been looked at, by one model and by all runs whose ledgers are known."""

    by_model: int
    runs: int
    looks: int

    def sentence(self) -> str:
        """What reports say.

        >>> Count(by_model=1, runs=14, looks=20).sentence()
        'this model 1 time; 14 runs were scored on this test set'
        """
        return f"this model {times(self.by_model)}; {runs_were(self.runs)} scored on this test set"


@dataclass(frozen=True)
class AccessLog:
    """The files that a look is written to, each of them whole; a line that one of them lacks is in another.

    Lines are appended (`O_APPEND`) and flushed to the disk one at a time, so that several processes can share a file.
    """

    run: str | None
    files: tuple[Path, ...]

    def record(self, look: Access) -> list[str]:
        """Write a look down; where that cannot be done, a sentence that says so."""
        line = json.dumps(asdict(look)).encode() + b"\n"
        failures = []
        for path in self.files:
            try:
                append(path, line)
            except OSError as error:
                why = f"{printable(path)} could not be written: {error.strerror or error}"
                failures.append(f"this look at the test set is missing in its ledger: {why}")
        return failures

    def looks(self) -> tuple[list[Access], list[str]]:
        """All looks, each once, oldest first, and sentences about what could not be read."""
        found: dict[Access, None] = {}
        notes = []
        for path in self.files:
            looks, unread = read(path)
            found |= dict.fromkeys(looks)
            notes += unread
        return sorted(found, key=lambda look: look.when), notes

    def count(self, weights_digest: str, split_digest: str) -> Count:
        """How often these weights, and how many runs in all, were scored on that test set.

        Weights that belong to no run count as a run of their own.
        """
        looks = [look for look in self.looks()[0] if look.split_digest == split_digest]
        return Count(
            by_model=sum(look.weights_digest == weights_digest for look in looks),
            runs=len({look.run or look.weights_digest for look in looks}),
            looks=len(looks),
        )


def runs_were(number: int) -> str:
    return "1 run was" if number == 1 else f"{number:,} runs were"


def times(number: int) -> str:
    return "1 time" if number == 1 else f"{number:,} times"


def append(path: Path, line: bytes) -> None:
    """Add a line to a file in one write, and flush it. What an interrupted write left there is closed off first."""
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
        raise OSError(f"only {written} of {len(line)} bytes fitted")
    if is_new:
        sync_folder(path.parent)


def read(path: Path) -> tuple[list[Access], list[str]]:
    """The looks in a ledger, and a sentence for each line that is damaged; there are none where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"the ledger {printable(path)} could not be read: {error.strerror or error}"]
    looks, notes = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        look = look_in(line)
        if look is None:
            notes.append(f"line {number} of the ledger {printable(path)} is damaged and was left out")
        else:
            looks.append(look)
    return looks, notes


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


def look_in(line: bytes) -> Access | None:
    """The look that a line holds, or None for anything else; what a later version adds to it is passed over."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("command"), list):
        return None
    if not all(isinstance(given.get(name, 0.0), kind) for name, kind in KINDS.items()):
        return None
    return Access(**{name: given[name] for name in KINDS}, command=tuple(map(str, given["command"])))
