"""Activations of one image as a figure: the network on the left, the output of each part on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from resnetlab.interpret.activations import Activation, Floats
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
from resnetlab.plots.style import (
    HEADER,
    INK,
    MARGIN,
    MUTED,
    PALE,
    VALIDATION,
    counted,
    house_style,
    name,
    new_figure,
    percent,
)

PICTURE = 1.6  # inches
NUMBERS = 1.6  # inches for the name, the shape, mean and std
GAP = 0.23  # inches between the maps of two sections
MAPS = 8  # in a line
MAP, BETWEEN = 1.0, 0.07  # inches: the side of a map, and from one to the next
SHOWN = MAPS * (MAP + BETWEEN) - BETWEEN
CLASS = 0.22  # inches for each of the likeliest classes
LIKELIEST = 10
COLOURS = colormaps["magma"]

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
        "The weights are random, drawn from a seed: these are the outputs",
        "of random filters, without information about the class. The",
        "batch norms are untrained and have no effect yet.",
    ),
)
NOT_FINITE = ("not a number", ("The logits are NaN or infinite: there is no prediction.",))


@house_style()
def activations_figure(
    network: ResNet, activations: Sequence[Activation], pixels: Images, *, classes: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw the `network` from top to bottom, and beside each part the activations that it outputs.

    `activations` are from `collect_activations`, with units or without. `pixels` (H, W, C), uint8, are the image at the
    network's input size. With the names of `classes`, the figure ends with the most probable ones; without them, the
    network is described as untrained.
    """
    by_name = {activation.name: activation for activation in activations}
    drawn = sections(network)
    column = Column.around(drawn)
    rows = [(None, PICTURE + 0.24), *((section, row_height(section, classes)) for section in drawn)]
    wide = column.width + NUMBERS + SHOWN + 2 * MARGIN + 0.25
    figure = new_figure(
        wide,
        sum(inches for _, inches in rows) + LEGEND,
        f"{title or network.name or 'A residual network'}: activations of one image",
        "in each row the feature maps with the largest variance, all on one scale (dark: lowest value of the row, "
        "bright: highest) · mean and std: over all values of the row",
    )
    axes = canvas(figure)
    middle, words = MARGIN + column.middle, MARGIN + column.width + 0.12
    top = HEADER
    for section, inches in rows:
        activation = by_name[section.name if section else "image"]
        bottom, y = top + inches, top + (inches - 0.03) / 2
        band(axes, activation.stage, (MARGIN, wide - MARGIN), (top, bottom))
        if section is None:
            frame(axes, pixels, middle, y)
            write_outcome(axes, by_name["fc"].values, classes, words + NUMBERS + 3.6, y)
            flow(axes, middle, y + PICTURE / 2, bottom)
        else:
            draw_section(axes, section, middle, column.box, y - height(section) / 2)
            flow(axes, middle, top, bottom if section is not drawn[-1] else y)
        write_numbers(axes, activation, heading(activation, section), words, y)
        draw_values(axes, activation, words + NUMBERS, (top + GAP / 2 - 0.015, bottom - GAP / 2 - 0.015), classes)
        top = bottom
    legend(axes, drawn, MARGIN + 0.05, top + 0.2)
    return figure


def row_height(section: Section, classes: Sequence[str]) -> float:
    """Height in inches: room for the boxes of a section, its numbers, and the lines of maps beside the boxes."""
    if section.name == "fc" and classes:
        return max(1.08, GAP + 0.2 + CLASS * math.ceil(min(LIKELIEST, len(classes)) / 2))
    lines = max(1, round(height(section) / MAP))
    signal = 0.85 if section.name in ("avgpool", "fc") else lines * (MAP + BETWEEN) - BETWEEN
    return max(signal, height(section)) + GAP


def heading(activation: Activation, section: Section | None) -> str:
    if section is not None and activation.name in ("relu", "last_relu"):
        return section.boxes[0].parts[0]
    return TITLES.get(activation.name, activation.name)


def frame(axes: Axes, pixels: Images, x: float, y: float) -> None:
    """Draw the image at the network's input size, with its centre at (x, y)."""
    shown = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    half = PICTURE / 2
    interpolation = "nearest" if max(pixels.shape[:2]) <= SMALL else "antialiased"
    place(axes, shown, (x - half, x + half, y + half, y - half), interpolation)
    axes.add_patch(Rectangle((x - half, y - half), PICTURE, PICTURE, fill=False, edgecolor=INK, linewidth=1, zorder=4))


def write_outcome(axes: Axes, logits: Floats, classes: Sequence[str], x: float, y: float) -> None:
    """Write the predicted class, or the reason why there is none."""
    probability = softmax(logits)
    if classes and np.isfinite(probability).all():
        best = int(probability.argmax())
        axes.text(x, y - 0.1, name(classes[best], 26), size=19, weight="bold", color=VALIDATION, va="center")
        share = f"{percent(float(probability[best]), 1)}, most probable of {counted(len(classes), 'class', 'classes')}"
        axes.text(x, y + 0.25, share, size=9.5, color=MUTED, va="center")
        return
    title, lines = NOT_FINITE if classes else UNTRAINED
    axes.text(x, y - 0.36, title, size=13, weight="bold", color=MUTED, va="center")
    for index, line in enumerate(lines):
        axes.text(x, y - 0.08 + 0.2 * index, line, size=9.5, color=MUTED, va="center")


