"""The figure of a learning-rate range test: the loss over the learning rates tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from resnetlab.plots.style import (
    INK,
    MUTED,
    RIGHT,
    TRAIN,
    VALIDATION,
    WRONG,
    counted,
    fit_below_header,
    house_style,
    name,
    new_figure,
)


@house_style()
def range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    title: str,
    *,
    steepest: float | None = None,
    diverged: float | None = None,
    suggestion: float | None = None,
) -> Figure:
    """The loss of each step and its smoothed course over the learning rate, on a logarithmic axis.

    A diamond on the smoothed course marks the steepest descent; vertical lines mark the divergence and the suggestion.
    So the suggestion and the steepest descent are both visible where they are the same learning rate.
    """
    outcome = "no suggestion: the loss does not fall" if suggestion is None else f"suggested peak {suggestion:.2g}"
    steps = f"{counted(len(rates), 'step')} at rising learning rates"
    figure = new_figure(8.5, 4.2, f"Learning-rate range test: {name(title, 60)}", f"{steps} · {outcome}")
    fit_below_header(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(rates, losses, color=TRAIN, ls="none", marker="o", markersize=4, alpha=0.4, label="loss of a batch")
    axes.plot(rates, smoothed, color=VALIDATION, lw=2, label="smoothed")
    if steepest is not None:
        height = float(np.interp(math.log(steepest), np.log(rates), smoothed))
        (mark,) = axes.plot([steepest], [height], color=INK, ls="none", marker="D", markersize=9, zorder=4)
        mark.set(markerfacecolor="none", markeredgewidth=2, label=f"steepest descent, {steepest:.2g}")
    for rate, label, colour, dash in (
        (diverged, "diverged", WRONG, (0, (1, 1.5))),
        (suggestion, "suggestion", RIGHT, "-"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, ls=dash, lw=1.6, label=f"{label}, {rate:.2g}", zorder=1)
    usual = [*smoothed, *(loss for loss in losses if loss <= 1.5 * max(smoothed[0], *smoothed))]
    low, high = min(usual), min(max(usual), 2.5 * max(smoothed[0], float(np.median(smoothed))))
    pad = 0.1 * (high - low) or 0.1
    axes.set_ylim(max(0.0, low - pad), high + pad)
    axes.set_xlabel("learning rate", color=INK)
    axes.set_title("Training loss")
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=5, fontsize=9, labelcolor=MUTED)
    return figure
