"""The confusion matrix as a figure: true classes by predicted classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.plots.style import (
    FAINT,
    INK,
    counted,
    fit_below_header,
    house_style,
    name,
    new_figure,
    percent,
)

LARGE = 40  # classes; beyond them the picture grows, and lines lead from a cell to its names
MOST_TEXTS = 2500  # cells that are not zero; with more of them no numbers are written
SMALLEST_TEXT = 4.5  # points: 8 pixels in the PNG
LETTER = 0.64  # the width of a digit of DejaVu Sans, in font sizes


@house_style()
def confusion_matrix(
    matrix: NDArray[np.integer],
    classes: Sequence[str],
    title: str,
    *,
    show: Literal["both", "counts", "shares"] = "both",
) -> Figure:
    """Draw a confusion matrix: `matrix` (K, K) counts images by true class (row) and predicted class (column).

    `show`: "shares" colours and writes shares of the row in %, "counts" numbers of images; "both" colours by share and
    writes counts, and shares where there is room. Colours are on a square-root scale, so that rare mistakes are
    visible. Zeros are left empty, and the row of a class without images is gray.

    Raises ValueError if the matrix does not have K x K cells for K `classes`.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise ValueError(f"a confusion matrix of {len(classes)} classes cannot have the shape {matrix.shape}")
    names = [name(label) for label in classes]
    side = float(np.clip(0.58 * len(names), 4.2, 15 if len(names) > LARGE else 10))  # inches
    cell = 72 * side / len(names)  # points, as all sizes of text
    size = float(np.clip(0.75 * cell, 6, 10))
    longest = LETTER * size * max(map(len, names))
    upright = longest > cell
    width, height = side + longest / 72 + 1.8, side + upright * longest / 72 + 0.7
    heading = {"shares": "Confusion matrix, % of the true class"}.get(show, "Confusion matrix")
    figure = new_figure(max(7.5, width), height, f"{heading}: {title}", summary(matrix))
    fit_below_header(figure)
    axes = figure.subplots(subplot_kw={"anchor": "N"})
    colours = colormaps["Blues"].with_extremes(bad=FAINT)
    shares = row_shares(matrix)
    values = np.where(np.isnan(shares), np.nan, matrix) if show == "counts" else shares
    top = max(int(matrix.max()), 1) if show == "counts" else 1
    picture = axes.imshow(np.ma.masked_invalid(values), cmap=colours, norm=PowerNorm(0.5, 0, top))
    label_axes(axes, names, size, upright)
    write_cells(axes, cell_texts(matrix, shares, show), values / top, cell, room_for_shares=show == "both")
    ticks = np.array((0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1))
    if show == "counts":
        ticks = np.unique(np.round(top * ticks))
    bar = figure.colorbar(picture, ax=axes, shrink=3 / side, aspect=18, panchor=False, ticks=ticks)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if show == "counts" else percent(value))
    bar.set_label("images" if show == "counts" else "share of the true class")
    bar.outline.set_visible(False)
    return figure


def summary(matrix: NDArray[np.integer]) -> str:
    """The subtitle: the numbers of images and classes, and the share of images on the diagonal."""
    images, right = int(matrix.sum()), int(np.trace(matrix))
    accuracy = percent(right / images if images else np.nan, 2)
    gray = "" if matrix.any(axis=1).all() else " · gray: no images of this class"
    return f"{counted(images, 'image')}, {counted(len(matrix), 'class', 'classes')} · {accuracy} on the diagonal{gray}"


def row_shares(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """`matrix` (K, K) with each row divided by its sum; NaN in the rows of classes without images."""
    support = matrix.sum(axis=1, keepdims=True).astype(np.float64)
    return matrix / np.where(support > 0, support, np.nan)


def label_axes(axes: Axes, names: Sequence[str], size: float, upright: bool) -> None:
    """Write the class names on both axes; with more than 150 classes, only some of them."""
    every = range(0, len(names), math.ceil(len(names) / 150))
    labels = [names[index] for index in every]
    axes.set_xticks(every, labels, size=size, rotation=90 if upright else 0)
    axes.set_yticks(every, labels, size=size)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    if len(names) > LARGE:
        places = np.arange(9.5, len(names) - 1, 10)
        axes.hlines(places, -0.5, len(names) - 0.5, color=FAINT, lw=0.7)
        axes.vlines(places, -0.5, len(names) - 0.5, color=FAINT, lw=0.7)


def cell_texts(matrix: NDArray[np.integer], shares: NDArray[np.float64], show: str) -> dict[tuple[int, int], list[str]]:
    """Text lines of each cell that is not zero, the most important one first."""
    texts = {}
    for row, column in np.argwhere(matrix).tolist():
        count, share = f"{matrix[row, column]:,}", percent(shares[row, column])
        texts[row, column] = {"counts": [count], "shares": [share.removesuffix(" %")]}.get(show, [count, share])
    return texts


def write_cells(
    axes: Axes,
    texts: Mapping[tuple[int, int], list[str]],
    darkness: NDArray[np.float64],
    cell: float,
    *,
    room_for_shares: bool,
) -> None:
    """Write the first line of each text, or all lines if cells of `cell` points have room, or nothing."""
    longest = max((len(lines[0]) for lines in texts.values()), default=0)
    size = min(10, 0.85 * cell / (LETTER * max(longest, 2)))
    if size < SMALLEST_TEXT or len(texts) > MOST_TEXTS:
        return
    roomy = room_for_shares and cell > 3 * size and cell > 5.5 * LETTER * size
    for (row, column), lines in texts.items():
        colour = "white" if darkness[row, column] > 0.4 else INK
        text = "\n".join(lines if roomy else lines[:1])
        axes.text(column, row, text, ha="center", va="center", size=size, color=colour)
