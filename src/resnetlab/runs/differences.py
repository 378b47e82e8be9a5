"""Compare settings of runs: which of them differ, and how."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from resnetlab.runs.config import HARMLESS, RunConfig


class Difference(NamedTuple):
    """A setting that differs between two configs."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path} was {self.before!r}, now {self.after!r}"


def differences(before: RunConfig, after: RunConfig) -> list[Difference]:
    """Return the settings that differ, as JSON values, in the order of the config.

    >>> from resnetlab.runs.config import OptimConfig
    >>> print(*differences(RunConfig(epochs=3), RunConfig(epochs=3, seed=1, optim=OptimConfig(lr=0.05))))
    optim.lr was 0.1, now 0.05 seed was 0, now 1
    """
    had, has = flat(before.to_json()), flat(after.to_json())
    return [Difference(path, had[path], has[path]) for path in had if had[path] != has[path]]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to a dictionary by path.

    >>> flat({"seed": 1, "optim": {"lr": 0.05}})
    {'seed': 1, 'optim.lr': 0.05}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def differing(configs: Sequence[RunConfig], besides: Collection[str] = ()) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all configs, by path: their values, a value for each config.

    Settings that change no weight, and those in `besides`, are left out.

    >>> differing([RunConfig(epochs=3), RunConfig(epochs=3, seed=1)])
    {'seed': [0, 1]}
    """
    settings = [flat(config.to_json()) for config in configs]
    paths = [path for path in settings[0] if path not in HARMLESS and path not in besides]
    values = {path: [one[path] for one in settings] for path in paths}
    return {path: found for path, found in values.items() if any(value != found[0] for value in found)}
