"""Where results are kept: a JSON file and pictures for each benchmark, in `benchmarks/results/`.

A benchmark that is run again for some subjects replaces those and leaves the others; each says when and on what
machine it was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput
from resnetlab.files import write_json


def read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as a result: {error}; measure it again, or take it away") from None
    if not isinstance(found, dict):
        raise BadInput(f"{file} is not a result; measure it again, or take it away")
    return found


def stored(folder: Path, names: Iterator[str] | list[str]) -> dict[str, dict[str, Any]]:
    """The stored results of some benchmarks, in that order."""
    return {name: read(folder / f"{name}.json") for name in names if (folder / f"{name}.json").exists()}


def store(folder: Path, name: str, result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Write what was measured over what was there, and return the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    before = read(file) if file.exists() else {}
    whole = {"benchmark": name, "environment": dict(environment), **merged(before, result, environment)}
    write_json(file, whole)
    return whole


def merged(before: Mapping[str, Any], result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """New groups in the places of old ones about the same thing; samples likewise; all else is replaced."""
    groups = {key_of(group): group for group in before.get("groups", [])}
    groups |= {key_of(group): {**group, "environment": dict(environment)} for group in result.get("groups", [])}
    whole = dict(result)
    if groups:
        whole["groups"] = list(groups.values())
        whole["samples"] = {**before.get("samples", {}), **result.get("samples", {})}
    return whole


def key_of(group: Mapping[str, Any]) -> tuple[str, str]:
    return str(group["subject"]), f"{group['title']} {group['unit']}"