def write_numbers(axes: Axes, activation: Activation, title: str, x: float, y: float) -> None:
    """Write name, shape, mean, standard deviation and share of zeros."""
    lines = [times(activation.shape), f"mean {number(activation.mean)}", f"std {number(activation.std)}"]
    lines += [f"{percent(activation.zero_share)} zero"] if activation.zero_share >= 0.0005 else []
    step = 0.18
    up = y - step * len(lines) / 2
    axes.text(x, up - 0.015, title, size=11, weight="bold", color=stage_colour(activation.stage), va="center")
    for index, line in enumerate(lines):
        colour = INK if index == 0 else MUTED
        axes.text(x, up + step * (index + 1), line, size=9.5, color=colour, va="center")


def number(value: float) -> str:
    """Format with three significant digits or a few more, and a typographic minus.

    >>> number(-0.01234), number(12345.6), number(12345678.0), number(0.0)
    ('−0.0123', '12,346', '1.23e+07', '0')
    """
    text = f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def draw_values(
    axes: Axes, activation: Activation, x: float, down: tuple[float, float], classes: Sequence[str]
) -> None:
    """Draw an activation: maps as thumbnails, a vector as stripes, and classes that have names as bars.

    `x` is the left edge and `down` the upper and lower edges, in inches.
    """
    y, room = sum(down) / 2, down[1] - down[0]
    if activation.name == "fc" and classes:
        likeliest(axes, activation.values, classes, x, y)
    elif activation.values.ndim == 1:
        strip(axes, activation, x, y)
    else:
        lines = max(1, int((room + BETWEEN) / (MAP + BETWEEN)))
        tiles = (
            channels(activation.values) if activation.name == "image" else thumbnails(activation.values, lines * MAPS)
        )
        interpolation = "nearest" if max(activation.shape[1:]) <= SMALL else "antialiased"
        top = y - (math.ceil(len(tiles) / MAPS) * (MAP + BETWEEN) - BETWEEN) / 2
        for index, tile in enumerate(tiles):
            row, place_in_row = divmod(index, MAPS)
            left, upper = x + place_in_row * (MAP + BETWEEN), top + row * (MAP + BETWEEN)
            place(axes, tile, (left, left + MAP, upper + MAP, upper), interpolation)


def thumbnails(maps: Floats, most: int) -> Floats:
    """Colours (N, H, W, 3) of the maps (C, H, W) with the largest variance, on one scale for all C maps.

    Of maps with the same variance, such as those of a single pixel, the ones with the largest mean come first.
    """
    variance, mean = maps.var((1, 2), dtype=np.float64), maps.mean((1, 2), dtype=np.float64)
    chosen = np.lexsort((-np.abs(mean), -variance))[:most]
    return np.asarray(COLOURS(scaled(maps)[chosen])[..., :3])


def channels(image: Floats) -> Floats:
    """Colours of the normalised channels of an image (C, H, W), all on one scale."""
    return np.asarray(colormaps["gray"](scaled(image))[..., :3])


def scaled(values: Floats) -> Floats:
    """Scale values to [0, 1]; all 0 if they are equal or not finite."""
    low, high = values.min(), values.max()
    room = float(high) - float(low)
    return (values - low) / room if 0 < room < np.inf else np.zeros_like(values)


def strip(axes: Axes, activation: Activation, x: float, y: float) -> None:
    """Draw a vector as a row of stripes, in its own order."""
    tall = 0.42
    line = COLOURS(scaled(activation.values))[None, :, :3]
    up = y - 0.08
    place(axes, line, (x, x + SHOWN, up + tall / 2, up - tall / 2), "nearest")
    note = f"{counted(len(activation.values), 'number')}, one stripe each"
    if activation.name == "fc":
        note = f"{counted(len(activation.values), 'class', 'classes')}, one stripe each; no meaning before training"
    axes.text(x, up + tall / 2 + 0.13, note, size=9, color=MUTED, va="center")


def likeliest(axes: Axes, logits: Floats, classes: Sequence[str], x: float, y: float) -> None:
    """Draw the most probable classes as bars, in two columns."""
    probability = softmax(logits)
    order = np.argsort(-probability, kind="stable")[:LIKELIEST]
    if not np.isfinite(probability).all():
        return
    deep, step = math.ceil(len(order) / 2), CLASS
    label = 0.08 + 0.083 * max(len(name(classes[index], 24)) for index in order)
    column = SHOWN / 2
    for rank, index in enumerate(order):
        left = x + column * (rank // deep)
        at = y + step * (rank % deep - (deep - 1) / 2)
        weight = "bold" if rank == 0 else "normal"
        axes.text(left, at, name(classes[index], 24), size=9.5, va="center", weight=weight)
        long = (column - label - 0.75) * float(probability[index])
        shade = VALIDATION if rank == 0 else PALE
        axes.add_patch(Rectangle((left + label, at - 0.07), long, 0.14, facecolor=shade, linewidth=0, zorder=3))
        share = percent(float(probability[index]), 1)
        axes.text(left + label + long + 0.06, at, share, size=9, color=MUTED, va="center")


def softmax(logits: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits.astype(np.float64) - logits.max())
        return np.asarray(powers / powers.sum())


def place(axes: Axes, pixels: Images | Floats, extent: tuple[float, float, float, float], interpolation: str) -> None:
    """Draw an image into `extent`: left, right, bottom and top in inches."""
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        pixels, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation=interpolation, aspect="auto", zorder=3
    )
    axes.set(xlim=limits[0], ylim=limits[1])
