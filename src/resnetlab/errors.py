"""What can go wrong, as sentences: each kind of error knows the exit code that scripts may rely on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """An expected failure: its message says what was given, what is allowed and what to do; no traceback is shown."""

    exit_code = 1


class BadInput(LabError):
    """Something a person can mend: a name, a number, a file, a folder."""

    exit_code = 2


class Damaged(BadInput):
    """A file that is not what was written: a flipped byte, a missing end, another program's file under its name."""


class NoSoundCheckpoint(LabError):
    """A run has checkpoints, but none of them is whole."""

    exit_code = 3


class DiskTrouble(LabError):
    """What should have been written could not be."""

    exit_code = 4


class NonFinite(LabError):
    """The loss or a gradient is NaN or infinite."""

    exit_code = 5


class Stopped(LabError):
    """The run was asked to stop; it can be resumed."""

    exit_code = 6


def unknown(kind: str, given: str, allowed: Iterable[str]) -> BadInput:
    """The error for a name that is not in the list, with the nearest one that is.

    >>> print(unknown("model", "resnet43", ["resnet18", "resnet34"]))
    unknown model 'resnet43'; did you mean 'resnet34'? Choose from resnet18, resnet34
    """
    names = list(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return BadInput(f"unknown {kind} {given!r}{hint} Choose from {', '.join(names)}")


def printable(text: object) -> str:
    """`text` on one line and without control characters, so that a file name cannot steer a terminal.

    >>> printable("a" + chr(27) + "[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
