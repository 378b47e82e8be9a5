"""The network as a figure, drawn from its modules: stem, units with their shortcuts, and head, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from resnetlab.interpret.diagram import NORM, Box, Section, sections
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import StageRow, stage_rows
from resnetlab.plots.network import TEN
from resnetlab.plots.style import HEADER, INK, MARGIN, MUTED, TEST, house_style, new_figure

# Inches. A unit is a box and the gap below it; a band is the room of a stage.
UNIT, BOX, PADDING = 0.33, 0.215, 0.14
LETTER, TEXT = 0.067, 8.2  # the width of a letter in a box, in inches, and its font size in points
STRIPE, BULGE = 0.05, 0.34
NAMES, LEGEND = 0.1, 0.34  # the names of the columns below the header, and the legend at the bottom
TABLE = 3.8
WAY = "#8b93a1"

SHORTCUT_LINES: dict[str, tuple[str, tuple[float, tuple[float, ...]] | Literal["-"], str]] = {
    "identity": (INK, "-", "identity shortcut"),
    "projection": (TEST, (0, (4, 2)), "projection shortcut: 1×1 convolution"),
    "padding": (TEST, (0, (1, 1.6)), "zero-padding shortcut: every second pixel, new channels are zero"),
}


@dataclass(frozen=True)
class Column:
    """Position and width of the boxes, in inches from the left edge of the column."""

    middle: float
    box: float  # width
    width: float

    @classmethod
    def around(cls, drawn: Sequence[Section]) -> Column:
        """A column with room for the longest box, its shortcut and the text beside it."""
        boxes = [box for section in drawn for box in section.boxes]
        longest = max(sum(length(part) for part in box.parts) for box in boxes)
        left = 0.62 if any(box.times > 1 for box in boxes) else 0.1
        beside = max(len(box.shortcut_layers) for box in boxes) * LETTER
        right = BULGE + beside if any(box.shortcut for box in boxes) else 0.1
        wide = max(1.7, longest + 0.16)
        return cls(left + wide / 2, wide, left + wide + right)


def length(part: str) -> float:
    return STRIPE if part == NORM else (len(part) + 2.2) * LETTER


def stage_colour(stage: str) -> str:
    """Gray for stem and head, a colour for each stage.

    >>> stage_colour("stem") == stage_colour("head"), stage_colour("layer1") == stage_colour("layer2")
    (True, False)
    """
    return TEN[int(stage.removeprefix("layer")) - 1] if stage.startswith("layer") else MUTED


def tinted(shade: str, share: float) -> str:
    """The colour mixed with a share of white."""
    red, green, blue = (share + (1 - share) * part for part in to_rgb(shade))
    return to_hex((red, green, blue))


def height(section: Section) -> float:
    """Inches that the boxes of a section take."""
    return UNIT * len(section.boxes)


@house_style()
def diagram_figure(network: ResNet, image_size: int, *, title: str = "") -> Figure:
    """Draw the network for images of `image_size` × `image_size` pixels: a band for each stage, with its cost.

    A box is a unit with its convolutions (kernel, channels, /stride); many equal boxes in a row are drawn once. Weights
    are not read and may be on the meta device.
    """
    drawn, rows = sections(network), {row.stage: row for row in stage_rows(network, image_size)}
    column = Column.around(drawn)
    tall = {stage: sum(height(s) for s in drawn if s.stage == stage) + 2 * PADDING for stage in rows}
    params, macs = (sum(getattr(row, what) for row in rows.values()) for what in ("params", "macs"))
    wide = max(7.2, column.width + TABLE + 2 * MARGIN)
    cost = f"{amount(params)} parameters · {amount(macs)} multiply-adds for one image of {image_size}×{image_size} px"
    subtitle = f"{network.depth} layers · {cost}"
    figure = new_figure(
        wide, sum(tall.values()) + LEGEND + NAMES, title or network.name or "A residual network", subtitle
    )
    axes = canvas(figure)
    middle = MARGIN + (wide - TABLE - 2 * MARGIN - column.width) / 2 + column.middle
    top = first = HEADER + NAMES
    ends = [wide - MARGIN - 0.12 - inches for inches in (2.0, 1.0, 0.0)]
    image = times((network.in_channels, image_size, image_size))
    axes.text(middle, first - 0.08, f"image {image}", size=8.5, color=MUTED, ha="center")
    for end, word in zip(ends, ("output", "parameters", "MACs"), strict=True):
        axes.text(end, first - 0.08, word, size=8.5, color=MUTED, ha="right")
    for stage, row in rows.items():
        band(axes, stage, (MARGIN, wide - MARGIN), (top, top + tall[stage]))
        at = top + PADDING
        for section in (s for s in drawn if s.stage == stage):
            draw_section(axes, section, middle, column.box, at)
            at += height(section)
        write_costs(axes, row, wide - MARGIN - TABLE, ends, top + tall[stage] / 2)
        top += tall[stage]
        flow(axes, middle, top - tall[stage], top)
    legend(axes, drawn, MARGIN + 0.05, top + 0.2)
    return figure


def canvas(figure: Figure) -> Axes:
    """Axes over the whole figure whose units are inches, from the upper left corner to the right and down."""
    width, tall = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(tall, 0))
    axes.set_axis_off()
    return axes


def band(axes: Axes, stage: str, across: tuple[float, float], down: tuple[float, float]) -> None:
    """Draw the background of a stage."""
    shade = tinted(stage_colour(stage), 0.93)
    size = (across[1] - across[0], down[1] - down[0] - 0.03)
    axes.add_patch(Rectangle((across[0], down[0]), *size, facecolor=shade, linewidth=0, zorder=0))


def flow(axes: Axes, x: float, top: float, bottom: float) -> None:
    """Draw the line through a band, behind its boxes, with an arrow at its end."""
    axes.plot((x, x), (top, bottom), color=WAY, linewidth=1.3, zorder=1, solid_capstyle="butt")
    axes.plot(x, bottom - 0.035, marker="v", markersize=4.5, color=WAY, zorder=1)


def draw_section(axes: Axes, section: Section, x: float, width: float, top: float) -> None:
    """Draw the boxes of a section, one below the other, each in the middle of its `UNIT`."""
    for index, box in enumerate(section.boxes):
        draw_box(axes, box, (x, top + UNIT * (index + 0.5)), width, stage_colour(section.stage))


def draw_box(axes: Axes, box: Box, centre: tuple[float, float], width: float, shade: str) -> None:
    """Draw one box, with its parts, its shortcut, and its number of repetitions."""
    x, y = centre
    left, upper = x - width / 2, y - BOX / 2
    for behind in (2, 1, 0) if box.times > 1 else (0,):
        corner = (left - 0.04 * behind, upper - 0.02 * behind)
        card = FancyBboxPatch(corner, width, BOX, "round,pad=0,rounding_size=0.05", zorder=3)
        card.set(facecolor=tinted(shade, 0.8), edgecolor=shade, linewidth=1)
        axes.add_patch(card)
    room = sum(length(part) for part in box.parts)
    stretch = (width - 0.16 - STRIPE * box.parts.count(NORM)) / (room - STRIPE * box.parts.count(NORM))
    at, before = left + 0.08, ""
    for part in box.parts:
        if NORM not in (part, before) and at > left + 0.08:  # two layers without a norm between them
            axes.plot((at, at), (upper, upper + BOX), color=shade, linewidth=0.6, zorder=4)
        before = part
        if part == NORM:
            axes.add_patch(Rectangle((at, upper), STRIPE, BOX, facecolor=shade, linewidth=0, zorder=4))
            at += STRIPE
        else:
            step = length(part) * stretch
            axes.text(at + step / 2, y + 0.005, part, size=TEXT, ha="center", va="center", zorder=5)
            at += step
    if box.times > 1:
        axes.text(left - 0.13, y, f"{box.times} ×", size=10, weight="bold", color=shade, ha="right", va="center")
    if box.shortcut:
        draw_shortcut(axes, box, x, x + width / 2, y)


def draw_shortcut(axes: Axes, box: Box, x: float, right: float, y: float) -> None:
    """Draw the shortcut around a box, from the line above it to the addition below it."""
    colour, dashes, _ = SHORTCUT_LINES[box.shortcut]
    above, below = y - UNIT / 2, y + UNIT / 2
    out = right + 0.8 * BULGE
    corners = [(x, above), (right - 0.05, above), (out, above), (out, below), (right - 0.05, below), (x, below)]
    codes = [Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO]
    path = Path(corners, codes)
    drawn = PathPatch(path, fill=False, edgecolor=colour, linestyle=dashes, linewidth=1.15, zorder=2, gid="shortcut")
    axes.add_patch(drawn)
    axes.plot(x, below, marker="o", markersize=4.2, color=INK, zorder=6)
    if box.shortcut_layers:
        axes.text(out - 0.02, y, box.shortcut_layers, size=TEXT - 0.7, color=colour, va="center")


def write_costs(axes: Axes, row: StageRow, left: float, ends: Sequence[float], y: float) -> None:
    """Write name, output, parameters and multiply-adds of a stage; the numbers in columns that end at `ends`."""
    axes.text(left + 0.15, y, row.stage, size=10, weight="bold", color=stage_colour(row.stage), va="center")
    for end, text in zip(ends, (times(row.shape), amount(row.params), amount(row.macs)), strict=True):
        axes.text(end, y, text, size=9, ha="right", va="center")


def legend(axes: Axes, drawn: Sequence[Section], x: float, y: float) -> None:
    """Explain the lines and stripes that the figure contains."""
    boxes = [box for section in drawn for box in section.boxes]
    used = [SHORTCUT_LINES[kind] for kind in SHORTCUT_LINES if any(box.shortcut == kind for box in boxes)]
    stripe = Rectangle((x, y - 0.075), STRIPE, 0.15, facecolor=stage_colour("layer1"), linewidth=0)
    axes.add_patch(stripe)
    at = write(axes, x + 0.1, y, "norm, ReLU")
    if not used:
        write(axes, at, y, "no shortcuts: a plain net")
    for colour, dashes, meaning in used:
        axes.add_line(Line2D((at, at + 0.33), (y, y), color=colour, linestyle=dashes, linewidth=1.2))
        at = write(axes, at + 0.4, y, meaning)


def write(axes: Axes, x: float, y: float, text: str) -> float:
    """Write small text, and return the x position after it."""
    axes.text(x, y + 0.005, text, size=8, color=MUTED, va="center")
    return x + len(text) * 0.062 + 0.2


def times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def amount(count: int) -> str:
    """A count in three digits.

    >>> amount(21797672), amount(3663761408), amount(9536), amount(464), amount(999900)
    ('21.8 M', '3.66 G', '9.54 k', '464', '1.00 M')
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {letter}"
    return str(count)
