"""The curves of several runs in one picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from resnetlab.plots.curves import FEW, EpochRow, column, cut_outliers, dress
from resnetlab.plots.style import (
    MUTED,
    counted,
    empty_figure,
    fit_below_header,
    house_style,
    name,
    new_figure,
)

# Okabe and Ito (2008), without their yellow, which is too pale for a line on white.
# Seven colours and four dashes come together anew 28 times; and one line that covers another still shows it.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2430")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


@house_style()
def overlaid_curves(runs: Sequence[tuple[str, Sequence[EpochRow]]], title: str) -> Figure:
    """Validation loss and accuracy over the epochs, and accuracy over the time spent training: a line for each run.

    `runs` are names and epochs, as for `curves`, with `train_seconds` in each epoch for the last panel.
    """
    heading = f"Learning curves: {title}"
    drawn = [(label, rows) for label, rows in runs if rows]
    if not drawn:
        return empty_figure(heading, counted(len(runs), "run"), "No epoch has been finished yet.")
    figure = new_figure(12, 4.2 + 0.2 * (len(drawn) // 4), heading, f"{counted(len(runs), 'run')}, validation scores")
    fit_below_header(figure)
    loss, accuracy, over_time = figure.subplots(1, 3)
    for (label, rows), colour, dash in zip(drawn, itertools.cycle(COLOURS), itertools.cycle(DASHES), strict=False):
        look = {"color": colour, "ls": dash, "lw": 1.7, "marker": "o" if len(rows) <= FEW else "", "markersize": 4}
        epoch, minutes = column(rows, "epoch"), np.cumsum(column(rows, "train_seconds")) / 60
        loss.plot(epoch, column(rows, "val_loss"), **look)
        accuracy.plot(epoch, 100 * column(rows, "val_accuracy"), label=name(label, 40), **look)
        over_time.plot(minutes, 100 * column(rows, "val_accuracy"), **look)
    longest = max((column(rows, "epoch") for _, rows in drawn), key=len)
    for axes, panel in ((loss, "Loss"), (accuracy, "Accuracy, %"), (over_time, "Accuracy, %, over time")):
        dress(axes, panel, longest)
    over_time.set_xlabel("minutes of training")
    over_time.autoscale(axis="x")
    over_time.margins(x=0.04)
    cut_outliers(loss, [only_loss(row) for _, rows in drawn for row in rows], np.nan)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=9, labelcolor=MUTED)
    return figure


def only_loss(row: EpochRow) -> Mapping[str, object]:
    """What counts for the loss axis: the loss that is drawn."""
    return {"val_loss": row.get("val_loss")}
