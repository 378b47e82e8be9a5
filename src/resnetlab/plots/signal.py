"""The signal at one stop as a picture: maps as thumbnails, a vector as stripes, the likeliest classes as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from resnetlab.interpret.activations import Floats, Stop
from resnetlab.plots.images import SMALL, Images
from resnetlab.plots.style import MUTED, PALE, VALIDATION, counted, name, percent

MAPS = 8  # in a line
MAP, BETWEEN = 1.0, 0.07  # inches: the side of a map, and from one to the next
SHOWN = MAPS * (MAP + BETWEEN) - BETWEEN
CLASS = 0.22  # inches for each of the likeliest classes
LIKELIEST = 10
COLOURS = colormaps["magma"]


def show_signal(axes: Axes, stop: Stop, x: float, down: tuple[float, float], classes: Sequence[str]) -> None:
    """Between two heights: maps as thumbnails, a vector as a strip, and the classes, if they have names, as bars."""
    y, room = sum(down) / 2, down[1] - down[0]
    if stop.name == "fc" and classes:
        likeliest(axes, stop.values, classes, x, y)
    elif stop.values.ndim == 1:
        strip(axes, stop, x, y)
    else:
        lines = max(1, int((room + BETWEEN) / (MAP + BETWEEN)))
        tiles = channels(stop.values) if stop.name == "image" else thumbnails(stop.values, lines * MAPS)
        look = "nearest" if max(stop.shape[1:]) <= SMALL else "antialiased"
        top = y - (math.ceil(len(tiles) / MAPS) * (MAP + BETWEEN) - BETWEEN) / 2
        for index, tile in enumerate(tiles):
            row, place_in_row = divmod(index, MAPS)
            left, upper = x + place_in_row * (MAP + BETWEEN), top + row * (MAP + BETWEEN)
            place(axes, tile, (left, left + MAP, upper + MAP, upper), look)


def thumbnails(maps: Floats, most: int) -> Floats:
    """The maps (C, H, W) of largest variance as colours (N, H, W, 3), each scaled by itself."""
    chosen = np.argsort(-maps.var((1, 2), dtype=np.float64), kind="stable")[:most]
    return np.asarray(COLOURS(np.stack([scaled(maps[index]) for index in chosen]))[..., :3])


def channels(image: Floats) -> Floats:
    """The normalised channels of an image (C, H, W) as colours, all on one scale."""
    return np.asarray(colormaps["gray"](scaled(image))[..., :3])


def scaled(values: Floats) -> Floats:
    """From 0, the lowest, to 1, the highest; all 0 where there is no difference, or no number."""
    low, high = values.min(), values.max()
    room = float(high) - float(low)
    return (values - low) / room if 0 < room < np.inf else np.zeros_like(values)


def strip(axes: Axes, stop: Stop, x: float, y: float) -> None:
    """A vector as a row of stripes, in its own order."""
    tall = 0.42
    line = COLOURS(scaled(stop.values))[None, :, :3]
    up = y - 0.08
    place(axes, line, (x, x + SHOWN, up + tall / 2, up - tall / 2), "nearest")
    said = f"{counted(len(stop.values), 'number')}, one stripe each"
    if stop.name == "fc":
        said = f"{counted(len(stop.values), 'class', 'classes')}, one stripe each; they mean nothing before training"
    axes.text(x, up + tall / 2 + 0.13, said, size=9, color=MUTED, va="center")


def likeliest(axes: Axes, logits: Floats, classes: Sequence[str], x: float, y: float) -> None:
    """The classes with the highest probability as bars, in two columns."""
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


def place(axes: Axes, pixels: Images | Floats, extent: tuple[float, float, float, float], look: str) -> None:
    """An image into (left, right, bottom, top), inches."""
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation=look, aspect="auto", zorder=3)
    axes.set(xlim=limits[0], ylim=limits[1])
