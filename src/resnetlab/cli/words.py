"""Translate the messages of the library, which use Python's names, to the words of the command line."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

from resnetlab.cli.options import options_of
from resnetlab.runs.config import RunConfig

ARGUMENTS = {
    "allow_changed_data": "--allow-changed-data",
    "allowed": "--allow-change",
    "copy": "--copy",
    "count": "--seeds",
    "data": "--data",
    "folder": "--out",
    "format": "--format",
    "images": "--images",
    "images_per_shard": "--images-per-shard",
    "max_drop": "--max-drop",
    "max_minutes": "--max-minutes",
    "mean": "--mean",
    "out": "--out",
    "resume": "--resume",
    "similar": "--similar",
    "split": "--split",
    "std": "--std",
    "strict": "--strict-resume",
    "study": "--study",
    "top_k": "--top-k",
    "trials": "--trials",
    "tries": "--tries",
    "triton": "--triton",
    "tta": "--tta",
    "weights": "--weights",
}
"""The options of a command that are arguments of a Python function, by their name there."""

PATH = re.compile(r"(?<![\w./'\"-])([a-z]+\.[a-z_]+)(?![\w/.]*[\w/])")
NAME = re.compile(r"(?:(?<=^)|(?<=; ))([a-z_]+)(?= (?:is|was|must) )")


def in_flags(message: str) -> str:
    """Return a message with flags for settings and commands for calls.

    The library writes both between backticks; settings with a section, and those at the beginning of a clause, also
    stand alone. Other text between backticks stays as it is.

    >>> in_flags("optim.lr is -1; undo it, or add `allowed=['optim.lr', 'seed']`")
    '--lr is -1; undo it, or add --allow-change optim.lr seed'
    >>> in_flags("resume with: `resnetlab.resume('my runs/a')`; try a smaller `lr`, or `resnetlab runs`")
    "resume with: resnetlab resume 'my runs/a'; try a smaller --lr, or `resnetlab runs`"
    """
    parts = message.split("`")
    if len(parts) % 2 == 0:  # a backtick of somebody else's, as in the name of a file
        return plain(message)
    return "".join(translated(part) or f"`{part}`" if place % 2 else plain(part) for place, part in enumerate(parts))


def plain(text: str) -> str:
    """Replace names of settings outside of backticks."""
    text = PATH.sub(lambda found: flags().get(found[1], found[1]), text)
    return NAME.sub(lambda found: flags().get(found[1], found[1]), text)


def translated(code: str) -> str | None:
    """Return an argument or a call as it is typed on the command line; None for anything else."""
    is_call = code.startswith("resnetlab.")
    try:
        call = ast.parse(code if is_call else f"f({code})", mode="eval").body
        if not isinstance(call, ast.Call):
            return None
        words = ["resnetlab", ast.unparse(call.func).removeprefix("resnetlab.").replace("_", "-")] if is_call else []
        given = map(ast.literal_eval, call.args) if is_call else (flag_of(ast.unparse(name)) for name in call.args)
        words += map(str, given)
        for keyword in call.keywords:
            words += typed(keyword.arg or "", ast.literal_eval(keyword.value))
    except (SyntaxError, ValueError, KeyError):
        return None
    return shlex.join(words)


def typed(name: str, value: Any) -> Iterator[str]:
    """Yield the words for an argument and its value."""
    if name == "resume" and value is True:
        value = "auto"
    if value is False:
        section, dot, last = flag_of(name).removeprefix("--").rpartition(".")
        yield f"--{section}{dot}no-{last}"
        return
    yield flag_of(name)
    if value is not True:
        yield from map(str, value) if isinstance(value, list | tuple) else [str(value)]


def flag_of(name: str) -> str:
    """The flag of a setting or argument. Raises KeyError if there is none."""
    return flags().get(name) or ARGUMENTS[name]


@cache
def flags() -> dict[str, str]:
    """The flags of all settings by path, and by their last name where that is unique."""
    found = {option.path: option.flags[0] for option in options_of(RunConfig)}
    last = [path.rpartition(".")[2] for path in found]
    return {name: flag for name, flag in zip(last, found.values(), strict=True) if last.count(name) == 1} | found
