"""Figures of the classes: recall and precision of each, and the pairs that are confused most often."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from resnetlab.evaluation.intervals import wilson
from resnetlab.plots.style import (
    FAINT,
    INK,
    MUTED,
    PALE,
    PALE_WRONG,
    TRAIN,
    VALIDATION,
    counted,
    empty_figure,
    fit_below_header,
    house_style,
    name,
    new_figure,
    percent,
)

ROWS = 34  # classes in a column of bars; more classes take more columns
MOST_COLUMNS = 4
PAIRS = 10


@house_style()
def class_bars(matrix: NDArray[np.integer], classes: Sequence[str], title: str) -> Figure:
    """Recall (bars) and precision (diamonds) of each class with 95 % Wilson intervals, highest recall first.

    `matrix` (K, K) counts images by true class (row) and predicted class (column). A class without images has no
    recall, and a class that was never predicted has no precision; classes without recall come last.
    """
    matrix = np.asarray(matrix)
    right, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    heading = f"Recall and precision by class: {title}"
    if not matrix.sum():
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    recall, precision = ratio(right, support), ratio(right, predicted)
    order = np.argsort(-np.nan_to_num(recall, nan=-1), kind="stable")
    columns = min(MOST_COLUMNS, math.ceil(len(classes) / ROWS))
    rows = math.ceil(len(classes) / columns)
    subtitle = (
        f"{counted(len(classes), 'class', 'classes')} with their images, highest recall first · "
        f"lines: 95 % intervals (Wilson)"
    )
    figure = new_figure(9.5 if columns == 1 else 4 * columns + 1, max(1.4, 0.24 * rows + 0.9), heading, subtitle)
    fit_below_header(figure)
    for axes, chosen in zip(figure.subplots(1, columns, squeeze=False)[0], np.array_split(order, columns), strict=True):
        places = np.arange(len(chosen))
        axes.barh(places, recall[chosen], 0.72, color=PALE, label="recall")
        whiskers(axes, places + 0.12, right[chosen], support[chosen], VALIDATION)
        whiskers(axes, places - 0.12, right[chosen], predicted[chosen], TRAIN)
        style = {"color": TRAIN, "ls": "none", "marker": "D", "markersize": 4}
        axes.plot(precision[chosen], places - 0.12, label="precision", **style)
        accuracy = right.sum() / matrix.sum()
        axes.axvline(accuracy, color=MUTED, lw=1, ls=(0, (4, 3)), label=f"accuracy, {percent(accuracy, 2)}")
        labels = [f"{name(classes[i])}  {support[i]:>{len(str(support.max()))}}" for i in chosen]
        axes.set_yticks(places, labels, size=9 if columns == 1 else 8)
        axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6), xticks=np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    drawn = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    labels = ["recall", "precision", *(label for label in drawn if label not in ("recall", "precision"))]
    handles = [drawn[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9, labelcolor=MUTED)
    return figure


def ratio(part: NDArray[np.integer], whole: NDArray[np.integer]) -> NDArray[np.float64]:
    """`part` / `whole`; NaN where `whole` is 0."""
    return np.asarray(part / np.where(whole > 0, whole, np.nan))


def whiskers(
    axes: Axes, places: NDArray[np.floating], right: NDArray[np.integer], of: NDArray[np.integer], colour: str
) -> None:
    """Draw the interval of each proportion as a line."""
    axes.hlines(places, *wilson(right, of), color=colour, lw=1.4, zorder=3)


@house_style()
def confused_pairs(matrix: NDArray[np.integer], classes: Sequence[str], title: str) -> Figure:
    """The up to ten pairs of classes that are confused most often, in both directions, with their counts.

    The text beside a bar is its share of the images of the true class. `matrix` is that of `class_bars`.
    """
    matrix = np.asarray(matrix)
    support, wrong = matrix.sum(1), int(matrix.sum() - np.trace(matrix))
    heading = f"Most confused classes: {title}"
    if not wrong:
        message = "✓ No class was confused with another." if matrix.sum() else "There are no images to show."
        return empty_figure(heading, counted(int(matrix.sum()), "image"), message)
    pairs = worst_pairs(matrix)[:PAIRS]
    shown = sum(int(matrix[i, j] + matrix[j, i]) for i, j in pairs)
    subtitle = (
        f"{counted(shown, 'mistake')} of {wrong:,} in {counted(len(pairs), 'pair')} · "
        f"beside the count, its share of the true class"
    )
    figure = new_figure(9.5, max(1.2, 0.52 * len(pairs) + 0.5), heading, subtitle)
    fit_below_header(figure)
    axes = figure.subplots()
    bars = [(3 * row + way, *pair) for row, (i, j) in enumerate(pairs) for way, pair in enumerate(((i, j), (j, i)))]
    counts = np.array([matrix[i, j] for _, i, j in bars])
    axes.barh([place for place, _, _ in bars], counts, 0.86, color=PALE_WRONG)
    for (place, i, _), count in zip(bars, counts, strict=True):
        share = percent(count / support[i]) if support[i] else "–"
        axes.text(count, place, f"  {count:,} · {share}", va="center", size=9, color=MUTED)
    labels = [f"{name(classes[i])} predicted as {name(classes[j])}" for _, i, j in bars]
    axes.set_yticks([place for place, _, _ in bars], labels, size=9)
    axes.set(xlim=(0, 1.15 * counts.max()), ylim=(3 * len(pairs) - 1.3, -0.7))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("images")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x", color=FAINT)
    axes.spines["left"].set_visible(False)
    return figure


def worst_pairs(matrix: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Pairs of classes by the number of images of either that were predicted as the other, most first; none with 0.

    The first of a pair is the true class of the more frequent direction.
    """
    both = np.triu(matrix + matrix.T, k=1)
    flat = np.argsort(-both, axis=None, kind="stable")[: np.count_nonzero(both)]
    rows, columns = np.unravel_index(flat, both.shape)
    return [
        (int(i), int(j)) if matrix[i, j] >= matrix[j, i] else (int(j), int(i))
        for i, j in zip(rows, columns, strict=True)
    ]
