"""One image on its way through a network, as a picture: the network on the left, what the signal is on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from resnetlab.interpret.activations import Floats, Stop
from resnetlab.interpret.diagram import Section, sections
from resnetlab.models.resnet import ResNet
from resnetlab.plots.diagram import (
    LEGEND,
    Column,
    band,
    canvas,
    draw_section,
    flow,
    height,
    legend,
    stage_colour,
    times,
)
from resnetlab.plots.images import SMALL, Images
from resnetlab.plots.signal import (
    BETWEEN,
    CLASS,
    LIKELIEST,
    MAP,
    SHOWN,
    place,
    show_signal,
    softmax,
)
from resnetlab.plots.style import (
    HEADER,
    INK,
    MARGIN,
    MUTED,
    VALIDATION,
    counted,
    house_style,
    name,
    new_figure,
    percent,
)

PICTURE = 1.6  # inches
NUMBERS = 1.6  # inches for the name, the shape, mean and std
GAP = 0.23  # inches between the maps of two stops

TITLES = {
    "image": "image",
    "conv1": "convolution",
    "maxpool": "max pool",
    "avgpool": "features",
    "fc": "logits",
}

UNTRAINED = (
    "untrained",
    (
        "The weights are drawn from a seed: this is what random filters",
        "make of the image, and no class can be told from it. The norms",
        "have met no data and change nothing yet.",
    ),
)
NOT_FINITE = ("not a number", ("The logits are NaN or infinite: there is nothing to predict from.",))


@house_style()
def journey_figure(
    network: ResNet, stops: Sequence[Stop], pixels: Images, *, classes: Sequence[str] = (), title: str = ""
) -> Figure:
    """The `network` from top to bottom, and beside each part of it the signal that leaves it.

    `stops` are those of `journey`, units or not; `pixels` (H, W, C), uint8, are the image as the network sees it. With
    names of `classes` the likeliest of them end the way; without any, the network counts as untrained.
    """
    at_stop = {stop.name: stop for stop in stops}
    drawn = sections(network)
    column = Column.around(drawn)
    rows = [(None, PICTURE + 0.24), *((section, row_height(section, classes)) for section in drawn)]
    wide = column.width + NUMBERS + SHOWN + 2 * MARGIN + 0.25
    figure = new_figure(
        wide,
        sum(inches for _, inches in rows) + LEGEND,
        f"{title or network.name or 'A residual network'}: one image on its way through",
        "at each stop the feature maps of largest variance, each scaled by itself (dark: its lowest value, bright: its "
        "highest) · mean and std: of all values there",
    )
    axes = canvas(figure)
    middle, words = MARGIN + column.middle, MARGIN + column.width + 0.12
    top = HEADER
    for section, inches in rows:
        stop = at_stop[section.name if section else "image"]
        bottom, y = top + inches, top + (inches - 0.03) / 2
        band(axes, stop.stage, (MARGIN, wide - MARGIN), (top, bottom))
        if section is None:
            frame(axes, pixels, middle, y)
            write_outcome(axes, at_stop["fc"].values, classes, words + NUMBERS + 3.6, y)
            flow(axes, middle, y + PICTURE / 2, bottom)
        else:
            draw_section(axes, section, middle, column.box, y - height(section) / 2)
            flow(axes, middle, top, bottom if section is not drawn[-1] else y)
        write_numbers(axes, stop, heading(stop, section), words, y)
        show_signal(axes, stop, words + NUMBERS, (top + GAP / 2 - 0.015, bottom - GAP / 2 - 0.015), classes)
        top = bottom
    legend(axes, drawn, MARGIN + 0.05, top + 0.2)
    return figure


def row_height(section: Section, classes: Sequence[str]) -> float:
    """Inches for the boxes of a section, its numbers, and as many lines of maps as stand beside the boxes."""
    if section.name == "fc" and classes:
        return max(1.08, GAP + 0.2 + CLASS * math.ceil(min(LIKELIEST, len(classes)) / 2))
    lines = max(1, round(height(section) / MAP))
    signal = 0.85 if section.name in ("avgpool", "fc") else lines * (MAP + BETWEEN) - BETWEEN
    return max(signal, height(section)) + GAP


def heading(stop: Stop, section: Section | None) -> str:
    if section is not None and stop.name in ("relu", "last_relu"):
        return section.boxes[0].parts[0]
    return TITLES.get(stop.name, stop.name)


def frame(axes: Axes, pixels: Images, x: float, y: float) -> None:
    """The image as the network sees it, its centre at (x, y)."""
    shown = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    half = PICTURE / 2
    look = "nearest" if max(pixels.shape[:2]) <= SMALL else "antialiased"
    place(axes, shown, (x - half, x + half, y + half, y - half), look)
    axes.add_patch(Rectangle((x - half, y - half), PICTURE, PICTURE, fill=False, edgecolor=INK, linewidth=1, zorder=4))


def write_outcome(axes: Axes, logits: Floats, classes: Sequence[str], x: float, y: float) -> None:
    """What the network takes the image for, or why it cannot know."""
    probability = softmax(logits)
    if classes and np.isfinite(probability).all():
        best = int(probability.argmax())
        axes.text(x, y - 0.1, name(classes[best], 26), size=19, weight="bold", color=VALIDATION, va="center")
        said = f"{percent(float(probability[best]), 1)}, the likeliest of {counted(len(classes), 'class', 'classes')}"
        axes.text(x, y + 0.25, said, size=9.5, color=MUTED, va="center")
        return
    title, lines = NOT_FINITE if classes else UNTRAINED
    axes.text(x, y - 0.36, title, size=13, weight="bold", color=MUTED, va="center")
    for index, line in enumerate(lines):
        axes.text(x, y - 0.08 + 0.2 * index, line, size=9.5, color=MUTED, va="center")


def write_numbers(axes: Axes, stop: Stop, title: str, x: float, y: float) -> None:
    """Name, shape, mean and standard deviation, and how much of it is zero."""
    lines = [times(stop.shape), f"mean {number(stop.mean)}", f"std {number(stop.std)}"]
    lines += [f"{percent(stop.silent)} zero"] if stop.silent >= 0.0005 else []
    step = 0.18
    up = y - step * len(lines) / 2
    axes.text(x, up - 0.015, title, size=11, weight="bold", color=stage_colour(stop.stage), va="center")
    for index, line in enumerate(lines):
        colour = INK if index == 0 else MUTED
        axes.text(x, up + step * (index + 1), line, size=9.5, color=colour, va="center")


def number(value: float) -> str:
    """Three digits or a little more, and a minus as printers set it.

    >>> number(-0.01234), number(12345.6), number(12345678.0), number(0.0)
    ('−0.0123', '12,346', '1.23e+07', '0')
    """
    text = f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text
