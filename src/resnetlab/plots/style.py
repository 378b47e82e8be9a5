"""Style of all figures: colours, fonts, header, format of names and numbers, and saving.

Only matplotlib's `Figure` is used, never pyplot: no display is needed, and unused figures are freed.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure

from resnetlab.errors import printable
from resnetlab.files import replacing

DPI = 130
HEADER = 0.85  # inches above the axes
MARGIN = 0.12  # inches between the header and the edges of the picture

Form: TypeAlias = Literal["png", "svg", "pdf"]
FORMS: dict[str, Form] = {".png": "png", ".svg": "svg", ".pdf": "pdf"}

# After Okabe and Ito (2008): distinguishable with the common forms of colour blindness, in print, and as text.
TRAIN, VALIDATION, TEST = "#d98200", "#0072b2", "#a3387a"
RIGHT, WRONG = "#00795a", "#c23b00"
PALE, PALE_WRONG = "#a9cde4", "#d5754d"  # areas under lines and beside text
INK, MUTED, FAINT = "#1f2430", "#667080", "#e6e8ec"

# DejaVu comes with matplotlib; the others, if installed, contain the scripts of East Asia.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")

RULES = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#b4bac4",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "xtick.color": "#b4bac4",
    "ytick.color": "#b4bac4",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "svg.hashsalt": "resnetlab",  # otherwise ids are drawn anew each time
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with our settings instead of the user's matplotlibrc, and restore them afterwards. Also a decorator."""
    installed = set(font_manager.get_font_names())
    family = [name for name in FONTS if name in installed]
    with matplotlib.style.context(["default", {**RULES, "font.family": family}]):
        yield


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """An empty figure with `width` × `height` inches for axes below a title and a subtitle, both left aligned."""
    figure = Figure(figsize=(width, height + HEADER))
    for text, inches, size, colour, weight in ((title, 0.33, 13, INK, "bold"), (subtitle, 0.60, 9.5, MUTED, "normal")):
        letter = 0.6 if weight == "bold" else 0.54  # of its font size, about
        room = int(width * 72 / (letter * size))
        place = (MARGIN / width, 1 - inches / figure.get_figheight())
        figure.text(*place, name(text, room), size=size, color=colour, weight=weight)
    return figure


def fit_below_header(figure: Figure) -> None:
    """Let matplotlib place the figure's subplots, labels and legends in the space below the header."""
    below = (0, 0, 1, 1 - HEADER / figure.get_figheight())
    figure.set_layout_engine("constrained", w_pad=MARGIN, h_pad=MARGIN / 2, rect=below)


def empty_figure(title: str, subtitle: str, message: str, colour: str = MUTED) -> Figure:
    """A figure with a message instead of axes."""
    figure = new_figure(7, 1.4, title, subtitle)
    figure.text(0.5, 0.3, name(message, 60), size=14, color=colour, ha="center")
    return figure


def name(text: object, longest: int = 20) -> str:
    """`text` on one line, at most `longest` characters of it, and with no `$` that would begin a formula.

    >>> name("a class with a very long name"), name("cost_$"), name("two" + chr(10) + "lines")
    ('a class with a very…', 'cost_\\\\$', 'two\\\\nlines')
    """
    line = printable(text)
    short = line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
    return short.replace("$", r"\$")


def percent(share: float, digits: int = 0) -> str:
    """Format a share in per cent, never rounded to 0 or 100 %; undefined is a dash.

    >>> percent(0.98765), percent(0.98765, 1), percent(0.9996), percent(0.0001), percent(float("nan"))
    ('99 %', '98.8 %', '>99 %', '<1 %', '–')
    """
    step = 10.0**-digits
    if 0 < share <= step / 200:
        return f"<{step:.{digits}f} %"
    if 1 - step / 200 <= share < 1:
        return f">{100 - step:.{digits}f} %"
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "–"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "image"), counted(10000, "image"), counted(2, "class", "classes")
    ('1 image', '10,000 images', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def save(figure: Figure, path: str | Path, *, program: str | None = None) -> None:
    """Write `figure`, whole or not at all, as a PNG, or as SVG or PDF if the name ends in .svg or .pdf.

    The same figure gives the same bytes. A PNG has the name of the `program` in its metadata. Raises `DiskTrouble`.
    """
    content = rendered(figure, FORMS.get(Path(path).suffix.lower(), "png"), program)
    with replacing(Path(path), len(content)) as file:
        file.write(content)


def rendered(figure: Figure, form: Form, program: str | None = None) -> bytes:
    """`figure` as the bytes of a file; the same figure gives the same bytes.

    Letters that are in no installed font are drawn as boxes, without a warning.
    """
    picture = io.BytesIO()
    signed: dict[Form, dict[str, str | None]] = {
        "png": {"Software": program},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure.savefig(picture, format=form, dpi=DPI, metadata=signed[form])
    figure.set_layout_engine("none")  # a second layout would move it slightly
    return picture.getvalue()
