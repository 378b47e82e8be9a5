"""The confusion matrix as a picture: which class is taken for which."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.evaluation.plots_style import (
    FAINT,
    INK,
    counted,
    fit_below_header,
    house_style,
    name,
    new_figure,
    percent,
)

MOST_COUNTED = 40  # classes; beyond them the colours speak alone
SMALLEST_TEXT = 5.5  # points
LETTER = 0.64  # the width of a digit of DejaVu Sans, in font sizes


@house_style()
def confusion_matrix(matrix: NDArray[np.integer], classes: Sequence[str], title: str) -> Figure:
    """`matrix` (K, K): how many images of each true class (row) were predicted as each class (column).

    Colours are shares of the row, on a square-root scale so that rare mistakes show; a class without images is
    gray. Counts, and shares where there is room, are written in the cells; zeros are left empty.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise ValueError(f"a confusion matrix of {len(classes)} classes cannot have the shape {matrix.shape}")
    names = [name(label) for label in classes]
    side = float(np.clip(0.58 * len(names), 4.2, 14 if len(names) > MOST_COUNTED else 10))  # inches
    cell = 72 * side / len(names)  # points, as all sizes of text
    size = float(np.clip(0.75 * cell, 6, 10))
    longest = LETTER * size * max(map(len, names))
    upright = longest > cell
    width, height = side + longest / 72 + 1.8, side + upright * longest / 72 + 0.7
    figure = new_figure(max(7.5, width), height, f"Confusion matrix: {title}", summary(matrix))
    fit_below_header(figure)
    axes = figure.subplots(subplot_kw={"anchor": "N"})
    shares = row_shares(matrix)
    colours = colormaps["Blues"].with_extremes(bad=FAINT)
    picture = axes.imshow(np.ma.masked_invalid(shares), cmap=colours, norm=PowerNorm(0.5, 0, 1))
    label_axes(axes, names, size, upright)
    write_counts(axes, matrix, shares, cell)
    ticks = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
    bar = figure.colorbar(picture, ax=axes, shrink=3 / side, aspect=18, panchor=False, ticks=ticks)
    bar.ax.yaxis.set_major_formatter(lambda share, _: percent(share))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def summary(matrix: NDArray[np.integer]) -> str:
    """The subtitle: how many images of how many classes, and how many of them are on the diagonal."""
    images, right = int(matrix.sum()), int(np.trace(matrix))
    accuracy = percent(right / images if images else np.nan, 2)
    gray = "" if matrix.any(axis=1).all() else " · gray: no images of this class"
    return f"{counted(images, 'image')}, {counted(len(matrix), 'class', 'classes')} · {accuracy} on the diagonal{gray}"


def row_shares(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """`matrix` (K, K) with each row divided by its sum; NaN in the rows of classes without images."""
    support = matrix.sum(axis=1, keepdims=True).astype(np.float64)
    return matrix / np.where(support > 0, support, np.nan)


def label_axes(axes: Axes, names: Sequence[str], size: float, upright: bool) -> None:
    """Class names on both sides; beyond 150 classes only as many as have room."""
    every = range(0, len(names), math.ceil(len(names) / 150))
    labels = [names[index] for index in every]
    axes.set_xticks(every, labels, size=size, rotation=90 if upright else 0)
    axes.set_yticks(every, labels, size=size)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)


def write_counts(axes: Axes, matrix: NDArray[np.integer], shares: NDArray[np.float64], cell: float) -> None:
    """The counts that are not zero, with their share of the row below where a cell of `cell` points has room."""
    longest = len(f"{matrix.max():,}")
    size = min(10, 0.85 * cell / (LETTER * max(longest, 2)))
    if size < SMALLEST_TEXT or len(matrix) > MOST_COUNTED:
        return
    for row, column in np.argwhere(matrix):
        share = shares[row, column]
        below = f"\n{percent(share)}" if cell > 3 * size and cell > 5.5 * LETTER * size else ""
        colour = "white" if share > 0.4 else INK
        axes.text(column, row, f"{matrix[row, column]:,}{below}", ha="center", va="center", size=size, color=colour)
