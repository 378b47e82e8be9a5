"""Write docs/benchmarks.md from the stored results; no number in it is typed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pictures import number, picture_name
from benchmarks.results import slug, threads_of

HEAD = """# Benchmarks

<!-- written by `python -m benchmarks table` from benchmarks/results/; do not edit -->

Each table was measured in one run on one machine, in interleaved rounds: each round runs every contender once, each in
its own process. The line above a table has the machine, the number of threads, the last commit that changed the
package, the date, and the number of rounds. Where there are several rounds, the numbers are medians over them, with the
lowest and the highest value, and "ours ÷ it" is the median over the rounds of the first row's number divided by that
row's number. One or two rounds are too few for a comparison; such results are marked, until they are measured again.
Reproduce it with `make bench`, or one benchmark with `python -m benchmarks NAME`.
"""
ENOUGH = 3  # rounds: the median of two is their mean, and one has no spread
Entries = Sequence[Mapping[str, Any]]  # the stored results of one benchmark, one for each machine


def page(results: Mapping[str, Entries], about: Mapping[str, str], pictures: Path) -> str:
    """Text of the page; `pictures` is the folder of the figures relative to the page."""
    parts = [HEAD]
    for name, entries in results.items():
        parts += section(name, entries, about[name], pictures)
    return "\n".join(parts)


def section(name: str, entries: Entries, about: str, pictures: Path) -> Iterator[str]:
    yield f"## {name}\n\n{about[0].upper()}{about[1:]}.\n"
    if "page" in entries[0]:
        yield f"See [{entries[0]['page']}]({Path(entries[0]['page']).name}).\n"
        return
    for entry in entries:
        for text in entry.get("notes", ()):
            yield f"On {entry['environment']['device_name']}: {text}\n"
    by_subject: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        for group in entry.get("groups", ()):
            by_subject.setdefault(group["subject"], []).append(group)
    for subject, groups in by_subject.items():
        yield f"### {groups[0]['title']}\n"
        machine = title = None
        for group in groups:
            is_first = slug(group["environment"]) != machine  # the groups of other units have the same processes
            if is_first:
                machine, title = slug(group["environment"]), group["title"]
                yield f"{measured_on(group['environment'])} {rounds_of([group])}\n"
                if any(row["values"] for row in group["contenders"]):
                    picture = pictures / picture_name(name, subject, group["environment"])
                    yield f"![{title}]({picture.as_posix()})\n"
            elif group["title"] != title:
                title = group["title"]
                yield f"**{title}**\n"
            yield table(group)
            if is_first:
                yield from remarks(group)


def measured_on(environment: Mapping[str, Any]) -> str:
    """Machine, versions, commit and date on one line."""
    commit = f"commit {environment['commit']}, " if environment.get("commit") else ""
    return (
        f"{environment['device_name']} ({capabilities(environment)}), {threads_of(environment)}, "
        f"{environment['cpu_capability']}, torch {environment['torch']}, Python {environment['python']}, "
        f"{commit}{environment['started'][:10]}."
    )


def capabilities(environment: Mapping[str, Any]) -> str:
    """The instructions of a machine that matter for training in bfloat16.

    >>> capabilities({"bf16": True, "amx": False}), capabilities({"bf16": True, "amx": True})
    ('bf16, no AMX', 'bf16 and AMX')
    """
    if "amx" not in environment:
        return f"{environment['precision']}, AMX not recorded" if "precision" in environment else "not recorded"
    if not environment["bf16"]:
        return "no bf16"
    return "bf16 and AMX" if environment["amx"] else "bf16, no AMX"


def rounds_of(groups: Iterable[Mapping[str, Any]]) -> str:
    """Sentence with the number of rounds behind the numbers of some groups.

    >>> rounds_of([{"contenders": [{"values": [1.0]}]}]), rounds_of([{"contenders": [{"values": [1.0, 2.0, 3.0]}]}])
    ('One round, which is too few.', 'Medians of 3 rounds.')
    >>> rounds_of([{"contenders": [{"values": [1.0, 2.0]}]}])
    'Means of 2 rounds, which are too few.'
    """
    counts = sorted({len(row["values"]) for group in groups for row in group["contenders"] if row["values"]})
    if not counts:
        return "No round succeeded."
    if counts == [1]:
        return "One round, which is too few."
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    if counts[-1] < ENOUGH:
        return f"Means of {several} rounds, which are too few."
    return f"Medians of {several} rounds" + (f"; fewer than {ENOUGH} are too few." if counts[0] < ENOUGH else ".")


def strongest(group: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The contender that comes closest to the first one, or is furthest before it; None if there is no other."""
    others = [row for row in group["contenders"][1:] if "first_against_it" in row]
    best = min if group["more_is_better"] else max
    return best(others, key=lambda row: row["first_against_it"], default=None)


def table(group: Mapping[str, Any]) -> str:
    rows = [row for row in group["contenders"] if row["values"]]
    extra = list(dict.fromkeys(key for row in rows for key in row.get("extra", {})))
    several = any(len(row["values"]) > 1 for row in rows)  # a single round has no spread
    head = ["", f"{group['unit']}", *["lowest – highest"] * several, "ours ÷ it", *extra]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [
            row["name"],
            number(row["median"]),
            *[f"{number(row['lowest'])} – {number(row['highest'])}"] * several,
            against(row),
            *(number(row["extra"][key]) if key in row.get("extra", {}) else "" for key in extra),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def against(row: Mapping[str, Any]) -> str:
    """The first row's number divided by this row's, if they are compared."""
    return f"{number(row['first_against_it'])}×" if "first_against_it" in row else ""


def remarks(group: Mapping[str, Any]) -> Iterator[str]:
    """Notes on rows, and the reasons for missing ones."""
    lines = [f"- {row['name']}: {note}" for row in group["contenders"] for note in row.get("notes", ())]
    lines += [f"- {row['name']}: failed. {row['failed']}" for row in group["contenders"] if row.get("failed")]
    if lines:
        yield "\n".join(lines) + "\n"


def relative(target: Path, page_file: Path) -> Path:
    return Path(os.path.relpath(target, page_file.parent))
