"""Figures of a trained network: first filters, the map of its features, and Grad-CAM heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.plots.images import Images, Labels, Line, caption, gallery
from resnetlab.plots.style import (
    INK,
    MARGIN,
    counted,
    empty_figure,
    house_style,
    name,
    new_figure,
    percent,
)

Floats: TypeAlias = NDArray[np.floating]

# Ten distinguishable colours, after Okabe and Ito and Tol; more classes use the colour wheel.
TEN = "#0072b2 #d98200 #00795a #c23b00 #a3387a #56b4e9 #8c6d1f #5e3c99 #6b7280 #117733".split()  # noqa: SIM905
MOST_FILTERS = 256
SIDE, GAP = 0.62, 0.05  # inches: from one filter to the next, and between them


def colours(count: int) -> list[str]:
    """A colour for each class."""
    if count <= len(TEN):
        return TEN[:count]
    shade = np.array([0.88, 0.62, 0.75])[np.arange(count) % 3][:, None]  # neighbours on the wheel differ in lightness
    return [to_hex(tuple(colour)) for colour in shade * colormaps["hsv"](np.arange(count) / count)[:, :3]]


def darker(shade: str) -> str:
    """A darker shade of the colour, for text on white."""
    red, green, blue = to_rgb(shade)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


@house_style()
def filters(weights: Floats, title: str) -> Figure:
    """Draw the filters of the first convolution, `weights` (out, in, k, k), largest weights first.

    Each filter has its own scale: gray is zero, and the largest weight is black or white (in colour, per channel).
    """
    weights = np.asarray(weights, np.float64)
    strength = np.abs(weights).reshape(len(weights), -1).max(1)
    order = np.argsort(-strength, kind="stable")[:MOST_FILTERS]
    scaled = weights[order] / np.where(strength[order] > 0, strength[order], 1)[:, None, None, None]
    tiles = (0.5 + 0.5 * scaled).transpose(0, 2, 3, 1)
    tiles = tiles if tiles.shape[-1] == 3 else tiles.mean(-1)
    columns = min(len(tiles), 8 if len(tiles) < 32 else 16)
    rows = math.ceil(len(tiles) / columns)
    size = "×".join(map(str, weights.shape[:1:-1]))
    shown = f"{len(tiles)} of {len(weights)}" if len(tiles) < len(weights) else f"{len(weights)}"
    subtitle = f"{shown} filters of {size} pixels, each on its own scale, largest weights first"
    wide, tall = columns * SIDE - GAP, rows * SIDE - GAP
    figure = new_figure(max(6.5, wide + 2 * MARGIN), tall + MARGIN, f"First filters: {title}", subtitle)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, MARGIN / height, wide / width, tall / height))
    axes.imshow(mosaic(tiles, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return figure


def mosaic(tiles: Floats, columns: int) -> Floats:
    """Arrange enlarged tiles (N, h, w) or (N, h, w, 3) in [0, 1] side by side on white."""
    times = max(1, 60 // max(tiles.shape[1:3]))
    large = tiles.repeat(times, 1).repeat(times, 2)
    high, wide = large.shape[1:3]
    across, down = round(wide * SIDE / (SIDE - GAP)), round(high * SIDE / (SIDE - GAP))
    rows = math.ceil(len(tiles) / columns)
    canvas = np.ones((rows * down, columns * across, *large.shape[3:]))
    for index, tile in enumerate(large):
        top, left = down * (index // columns), across * (index % columns)
        canvas[top : top + high, left : left + wide] = tile
    return canvas[: rows * down - (down - high), : columns * across - (across - wide)]


@house_style()
def embedding_map(points: Floats, true: Labels, predicted: Labels, *, classes: Sequence[str], title: str) -> Figure:
    """Draw `points` (N, 2), one per image, coloured by the true class; a wrong prediction is a cross.

    Each class is named at the median of its points, if there is room for the name.
    """
    heading = f"Map of the features: {title}"
    if not len(points):
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    wrong = true != predicted
    subtitle = (
        f"{counted(len(points), 'image')} by their pooled features (PCA, then t-SNE) · colour: true class · "
        f"✗ {counted(int(wrong.sum()), 'mistake')}"
    )
    figure = new_figure(9.5, 7.6, heading, subtitle)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, MARGIN / height, 1 - 2 * MARGIN / width, 7.4 / height))
    paint = np.array(colours(len(classes)))[true]
    size = float(np.clip(9000 / len(points), 7, 40))
    for chosen, style in ((~wrong, {"s": size, "alpha": 0.55, "lw": 0}), (wrong, {"s": 2.2 * size, "marker": "x"})):
        across, up = points[chosen].T
        axes.scatter(across, up, c=paint[chosen], **style)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.margins(0.03)
    write_names(axes, points, true, classes)
    return figure


def write_names(axes: Axes, points: Floats, true: Labels, classes: Sequence[str]) -> None:
    """Write class names at the medians of their points, large classes first; leave out overlapping names."""
    present, counts = np.unique(true, return_counts=True)
    size = 11 if len(present) <= 12 else 9.5 if len(present) <= 40 else 7.5
    paint = colours(len(classes))
    taken: list[tuple[Floats, Floats]] = []
    low, high = points.min(0), points.max(0)
    letter = 0.76 * size / 72 * (high - low) / (9.0, 7.0)  # of a bold line of text, as far as it goes across and up
    for index in present[np.argsort(-counts, kind="stable")]:
        middle, text = np.median(points[true == index], axis=0), name(classes[index])
        half = letter * (len(text) / 2, 0.9)
        if any((np.abs(middle - other) < half + reach).all() for other, reach in taken):
            continue
        taken.append((middle, half))
        axes.text(
            middle[0],
            middle[1],
            text,
            size=size,
            weight="bold",
            color=darker(paint[index]),
            ha="center",
            va="center",
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.72, "edgecolor": "none", "boxstyle": "round,pad=0.15"},
        )


@house_style()
def grad_cams(
    images: Images,
    maps: Floats,
    true: Labels,
    named: Labels,
    probability: Floats,
    *,
    classes: Sequence[str],
    title: str,
) -> Figure:
    """Draw each of the `images` (N, H, W, C), uint8, with heat maps of the evidence for two classes.

    `maps` (N, 2, H, W) in [0, 1] are those of the two classes in `named` (N, 2), the predicted one first, with their
    `probability` (N, 2); `true` (N,) is the true class.
    """
    heading = f"Grad-CAM: {title}"
    if not len(images):
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    subtitle = (
        "each image, with heat maps for the predicted class and for the true class, or for the second most probable one"
    )
    tiles, captions = [], []
    for image, pair, label, classes_of, shares in zip(images, maps, true, named, probability, strict=True):
        first = caption(int(label), int(classes_of[0]), float(shares[0]), classes)
        tiles += [colour(image), *(overlay(image, map_) for map_ in pair)]
        captions.append(first)
        for index, share, map_ in zip(classes_of, shares, pair, strict=True):
            found = "" if map_.any() else ", no evidence"
            captions.append([Line(f"for {name(classes[index], 16)}", INK), Line(percent(float(share)) + found)])
    return gallery(np.stack(tiles), captions, heading, subtitle, columns=6)


def colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image (H, W, C), gray or in colour, to RGB (H, W, 3)."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def overlay(image: NDArray[np.uint8], heat: Floats) -> NDArray[np.uint8]:
    """The image in gray with a heat map (H, W) in [0, 1] over it, more opaque at higher values."""
    gray = colour(image).astype(np.float64).mean(-1, keepdims=True) / 255
    glow = colormaps["inferno"](heat)[..., :3]
    cover = 0.75 * np.asarray(heat, np.float64)[..., None]
    return np.asarray(np.round(255 * ((1 - cover) * (0.15 + 0.85 * gray) + cover * glow)), np.uint8)
