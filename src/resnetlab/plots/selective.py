"""The figure of selective classification: the risk-coverage curve, with the thresholds for stated risks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from resnetlab.evaluation.intervals import wilson
from resnetlab.plots.style import (
    INK,
    MUTED,
    PALE,
    VALIDATION,
    WRONG,
    counted,
    fit_below_header,
    house_style,
    new_figure,
    percent,
)


@house_style()
def risk_coverage(
    curve: Sequence[Mapping[str, Any]], rejections: Sequence[Mapping[str, Any]], images: int, title: str
) -> Figure:
    """Share of wrong predictions among the accepted ones, over the share that is accepted.

    `curve` has points `coverage` and `risk`; `rejections` have the stated `risk`, the `threshold` and, on these images,
    `observed_coverage` and `observed_risk`. The band is the 95 % interval of each point (Wilson). The dotted line is
    that of a perfect order, in which every wrong prediction is less confident than every correct one.
    """
    coverage, risk = (np.array([point[name] for point in curve], np.float64) for name in ("coverage", "risk"))
    subtitle = f"{counted(images, 'image')} · error without rejection {percent(float(risk[-1]), 2)}"
    figure = new_figure(8.5, 4.4, f"Risk and coverage: {title}", subtitle)
    fit_below_header(figure)
    axes = figure.subplots()
    low, high = wilson(risk * coverage * images, coverage * images)
    axes.fill_between(coverage, low, high, color=PALE, alpha=0.5, lw=0, label="95 % interval")
    axes.plot(coverage, risk, color=VALIDATION, lw=2, label="by confidence")
    ideal = np.linspace(1 / images, 1, 400)
    best = np.maximum(0, 1 - (1 - risk[-1]) / ideal)
    axes.plot(ideal, best, color=MUTED, lw=1, ls=(0, (1, 1.5)), label="perfect order")
    shown = [one for one in rejections if one["observed_risk"] is not None]
    distinct = {one["threshold"]: one for one in reversed(shown)}  # the smallest risk of those with one threshold
    for place, one in enumerate(sorted(distinct.values(), key=lambda one: float(one["risk"]))):
        across, stated = float(one["observed_coverage"]), float(one["risk"])
        axes.vlines(across, one["observed_risk"], stated, color=WRONG, lw=1)
        axes.plot(across, stated, color=WRONG, ls="none", marker="_", markersize=11, mew=2, zorder=4)
        axes.plot(across, one["observed_risk"], color=INK, ls="none", marker="o", markersize=6, zorder=4)
        is_left = across > 0.3  # the curve rises to the right
        axes.annotate(
            f"risk ≤ {100 * stated:g} %: probability ≥ {one['threshold']:.3f}",
            (across, stated),
            (-8 if is_left else 0, 0 if is_left else 4),
            textcoords="offset points",
            size=8,
            color=MUTED,
            ha="right" if is_left else "left",
            va="center" if is_left else "bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        ).set_in_layout(False)
        if place == 0:
            axes.plot([], [], color=WRONG, ls="none", marker="_", markersize=11, mew=2, label="stated risk")
            axes.plot([], [], color=INK, ls="none", marker="o", markersize=6, label="risk here")
    top = max([float(risk.max()), *(float(one["risk"]) for one in distinct.values()), 0.01])
    axes.set(xlim=(0, 1.005), ylim=(-0.08 * top, 1.15 * top))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_xlabel("coverage: share of the images that are accepted")
    axes.set_ylabel("risk: share of them that is wrong")
    axes.grid()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=5, fontsize=9, labelcolor=MUTED)
    return figure
