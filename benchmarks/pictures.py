"""Figures of results: horizontal bars, ours first, each with a line from the lowest to the highest round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import slug
from resnetlab.plots.style import INK, MUTED, VALIDATION, fit_below_header, house_style, new_figure, save

OURS, OTHERS = VALIDATION, "#b9c1cc"
ROW, BETWEEN, LETTER = 0.34, 0.3, 0.075  # inches per bar, between two rows of panels, and per letter of a name


def draw(name: str, entry: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Draw a figure for each subject of a machine's result, its units side by side; return their paths."""
    subjects: dict[str, list[Mapping[str, Any]]] = {}
    for group in entry.get("groups", []):
        if any(row["values"] for row in group["contenders"]):
            subjects.setdefault(group["subject"], []).append(group)
    found = {subject: folder / picture_name(name, subject, entry["environment"]) for subject in subjects}
    for subject, groups in subjects.items():
        save(bars(name, groups), found[subject])
    return found


def picture_name(name: str, subject: str, environment: Mapping[str, Any]) -> str:
    """
    >>> machine = {"device_name": "AMD EPYC, 2 cores", "threads": 2}
    >>> picture_name("training", "resnet18", machine)
    'training-resnet18-amd-epyc-2-cores-2-threads.png'
    """
    return f"{name if name == subject else f'{name}-{subject}'}-{slug(environment)}.png"


@house_style()
def bars(name: str, groups: Sequence[Mapping[str, Any]]) -> Figure:
    """Figure with one panel per group: a row for each title, a column for each unit."""
    columns = len({group["unit"] for group in groups})
    lines = math.ceil(len(groups) / columns)
    most = max(len(measured(group)) for group in groups)
    rounds = max(len(row["values"]) for group in groups for row in group["contenders"])
    machine = groups[0].get("environment", {}).get("device_name", "")
    told = f"median of {rounds} interleaved rounds, line from lowest to highest" if rounds > 1 else "one round"
    titles = {group["title"] for group in groups}
    heading = titles.pop() if len(titles) == 1 else groups[0]["subject"]
    longest = max(len(row["name"]) for group in groups for row in measured(group))
    width = columns * max(5.6, 3.8 + LETTER * longest) + 1.0
    height = lines * (ROW * most + 0.75) + (lines - 1) * BETWEEN
    figure = new_figure(width, height, f"{name}: {heading}", f"{told}; {machine}")
    places = figure.subplots(lines, columns, squeeze=False).flat
    for axes, group in zip(places, groups, strict=True):
        panel(axes, group, titled=len(groups) > 1 and bool(titles))
    fit_below_header(figure)
    return figure


def measured(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in group["contenders"] if row["values"]]


def panel(axes: Axes, group: Mapping[str, Any], *, titled: bool) -> None:
    rows = measured(group)
    highest = max(row["highest"] for row in rows) or 1.0
    ours = group["contenders"][0]["name"]
    first = "resnetlab" if ours.startswith("resnetlab") else ours
    for place, row in enumerate(rows):
        is_ours = row["name"] == ours or row["name"].startswith("resnetlab")
        axes.barh(place, row["median"], 0.68, color=OURS if is_ours else OTHERS)
        axes.plot([row["lowest"], row["highest"]], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
        text = number(row["median"])
        if "first_against_it" in row:
            text += f"   ({first}: {number(row['first_against_it'])}×)"
        axes.text(row["highest"] + highest * 0.015, place, text, va="center", size=9, color=INK if not place else MUTED)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, highest * 1.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    better = "more is better" if group["more_is_better"] else "less is better"
    axes.set_xlabel(f"{group['unit']} ({better})")
    axes.grid(axis="x")
    if titled:
        axes.set_title(group["title"])


def number(value: float) -> str:
    """Three digits that count.

    >>> number(1234.5), number(12.345), number(0.012345)
    ('1,234', '12.3', '0.0123')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"
