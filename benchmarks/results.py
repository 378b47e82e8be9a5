"""Store results: a JSON file for each benchmark, in `benchmarks/results/`.

Repeating a benchmark for some subjects replaces those and keeps the others; each has its date and machine.
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
        raise BadInput(f"{file} cannot be read as a result: {error}; measure it again, or delete it") from None
    if not isinstance(found, dict):
        raise BadInput(f"{file} is not a result; measure it again, or delete it")
    return found


def stored(folder: Path, names: Iterator[str] | list[str]) -> dict[str, dict[str, Any]]:
    """Stored results of some benchmarks, in that order."""
    return {name: read(folder / f"{name}.json") for name in names if (folder / f"{name}.json").exists()}


def store(folder: Path, name: str, result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a result into the stored one, write it, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    before = read(file) if file.exists() else {}
    whole = {"benchmark": name, "environment": dict(environment), **merged(before, result, environment)}
    write_json(file, whole)
    return whole


def merged(before: Mapping[str, Any], result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Replace groups and samples of the same subject, keep the others; replace everything else."""
    groups = {key_of(group): group for group in before.get("groups", [])}
    groups |= {key_of(group): {**group, "environment": dict(environment)} for group in result.get("groups", [])}
    whole = dict(result)
    if groups:
        whole["groups"] = list(groups.values())
        whole["samples"] = {**before.get("samples", {}), **result.get("samples", {})}
    return whole


def key_of(group: Mapping[str, Any]) -> tuple[str, str]:
    return str(group["subject"]), f"{group['title']} {group['unit']}"
