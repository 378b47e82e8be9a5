"""The types of arguments that training functions share, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Real

from resnetlab.errors import BadInput, printable
from resnetlab.runs.config import RunConfig
from resnetlab.runs.stop import StopRequest


def require_arguments(
    *,
    config: object = None,
    folder: object = None,
    began: object = None,
    max_minutes: object = None,
    stop: object = None,
    on_event: object = None,
    changes: object = None,
) -> None:
    """Raise BadInput, with the name of the argument, for an argument of another type; None is always allowed.

    >>> require_arguments(max_minutes=1.5, stop=StopRequest(), on_event=print)
    """
    kinds: dict[str, tuple[object, bool, str]] = {
        "config": (config, isinstance(config, RunConfig), "a RunConfig"),
        "folder": (folder, isinstance(folder, str | os.PathLike) and folder != "", "the path of a folder"),
        "began": (began, is_number(began), "a time of time.perf_counter"),
        "max_minutes": (max_minutes, is_number(max_minutes), "a number"),
        "stop": (stop, isinstance(stop, StopRequest), "a StopRequest"),
        "on_event": (on_event, callable(on_event), "a function"),
        "changes": (changes, isinstance(changes, Mapping), "a table of settings"),
    }
    for name, (value, is_right, kind) in kinds.items():
        if value is not None and not is_right:
            raise BadInput(f"{name} is {printable(repr(value))[:60]}, but must be {kind}")


def is_number(value: object) -> bool:
    """True for whole numbers and floats, NumPy's among them."""
    return isinstance(value, Real) and not isinstance(value, bool)
