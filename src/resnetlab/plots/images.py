"""Images with their classes: a sample of a split, its worst mistakes, and predictions of images without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.plots.style import (
    MARGIN,
    MUTED,
    RIGHT,
    VALIDATION,
    WRONG,
    counted,
    empty_figure,
    house_style,
    name,
    new_figure,
    percent,
)

Images: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.integer]
Floats: TypeAlias = NDArray[np.floating]

COLUMNS, MOST = 5, 25
TILE, GAP, LINE = 1.75, 0.3, 0.165  # inches: an image's side, the space between two, a line of its caption
SMALL = 64  # pixels; up to here the pixels themselves are shown, sharp


class Pictures(Protocol):
    """Images (N, H, W, C), uint8, of which some are chosen by their numbers, as of an array."""

    def __len__(self) -> int: ...
    def __getitem__(self, chosen: NDArray[np.integer], /) -> Images: ...


class Line(NamedTuple):
    """One line of a caption."""

    text: str
    colour: str = MUTED
    weight: str = "normal"


@house_style()
def samples(
    images: Pictures, true: Labels, predicted: Labels, probability: Floats, *, classes: Sequence[str], title: str
) -> Figure:
    """Up to 25 of the `images` (N, H, W, C), uint8, evenly spread over their order, with true and predicted names.

    `true` and `predicted` (N,) are indices into `classes`, `probability` (N,) is that of the predicted class.
    A correct prediction is green with a ✓, a wrong one is red with a ✗.
    """
    heading = f"Sample predictions: {title}"
    if not len(images):
        return empty_figure(heading, counted(0, "image"), "There are no images to show.")
    chosen = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).astype(int))
    captions = [caption(true[i], predicted[i], probability[i], classes) for i in chosen]
    right = int(np.sum(true[chosen] == predicted[chosen]))
    scores = f"{right} correct (✓), {len(chosen) - right} wrong (✗)"
    return gallery(images[chosen], captions, heading, f"{of_total(len(chosen), len(images))}: {scores}")


@house_style()
def mistakes(
    images: Pictures,
    true: Labels,
    predicted: Labels,
    probability: Floats,
    loss: Floats,
    *,
    classes: Sequence[str],
    title: str,
) -> Figure:
    """The up to 25 mistakes with the highest `loss` (N,), worst first; a loss that is NaN counts as the worst.

    The other arguments are those of `samples`. Without mistakes, the figure has a sentence instead.
    """
    heading = f"Worst mistakes: {title}"
    wrong = np.flatnonzero(true != predicted)
    total = counted(len(images), "image")
    if not len(wrong):
        return empty_figure(heading, total, "✓ No mistakes: every prediction is correct.", RIGHT)
    costs = np.nan_to_num(loss[wrong].astype(np.float64), nan=np.inf)
    chosen = wrong[np.argsort(-costs, kind="stable")[:MOST]]
    subtitle = f"{len(chosen)} of {counted(len(wrong), 'mistake')} in {total}, highest loss first"
    captions = [[*caption(true[i], predicted[i], probability[i], classes), Line(f"loss {loss[i]:.2f}")] for i in chosen]
    return gallery(images[chosen], captions, heading, subtitle)


@house_style()
def predictions(
    images: Images,
    files: Sequence[str],
    predicted: Sequence[str],
    probability: Floats,
    rejected: Sequence[bool],
    *,
    total: int,
) -> Figure:
    """Draw images (N, H, W, C), uint8, with predicted class, probability and file name.

    A rejected image has "none of these" above its most probable class. `total` is the number of images of which these
    are a sample.
    """
    captions = []
    for file, name_, share, is_rejected in zip(files, predicted, probability, rejected, strict=True):
        found = f"{name(name_, 14)} ({percent(share)})"
        heading = Line("none of these", WRONG, "bold") if is_rejected else Line(found, VALIDATION, "bold")
        nearest = [Line(f"nearest: {found}")] if is_rejected else []
        captions.append([heading, *nearest, Line(name(file.rpartition("/")[2], 22))])
    shown, everything = len(images), counted(total, "image")
    subtitle = f"{shown} of {everything}, drawn at random" if shown < total else everything
    return gallery(images, captions, "Predictions", subtitle, columns=6)


def caption(true: int, predicted: int, probability: float, classes: Sequence[str]) -> list[Line]:
    """Predicted class, marked and coloured as correct or wrong, and true class."""
    mark, colour = ("✓", RIGHT) if true == predicted else ("✗", WRONG)
    return [
        Line(f"{mark} {name(classes[predicted], 14)} ({percent(probability)})", colour, "bold"),
        Line(f"true: {name(classes[true], 18)}"),
    ]


def gallery(
    images: Images, captions: Sequence[Sequence[Line]], title: str, subtitle: str, *, columns: int = COLUMNS
) -> Figure:
    """A grid of images (N, H, W, C), row by row, each with its caption below."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    tall = TILE * min(1.5, images.shape[1] / images.shape[2])
    step = tall + max(map(len, captions)) * LINE + GAP
    width, height = max(7.5, columns * (TILE + GAP) - GAP + 2 * MARGIN), rows * step
    figure = new_figure(width, height, title, subtitle)
    total = figure.get_figheight()
    for index, (image, lines) in enumerate(zip(images, captions, strict=True)):
        row, across = divmod(index, columns)
        left, bottom = MARGIN + across * (TILE + GAP), height - row * step - tall
        axes = figure.add_axes((left / width, bottom / total, TILE / width, tall / total), anchor="SW")
        show(axes, image, frame=lines[0].colour)
        write(axes, lines)
    return figure


def show(axes: Axes, image: Images, frame: str) -> None:
    """Draw one image (H, W, C), in gray unless it has three channels, with a coloured frame."""
    if image.dtype != np.uint8:
        raise TypeError(f"pictures are drawn from uint8 images, not from {image.dtype}")
    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    sharp = max(pixels.shape[:2]) <= SMALL
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if sharp else "antialiased")
    axes.set(xticks=(), yticks=())
    axes.spines[:].set(visible=True, color=frame, linewidth=1.8)


def write(axes: Axes, lines: Sequence[Line]) -> None:
    """Write the caption below the axes, line by line."""
    for index, line in enumerate(lines):
        axes.annotate(
            line.text,
            (0, 0),
            xycoords="axes fraction",
            xytext=(0, -4 - 72 * LINE * index),
            textcoords="offset points",
            annotation_clip=False,
            va="top",
            size=9,
            color=line.colour,
            weight=line.weight,
        )


def of_total(shown: int, total: int) -> str:
    """The number of images shown, and the total."""
    return f"{shown} of {counted(total, 'image')}, evenly spread" if shown < total else counted(total, "image")
