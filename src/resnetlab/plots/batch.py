"""A training batch as the network sees it: augmented, at the size of the step, with the labels it is trained on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.plots.style import MARGIN, MUTED, counted, house_style, name, new_figure, percent

COLUMNS, MOST = 8, 32
TILE, CAPTION = 1.15, 0.4  # inches: an image's side, and the two lines below it
GAP = 0.08  # of a side, between two images
LETTERS, LINE = 14, 0.19  # of a subtitle: letters per inch of its width, and inches per line


@house_style()
def batch(
    images: NDArray[np.uint8], shares: NDArray[np.floating], *, classes: Sequence[str], subtitle: str, total: int
) -> Figure:
    """Draw images (N, H, W, C), uint8, with the names of their classes.

    `shares` (N, classes) are the shares of the classes in each image: 1 for one class, unless images were mixed.
    `total` is the number of images in the batch, of which these are the first.
    """
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    width, height = max(7.5, columns * TILE + 2 * MARGIN), rows * (TILE + CAPTION) + MARGIN
    shown = f"{len(images)} of {counted(total, 'image')}" if len(images) < total else counted(total, "image")
    first, *further = textwrap.wrap(subtitle, int(width * LETTERS), max_lines=4, placeholder=" …") or [""]
    lower = LINE * len(further)
    figure = new_figure(width, height + lower, f"The first batch as the network gets it: {shown}", first)
    for number, line in enumerate(further, 1):
        place = (MARGIN / width, 1 - (0.60 + LINE * number) / figure.get_figheight())
        figure.text(*place, name(line, len(line)), size=9.5, color=MUTED)
    # One axes for all images, because an axes for each takes a second to draw.
    axes = figure.add_axes((MARGIN / width, 0, columns * TILE / width, height / figure.get_figheight()))
    axes.set(xlim=(0, columns), ylim=(height / TILE, 0))
    axes.axis("off")
    down, pixels = (TILE + CAPTION) / TILE, images[..., :3] if images.shape[3] >= 3 else images[..., 0]
    for index, (image, share) in enumerate(zip(pixels, shares, strict=True)):
        row, across = divmod(index, columns)
        top = row * down
        axes.imshow(
            image, cmap="gray", vmin=0, vmax=255, interpolation="nearest",
            extent=(across, across + 1 - GAP, top + 1 - GAP, top), aspect="auto",
        )  # fmt: skip
        axes.text(across, top + 1, caption(share, classes), size=7, color=MUTED, va="top", linespacing=1.3)
    axes.set(xlim=(0, columns), ylim=(height / TILE, 0))
    return figure


def caption(share: NDArray[np.floating], classes: Sequence[str]) -> str:
    """The class of an image, or the two classes of a mixed one with their shares, the larger first."""
    places = np.argsort(-share, kind="stable")[:2]
    if share[places[0]] >= 1:
        return name(classes[places[0]], 16)
    return "\n".join(f"{percent(float(share[place]))} {name(classes[place], 11)}" for place in places)
