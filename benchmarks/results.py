"""Store results: a JSON file for each benchmark, in `benchmarks/results/`, with an entry for each machine.

Repeating a benchmark replaces the subjects that were measured again on the same machine. The rows of other machines and
subjects are kept; each has its date and the commit of its code. `forget` removes rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput
from resnetlab.files import write_json

Entry = dict[str, Any]  # the result of one machine, with its environment; each group has its own


def read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as a result: {error}; measure it again, or delete it") from None
    if not isinstance(found, dict):
        raise BadInput(f"{file} is not a result; measure it again, or delete it")
    return found


def entries(folder: Path, name: str) -> list[Entry]:
    """The stored result of each machine; none if the benchmark was not measured."""
    file = folder / f"{name}.json"
    return list(read(file)["machines"]) if file.exists() else []


def stored(folder: Path, names: Iterable[str]) -> dict[str, list[Entry]]:
    """Stored results of the benchmarks that were measured, in that order."""
    found = {name: entries(folder, name) for name in names}
    return {name: of_machines for name, of_machines in found.items() if of_machines}


def store(folder: Path, name: str, result: Mapping[str, Any], environment: Mapping[str, Any]) -> list[Entry]:
    """Merge a result into the stored entry of its machine, write the file, and return all entries."""
    found = {machine_of(entry["environment"]): entry for entry in entries(folder, name)}
    machine = machine_of(environment)
    found[machine] = {"environment": dict(environment), **merged(found.get(machine, {}), result, environment)}
    return write(folder, name, list(found.values()))


def write(folder: Path, name: str, found: list[Entry]) -> list[Entry]:
    """Write the entries of a benchmark; without any, delete its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if found:
        write_json(folder / f"{name}.json", {"benchmark": name, "machines": found})
    else:
        (folder / f"{name}.json").unlink(missing_ok=True)
    return found


def merged(before: Mapping[str, Any], result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Replace groups and samples of the same subject, keep the others; replace everything else."""
    new = [{**group, "environment": dict(environment)} for group in result.get("groups", [])]
    measured = {group["subject"] for group in new}
    kept = [group for group in before.get("groups", []) if group["subject"] not in measured]
    places = list(dict.fromkeys(group["subject"] for group in (*before.get("groups", []), *new)))
    groups = sorted([*kept, *new], key=lambda group: places.index(group["subject"]))
    whole = dict(result)
    if groups:
        whole["groups"] = groups
        whole["samples"] = {**before.get("samples", {}), **result.get("samples", {})}
    return whole


def forget(folder: Path, name: str, *, machine: str | None = None, before: str | None = None) -> list[str]:
    """Remove rows whose machine contains a word, or that were measured before a date; return what was removed."""

    def stays(environment: Mapping[str, Any]) -> bool:
        hit = (machine is None or machine in machine_of(environment)) and (
            before is None or environment["started"] < before
        )
        return not hit

    removed, kept = [], []
    for entry in entries(folder, name):
        place = f"{name} on {machine_of(entry['environment'])}"
        if "groups" not in entry:
            removed += [] if stays(entry["environment"]) else [place]
            kept += [entry] * stays(entry["environment"])
            continue
        groups = [group for group in entry["groups"] if stays(group["environment"])]
        subjects = {group["subject"] for group in groups}
        removed += [f"{place}: {group['title']}, {group['unit']}" for group in entry["groups"] if group not in groups]
        if groups:
            gone = {group["subject"] for group in entry["groups"]} - subjects
            samples = {subject: found for subject, found in entry["samples"].items() if subject not in gone}
            kept.append({**entry, "groups": groups, "samples": samples})
    if removed:
        write(folder, name, kept)
    return removed


def machine_of(environment: Mapping[str, Any]) -> str:
    """
    >>> machine_of({"device_name": "AMD EPYC family 25 model 17, 2 cores", "threads": 2})
    'AMD EPYC family 25 model 17, 2 cores, 2 threads'
    """
    return f"{environment['device_name']}, {threads_of(environment)}"


def threads_of(environment: Mapping[str, Any]) -> str:
    """
    >>> threads_of({"threads": 1}), threads_of({"threads": 2})
    ('1 thread', '2 threads')
    """
    return f"{environment['threads']} thread{'s' * (environment['threads'] != 1)}"


def slug(environment: Mapping[str, Any]) -> str:
    """The machine in the name of a file.

    >>> slug({"device_name": "AMD EPYC family 25 model 17, 2 cores", "threads": 2})
    'amd-epyc-family-25-model-17-2-cores-2-threads'
    """
    return re.sub(r"[^a-z0-9]+", "-", machine_of(environment).lower()).strip("-")
