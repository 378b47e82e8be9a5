"""Learning curves: loss, accuracy and learning rate over the epochs of one run, and several runs in one figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from resnetlab.plots.style import (
    MUTED,
    TEST,
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

Floats: TypeAlias = NDArray[np.float64]

EpochRow: TypeAlias = Mapping[str, Any]
"""One epoch: `epoch, lr, train_loss, train_accuracy, val_loss, val_accuracy`, and where they are known
`running_loss, running_accuracy`. Accuracies are shares in [0, 1].
Values that are missing, None, NaN or infinite are not drawn."""

FEW = 30  # epochs; up to here each one gets a dot
OUTLIER = 6  # a loss this many times the 90th percentile would squeeze the curve into a sixth of the panel


# Okabe and Ito (2008), without their yellow, which is too pale for a line on white.
# Seven colours and four dashes repeat after 28 lines; a dashed line leaves a line below it visible.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2430")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


class Series(NamedTuple):
    """One line of a panel: the prefix of its keys in a row, its label and its style."""

    prefix: str
    label: str
    style: Mapping[str, Any]


SERIES = (
    Series("running", "training, running average over augmented batches", {"color": TRAIN, "alpha": 0.45, "lw": 1}),
    Series("train", "training, fixed subset, not augmented", {"color": TRAIN, "lw": 1.8}),
    Series("val", "validation", {"color": VALIDATION, "lw": 1.8}),
)


@house_style()
def curves(
    epochs: Sequence[EpochRow], test: Mapping[str, Any] | None, title: str, *, best_epoch: int | None = None
) -> Figure:
    """Three panels over the epochs: loss, accuracy in % and learning rate.

    The gap between the training subset and validation is shaded. `best_epoch` gets a dashed line and a ring;
    `test` (`loss` and `accuracy`, the final scores) a diamond at the last epoch with its value beside it.
    """
    heading, subtitle = f"Learning curves: {title}", summary(epochs, test, best_epoch)
    if not epochs:
        return empty_figure(heading, subtitle, "No epoch has been finished yet.")
    figure = new_figure(12, 4.2, heading, subtitle)
    fit_below_header(figure)
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    final = [test or {}]
    for axes, score, scale, form in ((loss, "loss", 1, "{:.3f}"), (accuracy, "accuracy", 100, "{:.2f} %")):
        draw_series(axes, epochs, score, scale)
        mark_best(axes, epochs, best_epoch, f"val_{score}", scale)
        mark_test(axes, epochs, scale * column(final, score)[0], form)
    draw_rate(rate, epochs)
    for axes, panel in ((loss, "Loss"), (accuracy, "Accuracy, %"), (rate, "Learning rate")):
        dress(axes, panel, column(epochs, "epoch"))
    accuracy.set_ylim(*np.clip(accuracy.get_ylim(), -1, 101))
    cut_outliers(loss, epochs, column(final, "loss")[0])
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=6, fontsize=9, labelcolor=MUTED)
    return figure


def summary(epochs: Sequence[EpochRow], test: Mapping[str, Any] | None, best_epoch: int | None) -> str:
    """The subtitle: number of epochs, best epoch and final test accuracy."""
    parts = [counted(len(epochs), "epoch")]
    best = [row for row in epochs if row["epoch"] == best_epoch]
    if best:
        parts.append(f"best epoch {best_epoch}: validation accuracy {percent(column(best, 'val_accuracy')[0], 2)}")
    if test:
        parts.append(f"final test accuracy {percent(column([test], 'accuracy')[0], 2)}")
    return " · ".join(parts)


def column(epochs: Sequence[EpochRow], key: str) -> Floats:
    """The numbers under `key`, one per epoch; NaN for missing and infinite ones."""
    numbers = np.array([np.nan if row.get(key) is None else row[key] for row in epochs], dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def draw_series(axes: Axes, epochs: Sequence[EpochRow], score: str, scale: float) -> None:
    """The lines of one score, and the gap between the training subset and validation."""
    epoch = column(epochs, "epoch")
    marker = "o" if len(epochs) <= FEW else ""  # a run of one epoch is a dot
    for series in SERIES:
        values = scale * column(epochs, f"{series.prefix}_{score}")
        if not np.isnan(values).all():
            axes.plot(epoch, values, label=series.label, marker=marker, markersize=4, **series.style)
    train, validation = (scale * column(epochs, f"{prefix}_{score}") for prefix in ("train", "val"))
    axes.fill_between(epoch, train, validation, color=MUTED, alpha=0.13, lw=0, label="gap")


def mark_best(axes: Axes, epochs: Sequence[EpochRow], best_epoch: int | None, key: str, scale: float) -> None:
    """A dashed line at the best epoch, and a ring around its value."""
    best = [row for row in epochs if row["epoch"] == best_epoch]
    if not best:
        return
    epoch, value, label = column(best, "epoch"), scale * column(best, key), f"best epoch ({best_epoch})"
    axes.axvline(epoch[0], color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.plot(epoch, value, color=VALIDATION, ls="none", marker="o", markersize=9, mfc="none", zorder=4, label=label)


def mark_test(axes: Axes, epochs: Sequence[EpochRow], value: float, form: str) -> None:
    """A diamond at the last epoch, with the final test score beside it, outside the panel."""
    if np.isnan(value):
        return
    end = column(epochs[-1:], "epoch")
    axes.plot(end, [value], color=TEST, marker="D", markersize=7, ls="none", clip_on=False, zorder=5, label="test")
    axes.annotate(
        form.format(value),
        (end[0], value),
        xytext=(9, 0),
        textcoords="offset points",
        annotation_clip=False,
        va="center",
        color=TEST,
        weight="bold",
        size=9,
    )


def draw_rate(axes: Axes, epochs: Sequence[EpochRow]) -> None:
    """The learning rate, from zero up."""
    rate, marker = column(epochs, "lr"), "o" if len(epochs) <= FEW else ""
    axes.plot(column(epochs, "epoch"), rate, color=MUTED, lw=1.5, marker=marker, markersize=3, clip_on=False, zorder=3)
    axes.set_ylim(0, 1.08 * np.nanmax(rate, initial=0) or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def dress(axes: Axes, heading: str, epoch: Floats) -> None:
    """Heading, whole epochs on the x axis, and a grid to read values by."""
    axes.set_title(heading)
    axes.set_xlabel("epoch")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    pad = max(0.3, 0.02 * len(epoch))
    axes.set_xlim(epoch[0] - pad, epoch[-1] + pad)


def cut_outliers(axes: Axes, epochs: Sequence[EpochRow], test_loss: float) -> None:
    """Start the loss axis at 0 and exclude losses that would flatten all others; note their number in the panel."""
    losses = np.array([column(epochs, f"{series.prefix}_loss") for series in SERIES])
    worst = np.max(losses, axis=0, initial=0, where=~np.isnan(losses))
    if not worst.any():
        return
    usual = worst <= OUTLIER * np.quantile(worst, 0.9, method="lower")
    axes.set_ylim(0, 1.06 * np.nanmax([*worst[usual], test_loss]))
    if not usual.all():
        note = f"↑ {counted(int(np.sum(~usual)), 'epoch')} above, up to {worst.max():.3g}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(0.98, 0.98, note, transform=axes.transAxes, ha="right", va="top", size=9, color=MUTED, bbox=box)


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
        style = {"color": colour, "ls": dash, "lw": 1.7, "marker": "o" if len(rows) <= FEW else "", "markersize": 4}
        epoch, minutes = column(rows, "epoch"), np.cumsum(column(rows, "train_seconds")) / 60
        loss.plot(epoch, column(rows, "val_loss"), **style)
        accuracy.plot(epoch, 100 * column(rows, "val_accuracy"), label=name(label, 40), **style)
        over_time.plot(minutes, 100 * column(rows, "val_accuracy"), **style)
    longest = max((column(rows, "epoch") for _, rows in drawn), key=len)
    for axes, panel in ((loss, "Loss"), (accuracy, "Accuracy, %"), (over_time, "Accuracy, %, over time")):
        dress(axes, panel, longest)
    over_time.set_xlabel("minutes of training")
    over_time.xaxis.set_major_locator(MaxNLocator(nbins=5))
    over_time.autoscale(axis="x")
    over_time.margins(x=0.04)
    cut_outliers(loss, [only_loss(row) for _, rows in drawn for row in rows], np.nan)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=9, labelcolor=MUTED)
    return figure


def only_loss(row: EpochRow) -> Mapping[str, object]:
    """A row with the validation loss only, which is the only loss in the figure."""
    return {"val_loss": row.get("val_loss")}
