"""The exact command that reproduces a run, from its config."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from resnetlab.errors import printable
from resnetlab.runs import recipes
from resnetlab.runs.config import SHORT_FLAGS, RunConfig
from resnetlab.runs.differences import differences

HIDDEN = ("recipe", "epochs", "steps")


def commands(config: RunConfig, extended_at: Sequence[int] = ()) -> list[str]:
    """The commands that reproduce a run: its recipe and every setting that differs; several for an extended run.

    >>> commands(recipes.get("quickstart").changed({"epochs": 5, "seed": 3, "augment": {"flip": True}}))
    ['resnetlab train quickstart --augment.flip --seed 3 --epochs 5']
    """
    recipe = config.recipe if config.recipe in recipes.RECIPES else "quickstart"
    base = recipes.get(recipe)
    changed = [difference for difference in differences(base, config) if difference.path not in HIDDEN]
    flags = [word for difference in changed for word in flag(difference.path, difference.after)]
    if config.data.fold is None:  # of a cross-validation
        flags = ["--folds" if word == "--data.folds" else word for word in flags]
    whole = ["--steps", str(config.steps)] if config.steps is not None else ["--epochs", str(config.epochs)]
    if not extended_at:
        length = [] if (config.epochs, config.steps) == (base.epochs, base.steps) else whole
        return [typed("resnetlab", "train", recipe, *flags, *length)]
    lengths = [["--steps", str(steps)] for steps in extended_at] + [whole]
    first = typed("resnetlab", "train", recipe, *flags, *lengths[0], "--out", "RUN")
    return [first, *(typed("resnetlab", "resume", "RUN", *length) for length in lengths[1:])]


def typed(*words: str) -> str:
    """Quote words for a shell, on one line."""
    return printable(shlex.join(words))


def flag(path: str, value: Any) -> Iterator[str]:
    """The command-line words of one setting."""
    section, _, name = SHORT_FLAGS.get(path, path).replace("_", "-").rpartition(".")
    dotted = f"{section}." if section else ""
    if isinstance(value, bool):
        yield f"--{dotted}{'' if value else 'no-'}{name}"
        return
    yield f"--{dotted}{name}"
    yield from map(str, value) if isinstance(value, list) else [str(value)]
