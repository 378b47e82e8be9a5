"""Words of a command line, and config files, to typed arguments, with mistakes told in one sentence."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from resnetlab.errors import BadInput, LabError, printable

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], words: Sequence[str], program: str, default: Arguments | None = None) -> Arguments:
    """`words` as an instance of `kind`, a dataclass. Raises BadInput; `--help` prints and exits."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is None:
                return tyro.cli(kind, args=list(words), prog=program)
            return tyro.cli(kind, args=list(words), prog=program, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        cause = stop.__context__
        while cause is not None:
            if isinstance(cause, LabError):  # a ValueError of ours, which tyro draws a box around
                raise cause from None
            cause = cause.__context__
        raise BadInput(sentence(said.getvalue())) from None


def sentence(box: str) -> str:
    """The box that tyro draws around a mistake, as one sentence."""
    lines = [re.sub("[│╭╮╰╯]", " ", line).replace("─", "-").strip() for line in box.strip().splitlines()]
    blocks = re.split(r"(?:^|\n)-{3,}(?:\n|$)", "\n".join(lines[1:]).removeprefix("---"))
    what, *rest = [" ".join(block.split()) for block in blocks if block.strip("- \n")] or [box.strip()]
    if match := re.match(r"invalid choice '(.*)' for argument '(.*)'. Expected one of \((.*)\)", what):
        given, flag, choices = match.groups()
        names = [choice.strip(" '") for choice in choices.split(",") if choice.strip()]
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"{flag} is {given!r}{hint} Choose from {', '.join(names)}"
    if match := re.match(r"Unrecognized options: ([^,]*)", what):
        near = re.findall(r"--[a-z][\w.-]*", " ".join(rest).split("For full help")[0])
        hint = f"; did you mean {near[0]}?" if near else ";"
        return f"unknown option {match.group(1)!r}{hint} --help lists them all"
    if match := re.match(r"Error parsing ([^:/]*)[^:]*: (could not convert|invalid literal).*: ('.*')", what):
        kind = "a number" if match.group(2) == "could not convert" else "a whole number"
        return f"{match.group(1)} is {match.group(3)}, but must be {kind}"
    if match := re.match(r"Missing from .*?: (\w+)", what):
        return f"{match.group(1)} is missing; --help says what it is"
    return what[:1].lower() + what[1:]


def words(arguments: Sequence[str], *flags: str) -> list[int]:
    """Where one of `flags` stands, as `--flag value` or `--flag=value`."""
    return [i for i, word in enumerate(arguments) if word.split("=", 1)[0] in flags]


def take_value(arguments: Sequence[str], *flags: str) -> tuple[str | None, list[str]]:
    """The value of the last of `flags`, and the arguments without it.

    >>> take_value(["--lr", "0.1", "--config", "a.toml"], "--config")
    ('a.toml', ['--lr', '0.1'])
    """
    places = words(arguments, *flags)
    if not places:
        return None, list(arguments)
    at = places[-1]
    if "=" in arguments[at]:
        return arguments[at].split("=", 1)[1], [*arguments[:at], *arguments[at + 1 :]]
    if at + 1 == len(arguments):
        raise BadInput(f"{arguments[at]} needs a value")
    return arguments[at + 1], [*arguments[:at], *arguments[at + 2 :]]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a `.json` or `.toml` file, not yet validated."""
    try:
        if path.suffix == ".json":
            settings = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repetition)
        elif path.suffix == ".toml":
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            raise BadInput(f"config file {printable(path)} must end in .json or .toml")
    except LabError:
        raise
    except OSError as error:
        raise BadInput(f"could not read config file {printable(path)}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"config file {printable(path)} is not valid: {printable(error)[:200]}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"config file {printable(path)} holds no table of settings")
    return settings


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of a JSON file; ValueError where a setting is given twice, and JSON itself would take the last."""
    table = dict(pairs)
    if len(table) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} is given twice")
    return table
