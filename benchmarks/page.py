"""Write docs/benchmarks.md from the stored results; no number in it is typed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pictures import number, picture_name

HEAD = """# Benchmarks

<!-- written by `python -m benchmarks table` from benchmarks/results/; do not edit -->

Each table was measured in one run on one machine, in interleaved rounds: each round runs every contender once, each in
its own process with the machine's default number of threads. The numbers are medians over the rounds, with the lowest
and the highest value. "ours ÷ it" is the median over the rounds of the first row's number divided by that row's number.
Reproduce it with `make bench`, or one benchmark with `python -m benchmarks NAME`.
"""


def page(results: Mapping[str, Mapping[str, Any]], about: Mapping[str, str], pictures: Path) -> str:
    """Text of the page; `pictures` is the folder of the figures relative to the page."""
    parts = [HEAD]
    for name, result in results.items():
        parts += section(name, result, about[name], pictures)
    return "\n".join(parts)


def section(name: str, result: Mapping[str, Any], about: str, pictures: Path) -> Iterator[str]:
    yield f"## {name}\n\n{about[0].upper()}{about[1:]}.\n"
    if "page" in result:
        yield f"See [{result['page']}]({Path(result['page']).name}).\n"
        return
    for text in result.get("notes", ()):
        yield f"{text}\n"
    subject = title = None
    for group in result.get("groups", ()):
        is_first = group["subject"] != subject
        if is_first:
            subject, title = group["subject"], group["title"]
            yield f"### {title}\n"
            yield f"{measured_on(group.get('environment', result.get('environment', {})))}\n"
            if any(row["values"] for row in group["contenders"]):
                yield f"![{title}]({(pictures / picture_name(name, subject)).as_posix()})\n"
        elif group["title"] != title:
            title = group["title"]
            yield f"**{title}**\n"
        yield table(group)
        if is_first:  # the groups of other units have the same processes
            yield from remarks(group)


def measured_on(environment: Mapping[str, Any]) -> str:
    """Machine, versions and date on one line."""
    if not environment:
        return "Machine unknown."
    return (
        f"{environment['device_name']}, {environment['threads']} threads, {environment['cpu_capability']}, "
        f"torch {environment['torch']}, Python {environment['python']}, {environment['started'][:10]}."
    )


def table(group: Mapping[str, Any]) -> str:
    rows = [row for row in group["contenders"] if row["values"]]
    extra = list(dict.fromkeys(key for row in rows for key in row.get("extra", {})))
    head = ["", f"{group['unit']}", "lowest – highest", "ours ÷ it", *extra]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [
            row["name"],
            number(row["median"]),
            f"{number(row['lowest'])} – {number(row['highest'])}",
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
