"""The errors that users see: a sentence as message, a stable exit code, and a built-in exception as base class."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class LabError(Exception):
    """The base class of all expected failures.

    The message names the value that was given, the values that are allowed and the next step. The command line prints
    it without a traceback and exits with `exit_code`. Each subclass is also a built-in exception:

    >>> try:
    ...     raise BadInput("unknown model 'resnet43'")
    ... except ValueError as error:
    ...     print(error)
    unknown model 'resnet43'
    """

    exit_code = 1
    is_told = False  # another process has the sentence to print


class BadInput(LabError, ValueError):
    """A name, number, file or folder that the user can correct."""

    exit_code = 2


class Damaged(BadInput):
    """A file that was changed, truncated, or written by another program."""


class BadSettings(BadInput):
    """A setting in a file that is not allowed; the message names it as the file does."""


class NoSoundCheckpoint(LabError, RuntimeError):
    """A run has checkpoints, but all of them are damaged."""

    exit_code = 3


class DiskTrouble(LabError, OSError):
    """A file or folder that could not be written. `errno` and `filename` are None; the message has both."""

    exit_code = 4


class NonFinite(LabError, FloatingPointError):
    """A loss, gradient or output that is NaN or infinite."""

    exit_code = 5


class Stopped(LabError, RuntimeError):
    """A run that was asked to stop and can be resumed."""

    exit_code = 6


class ProcessLost(Stopped):
    """A training of several processes, one of which no longer answers; it can be resumed."""


def unknown(kind: str, given: object, allowed: Iterable[str]) -> BadInput:
    """Return the error for a name that is not in the list; it suggests the nearest name in it.

    >>> print(unknown("model", "resnet43", ["resnet18", "resnet34"]))
    unknown model 'resnet43'; did you mean 'resnet34'? Choose from resnet18, resnet34
    """
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return BadInput(f"unknown {kind} {given!r}{hint} Choose from {', '.join(names)}")


def printable(text: object) -> str:
    """Return `text` on one line, with control characters escaped, so that a file name cannot control the terminal.

    >>> printable("a" + chr(27) + "[2Jb")
    'a\\\\x1b[2Jb'
    """
    plain = str(text)
    if plain.isprintable():  # the usual case, for each of many thousand file names
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def as_typed(path: object) -> str:
    """Return a path as it is typed in a shell, on one line.

    >>> as_typed("my runs/a"), as_typed("runs/a")
    ("'my runs/a'", 'runs/a')
    """
    return printable(shlex.quote(str(path)))
