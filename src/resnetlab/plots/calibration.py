"""Calibration figures: reliability diagrams before and after temperature scaling, and histograms of confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from resnetlab.evaluation.intervals import wilson
from resnetlab.plots.style import (
    INK,
    MUTED,
    PALE,
    RIGHT,
    VALIDATION,
    WRONG,
    counted,
    empty_figure,
    fit_below_header,
    house_style,
    new_figure,
    percent,
)

Bin: TypeAlias = Mapping[str, Any]
"""One bin of confidence: `low, high, images`, and the means `confidence` and `accuracy`, undefined without images."""


@house_style()
def reliability_diagram(panels: Mapping[str, Sequence[Bin]], title: str) -> Figure:
    """Accuracy over confidence, bin by bin, in a panel for each of `panels` (a caption and its bins).

    On the dashed diagonal, accuracy and confidence are equal. A bar below it has a red gap, the network is
    overconfident; a bar above it has a blue one, it is underconfident. Lines are 95 % intervals (Wilson). The lower
    panel has the number of images in each bin.
    """
    heading = f"Reliability: {title}"
    images = sum(row["images"] for row in next(iter(panels.values()), ()))
    if not images:
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    subtitle = f"{counted(images, 'image')} · red: overconfident, blue: underconfident"
    figure = new_figure(1.2 + 4.6 * len(panels), 5.2, heading, subtitle)
    fit_below_header(figure)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=(4, 1))
    most = max(row["images"] for bins in panels.values() for row in bins)
    for (upper, lower), (caption, bins) in zip(grid.T, panels.items(), strict=True):
        draw_reliability(upper, [row for row in bins if row["images"]])
        upper.set_title(caption, size=10)
        widths = [row["high"] - row["low"] for row in bins]
        lower.bar([row["low"] for row in bins], [row["images"] for row in bins], widths, align="edge", color="#b4bac4")
        lower.set(xlim=(0, 1), ylim=(0, 1.08 * most), xlabel="confidence: probability of the predicted class")
        lower.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
        lower.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        lower.xaxis.set_major_formatter(FuncFormatter(as_percent))
        lower.grid(axis="y")
    grid[0][0].set_ylabel("accuracy in the bin")
    grid[1][0].set_ylabel("images")
    return figure


def draw_reliability(axes: Axes, bins: Sequence[Bin]) -> None:
    """Draw the bars, the gaps to the diagonal and the intervals of the bins that have images."""
    low, width = np.array([row["low"] for row in bins]), np.array([row["high"] - row["low"] for row in bins])
    confidence, right = np.array([row["confidence"] for row in bins]), np.array([row["accuracy"] for row in bins])
    count = np.array([row["images"] for row in bins])
    style: Any = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
    axes.bar(low, np.minimum(right, confidence), width, color=PALE, label="accuracy", **style)
    for over, colour, label in (
        (confidence > right, WRONG, "overconfident"),
        (right > confidence, VALIDATION, "underconfident"),
    ):
        bottom, gap = np.minimum(right, confidence)[over], np.abs(right - confidence)[over]
        axes.bar(low[over], gap, width[over], bottom, color=colour, alpha=0.75, label=label, **style)
    axes.vlines(low + width / 2, *wilson(np.round(right * count), count), color=INK, lw=1.2, zorder=3)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)), label="perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.yaxis.set_major_formatter(FuncFormatter(as_percent))
    axes.grid(axis="y")


@house_style()
def confidence_histogram(confidence: NDArray[np.floating], right: NDArray[np.bool_], title: str) -> Figure:
    """Histograms of the confidence of correct and of wrong predictions.

    `confidence` (N,) is the probability of the predicted class, and `right` (N,) is True if that is the true class. The
    two panels have separate scales, because there are usually far more correct predictions than wrong ones.
    """
    heading, count = f"Confidence: {title}", len(confidence)
    if not count:
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    subtitle = f"{counted(count, 'image')}, {percent(float(right.mean()), 2)} correct"
    figure = new_figure(9.8, 3, heading, subtitle)
    fit_below_header(figure)
    edges = np.linspace(0, 1, 21)
    for axes, chosen, word, colour in zip(
        figure.subplots(1, 2, sharex=True), (right, ~right), ("✓ correct", "✗ wrong"), (RIGHT, WRONG), strict=True
    ):
        values = confidence[chosen]
        axes.hist(values, edges, color=colour, alpha=0.7, edgecolor="white", linewidth=0.8)
        median = f", half of them above {percent(float(np.median(values)))}" if len(values) else ""
        axes.set_title(f"{word}: {counted(len(values), 'image')}{median}", size=10, color=colour)
        axes.set(xlim=(0, 1), xlabel="probability of the predicted class")
        axes.set_ylim(0, max(1, axes.get_ylim()[1]))
        axes.xaxis.set_major_formatter(FuncFormatter(as_percent))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
        axes.grid(axis="y")
    figure.axes[0].set_ylabel("images")
    return figure


def as_percent(share: float, _: int) -> str:
    return f"{100 * share:.0f} %"
