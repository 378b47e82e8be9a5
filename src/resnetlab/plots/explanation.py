"""The explanation of one image as a figure: Grad-CAM and occlusion for its top classes, and similar images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnetlab.interpret.grad_cam import CamStage
from resnetlab.interpret.occlusion import Patches
from resnetlab.plots.images import GAP, LINE, TILE, Line, show, write
from resnetlab.plots.network import colour, overlay
from resnetlab.plots.style import INK, MARGIN, house_style, name, new_figure, percent

Image = NDArray[np.uint8]

SMALLEST_SCALE = 0.01  # drops of less than a point stay pale: they are noise, whatever the largest of them is


class OfClass(Protocol):
    """The evidence for one class (see `resnetlab.inference.explain.Evidence`)."""

    @property
    def name(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def grad_cam(self) -> NDArray[np.float32]: ...
    @property
    def drops(self) -> NDArray[np.float64]: ...
    @property
    def agreement(self) -> float | None: ...


class Similar(Protocol):
    """A similar image (see `resnetlab.runs.similar_images.SimilarImage`)."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def similarity(self) -> float: ...
    @property
    def pixels(self) -> Image | None: ...


class Explained(Protocol):
    """The explanation of one image (see `resnetlab.runs.explain.Explanation`)."""

    @property
    def pixels(self) -> Image: ...
    @property
    def classes(self) -> Sequence[OfClass]: ...
    @property
    def stage(self) -> CamStage: ...
    @property
    def patches(self) -> Patches: ...
    @property
    def visible(self) -> tuple[float, float]: ...
    @property
    def similar(self) -> Sequence[Similar]: ...


def drop_overlay(image: Image, drops: NDArray[np.floating]) -> Image:
    """The image in gray with the drops (H, W) of a probability over it, red, and the rises, blue.

    The strongest colour is the largest drop or rise, but at least that of one percentage point.
    """
    gray = colour(image).astype(np.float64).mean(-1, keepdims=True) / 255
    scaled = drops / max(SMALLEST_SCALE, float(np.abs(drops).max()))
    glow = colormaps["RdBu_r"](0.5 + 0.5 * scaled)[..., :3]
    cover = 0.8 * np.abs(scaled)[..., None] ** 0.7
    return np.asarray(np.round(255 * ((1 - cover) * (0.15 + 0.85 * gray) + cover * glow)), np.uint8)


def tiles(explained: Explained, evidence: OfClass) -> tuple[Image, Image]:
    """The images (S, S, 3) of Grad-CAM and of occlusion for one class."""
    return (
        overlay(explained.pixels, evidence.grad_cam),
        drop_overlay(explained.pixels, explained.patches.spread(evidence.drops)),
    )


def changes(drops: NDArray[np.floating]) -> str:
    """The lowest and the highest change of the probability when a patch is covered, in percentage points.

    >>> changes(np.array([0.5, -0.012]))
    '−50.0 to +1.2 points'
    """
    low, high = (signed(100 * float(value), 1) for value in (-drops.max(), -drops.min()))
    return f"{low} to {high} points"


def signed(value: float, digits: int) -> str:
    """A number with its sign.

    >>> signed(-0.314, 2), signed(0.0001, 2)
    ('−0.31', '+0.00')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def agreement(correlation: float | None) -> str:
    """The rank correlation of the two methods in words."""
    return "undefined" if correlation is None else signed(correlation, 2)


def view(visible: tuple[float, float]) -> str:
    """The part of an image that the network gets, in words; "" for all of it.

    >>> view((0.75, 1.0)), view((1.0, 1.0))
    ('the central 75 % of the width; the rest was cut away', '')
    """
    width, height = (f"{100 * share:.0f} %" for share in visible)
    is_cut = [share < 0.995 for share in visible]
    if not any(is_cut):
        return ""
    if all(is_cut):
        both = f"{width} of width and height" if width == height else f"{width} of the width and {height} of the height"
    else:
        both = f"{width} of the width" if is_cut[0] else f"{height} of the height"
    return f"the central {both}; the rest was cut away"


@house_style()
def explanation_figure(explained: Explained, title: str) -> Figure:
    """Draw an image, the evidence for its top classes by Grad-CAM and by occlusion, and similar images below them."""
    first, count = explained.classes[0], len(explained.classes)
    columns = max(1 + count, len(explained.similar))
    rows = 2 + bool(explained.similar)
    step = TILE + 3 * LINE + GAP
    width, height = columns * (TILE + GAP) - GAP + 2 * MARGIN, rows * step
    cut, channels = view(explained.visible), explained.pixels.shape[-1]
    heading = f"{title}: {name(first.name, 30)}, {percent(first.probability)}"
    subtitle = f"the network gets {cut}" if cut else "as the network gets it"
    if channels not in (1, 3):
        subtitle += f"; of its {channels} channels {'the first three are' if channels > 3 else 'the first is'} shown"
    figure = new_figure(max(width, 7.5), height, heading, subtitle)
    width, total = figure.get_size_inches()

    def place(row: int, column: int, image: Image | None, lines: Sequence[Line]) -> None:
        left, bottom = MARGIN + column * (TILE + GAP), height - row * step - TILE
        axes = figure.add_axes((left / width, bottom / total, TILE / width, TILE / total), anchor="SW")
        if image is None:
            axes.axis("off")
        else:
            show(axes, image, frame="#b4bac4")
        write(axes, lines)

    stage, patches = explained.stage, explained.patches
    place(0, 0, explained.pixels, [Line("the image", INK, "bold")])
    place(1, 0, None, [])
    few = f"(the last stage: {stage.last_size}×{stage.last_size})" if stage.size != stage.last_size else ""
    for index, line in enumerate(
        [
            Line("above: Grad-CAM", INK, "bold"),
            Line(f"{stage.name}, {stage.size}×{stage.size} positions"),
            *([Line(few)] if few else []),
            Line("right: occlusion", INK, "bold"),
            Line(f"patches of {patches.side}×{patches.side} px, every {patches.stride} px"),
            Line("red: less probable without it"),
            Line("blue: more probable without it"),
        ]
    ):
        style: dict[str, Any] = {"size": 9, "color": line.colour, "weight": line.weight, "va": "top"}
        figure.axes[-1].text(0, 0.97 - 0.13 * index, line.text, **style)
    for column, evidence in enumerate(explained.classes, start=1):
        heat, drops = tiles(explained, evidence)
        share = percent(evidence.probability, 1)
        found = "" if evidence.grad_cam.any() else "no evidence"
        place(0, column, heat, [Line(f"{name(evidence.name, 16)} {share}", INK, "bold"), Line(found)])
        place(
            1, column, drops, [Line(changes(evidence.drops)), Line(f"rank correlation {agreement(evidence.agreement)}")]
        )
    for column, one in enumerate(explained.similar):
        lines = [Line(f"similar, {one.similarity:.3f}", INK, "bold")]
        lines += [Line(name(one.label, 22))] * bool(one.label) + [Line(name(one.name, 22))]
        place(2, column, one.pixels, lines)
    return figure
