"""Figures of a sweep: parallel coordinates, the importance of each setting, and the scores over the trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from resnetlab.plots.style import (
    INK,
    MUTED,
    PALE,
    RIGHT,
    VALIDATION,
    WRONG,
    counted,
    fit_below_header,
    house_style,
    name,
    new_figure,
)

TICKS = 5
FAINT_LINE = "#b9bfc9"


@dataclass(frozen=True)
class Axis:
    """A vertical axis of parallel coordinates: a setting, and what the trials have tried of it."""

    label: str
    values: Sequence[Any]  # of each trial
    log: bool = False
    choices: Sequence[Any] | None = None  # of a setting with a list of values; None: numbers

    def heights(self) -> list[float]:
        """The values as heights from 0 to 1."""
        if self.choices is not None:
            places = {repr(choice): place for place, choice in enumerate(self.choices)}
            return [(places[repr(value)] + 0.5) / len(places) for value in self.values]
        low, high = self.limits()
        return [0.5 if high == low else (self.scaled(value) - low) / (high - low) for value in self.values]

    def limits(self) -> tuple[float, float]:
        scaled = [self.scaled(value) for value in self.values]
        return min(scaled), max(scaled)

    def scaled(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and labels."""
        if self.choices is not None:
            step = -(-len(self.choices) // 12)  # at most a dozen names
            places = range(0, len(self.choices), step)
            return [((place + 0.5) / len(self.choices), name(shown(self.choices[place]), 16)) for place in places]
        low, high = self.limits()
        if low == high:
            return [(0.5, shown(self.values[0]))]
        if all(isinstance(value, int) for value in self.values) and not self.log:
            whole = MaxNLocator(TICKS, integer=True).tick_values(low, high)
            return [((value - low) / (high - low), f"{value:.0f}") for value in whole if low <= value <= high]
        places = np.linspace(0, 1, TICKS).tolist()
        return [(place, shown(self.unscaled(low + place * (high - low)))) for place in places]

    def unscaled(self, value: float) -> float:
        return 10**value if self.log else value


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


@house_style()
def parallel_coordinates(
    axes: Sequence[Axis],
    scores: Sequence[float],
    complete: Sequence[bool],
    title: str,
    *,
    lower_is_better: bool = False,
) -> Figure:
    """A line for each trial through its settings to its score, coloured by the score; pruned trials are grey.

    The score of a pruned trial is that of its last epoch. The best trial is drawn thick.
    """
    done = sum(complete)
    subtitle = f"{counted(done, 'complete trial')} coloured by score, {len(scores) - done:,} pruned in grey"
    figure = new_figure(max(7.0, 1.9 * (len(axes) + 1)), 4.6, title, subtitle)
    fit_below_header(figure)
    plot = figure.subplots()
    columns = np.array([axis.heights() for axis in axes]).T.reshape(len(scores), len(axes))
    good = -np.array(scores) if lower_is_better else np.array(scores)
    shade = ranks(good, complete)
    colours = matplotlib.colormaps["viridis"]
    best = max((k for k, is_done in enumerate(complete) if is_done), key=lambda k: (good[k], -k), default=None)
    for k in sorted(range(len(scores)), key=lambda k: (complete[k], k == best, good[k])):
        colour = colours(0.95 * shade[k]) if complete[k] else FAINT_LINE
        width = 3.2 if k == best else 1.3 if complete[k] else 0.8
        plot.plot(*curve(columns[k]), color=colour, lw=width, zorder=4 if k == best else 2)
    plot.set_xlim(-0.15, len(axes) - 1 + 0.55)
    plot.set_ylim(-0.04, 1.04)
    plot.set_xticks(range(len(axes)), [name(axis.label, 18) for axis in axes], color=INK)
    plot.set_yticks([])
    for side in ("left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.tick_params(axis="x", length=0)
    for place, axis in enumerate(axes):
        plot.axvline(place, color="#8d95a3", lw=1, zorder=3)
        for height, label in axis.ticks():
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            plot.text(place + 0.04, height, label, va="center", size=8.5, color=INK, bbox=box, zorder=5)
    return figure


def ranks(good: Any, complete: Sequence[bool]) -> list[float]:
    """The rank of each complete trial from 0 (worst) to 1; a few bad scores do not make all others one colour."""
    order = sorted((value, place) for place, value in enumerate(good) if complete[place])
    found = dict.fromkeys(range(len(good)), 0.0)
    for rank, (_, place) in enumerate(order):
        found[place] = rank / max(1, len(order) - 1)
    return [found[place] for place in range(len(good))]


def curve(heights: Any) -> tuple[Any, Any]:
    """A smooth line through the heights of one trial, horizontal where it crosses an axis."""
    if len(heights) < 2:
        return [0.0], list(heights)
    share = np.linspace(0, 1, 25)
    smooth = share * share * (3 - 2 * share)
    pieces = itertools.pairwise(heights)
    x = np.concatenate([place + share for place in range(len(heights) - 1)])
    y = np.concatenate([low + (high - low) * smooth for low, high in pieces])
    return x, y


@house_style()
def importance_bars(importances: Mapping[str, float], title: str, trials: int) -> Figure:
    """The share of each setting in the variance of the scores, the largest first."""
    figure = new_figure(8.5, 0.6 + 0.38 * len(importances), title, f"fANOVA over {counted(trials, 'complete trial')}")
    fit_below_header(figure)
    plot = figure.subplots()
    names = sorted(importances, key=lambda path: importances[path])
    bars = plot.barh([name(path, 30) for path in names], [importances[path] for path in names], color=PALE, height=0.62)
    plot.bar_label(bars, [f"{importances[path]:.0%}" for path in names], padding=4, color=INK, size=9)
    plot.set_xlim(0, 1.12 * max(importances.values()))
    plot.set_xticks([])
    plot.spines["bottom"].set_visible(False)
    plot.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


@house_style()
def score_history(
    numbers: Sequence[int],
    scores: Sequence[float],
    complete: Sequence[bool],
    title: str,
    score: str,
    *,
    lower_is_better: bool = False,
) -> Figure:
    """The score of each trial, and the best so far."""
    figure = new_figure(8.5, 3.4, title, "trials in the order of their numbers")
    fit_below_header(figure)
    plot = figure.subplots()
    done = [(number, value) for number, value, is_done in zip(numbers, scores, complete, strict=True) if is_done]
    pruned = [(number, value) for number, value, is_done in zip(numbers, scores, complete, strict=True) if not is_done]
    best = np.minimum.accumulate if lower_is_better else np.maximum.accumulate
    handles = []
    if pruned:
        handles.append(plot.plot(*zip(*pruned, strict=True), ls="none", marker="x", color=MUTED, label="pruned")[0])
    if done:
        handles.append(
            plot.plot(*zip(*done, strict=True), ls="none", marker="o", color=VALIDATION, label="complete")[0]
        )
        course = best([value for _, value in done])
        plot.step(
            [*(number for number, _ in done), numbers[-1]], [*course, course[-1]], where="post", color=RIGHT, lw=1.6
        )
        handles.append(Line2D([], [], color=RIGHT, lw=1.6, label="best so far"))
    else:
        plot.text(0.5, 0.9, "no trial is complete", transform=plot.transAxes, ha="center", color=WRONG)
    plot.set_xlabel("trial", color=INK)
    plot.set_title(f"Validation {score.replace('_', '-')}")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.grid(axis="y")
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=9, labelcolor=MUTED)
    return figure
