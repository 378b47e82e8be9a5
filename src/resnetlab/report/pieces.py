"""The pieces that pages are made of: numbers, tables, pictures. Whatever comes from outside is escaped here."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnetlab.report.html import Html, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SVG = 150_000  # bytes; drawings are sharp at any size, but thousands of points are smaller as pixels
SHARP = 64  # pixels; up to here an image is shown pixel by pixel
UNDEFINED = Html('<span class="undefined" title="undefined: there is nothing to divide by">–</span>')


def join(*parts: Html | str) -> Html:
    return Html("".join(parts))


def element(name: str, *content: Html, **attributes: object) -> Html:
    """An element with escaped attributes; a trailing underscore is dropped and others become hyphens.

    >>> element("td", text("<b>"), class_="x", data_from='"')
    '<td class="x" data-from="&quot;">&lt;b&gt;</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name == "img" else f"<{name}{given}>{''.join(content)}</{name}>")


def marked(sentence: str) -> Html:
    """A sentence in which what stands between backticks is typed.

    >>> marked("run `ls <x>` again")
    'run <code>ls &lt;x&gt;</code> again'
    """
    parts = sentence.split("`")
    return join(*(element("code", text(part)) if place % 2 else text(part) for place, part in enumerate(parts)))


def number(value: float | None, style: str = "plain", *, source: str | None = None) -> Html:
    """A number as people read it, with all its digits beside it; undefined is a dash.

    `style` is `percent`, `plain` or `count`; `source` says where in the run's files the number stands.

    >>> number(0.83019999, "percent")
    '<data value="0.83019999" title="0.83019999">83.02 %</data>'
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return UNDEFINED
    digits = json.dumps(value)
    return element("data", text(shown(value, style)), value=digits, title=digits, data_from=source)


def shown(value: float, style: str) -> str:
    """A number rounded for reading.

    >>> shown(0.8302, "percent"), shown(0.123456, "plain"), shown(12345, "count"), shown(4.8e-07, "short")
    ('83.02 %', '0.1235', '12,345', '4.8e-07')
    """
    forms = {"percent": f"{100 * value:.2f} %", "count": f"{value:,.0f}", "short": f"{value:.4g}"}
    return forms.get(style, f"{value:.4f}")


def between(interval: Sequence[float] | None, style: str, *, source: str | None = None) -> Html:
    """The ends of an interval, with the unit once; nothing where there is none.

    >>> between([0.8, 0.85], "percent")
    '<data value="0.8" title="0.8">80.00</data> – <data value="0.85" title="0.85">85.00 %</data>'
    """
    if not isinstance(interval, Sequence) or len(interval) != 2:
        return Html("")
    ends = [number(end, style, source=source and f"{source}/{i}") for i, end in enumerate(interval)]
    return join(ends[0].replace(" %</data>", "</data>"), " – ", ends[1])


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Html]], *, caption: str, words: int = 1, kind: str | None = None
) -> Html:
    """A table whose first `words` columns are words, and whose first cell of each row is its heading."""
    head = [
        element("th", text(column), scope="col", class_=None if place < words else "number")
        for place, column in enumerate(columns)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=None if place < words else "number") for place, cell in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    inside = element(
        "table",
        element("caption", text(caption)),
        element("thead", element("tr", *head)),
        Html("\n"),
        element("tbody", *(join(row, "\n") for row in body)),
        class_=kind,
    )
    # What can be scrolled can be reached by keyboard only with a tab stop, and then wants a name.
    return join(element("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption), "\n")


def pairs(rows: Sequence[tuple[str, Html]]) -> Html:
    """Names and values, one below the other."""
    return element("dl", *(join(element("dt", text(name)), element("dd", value), "\n") for name, value in rows))


def more(heading: str, *content: Html) -> Html:
    """Something to unfold."""
    return join(element("details", element("summary", text(heading)), *content), "\n")


def picture(figure: Figure, description: str, *, note: str = "", kind: str | None = None) -> Html:
    """A matplotlib figure on a light card, as a drawing or in pixels, whichever suits its size."""
    from resnetlab.plots.style import rendered

    width, height = figure.get_size_inches()
    content, form = rendered(figure, "svg"), "svg+xml"
    if len(content) > MOST_SVG:
        content, form = fewer_colours(rendered(figure, "png")), "png"
    size = {"width": round(96 * width), "height": round(96 * height)}
    return framed(f"data:image/{form};base64,{encoded(content)}", description, note=note, kind=kind, **size)


def framed(source: str, description: str, *, note: str = "", kind: str | None = None, **size: int) -> Html:
    """An image with a note below it."""
    reached = {"tabindex": 0, "role": "region", "aria_label": description} if kind else {}  # it can be scrolled
    card = element("div", element("img", src=source, alt=description, **size), class_="card", **reached)
    below = element("figcaption", text(note)) if note else Html("")
    return join(element("figure", card, below, class_=kind), "\n")


def stored(path: Path, description: str) -> Html:
    """A PNG that lies in the run, where it does."""
    try:
        content = path.read_bytes()
    except OSError:
        return Html("")
    return framed(f"data:image/png;base64,{encoded(fewer_colours(content))}", description)


def thumbnail(image: NDArray[np.uint8], description: str) -> Html:
    """An image (H, W, C), uint8: as it is while it is small, as a JPEG when it is a photograph."""
    from PIL import Image

    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    height, width = pixels.shape[:2]
    small = max(height, width) <= SHARP
    form, file = "png" if small else "jpeg", io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **({"optimize": True} if small else {"quality": 88}))
    source = f"data:image/{form};base64,{encoded(file.getvalue())}"
    kind = "pixels" if small else None
    return element("img", src=source, alt=description, width=width, height=height, class_=kind)


def fewer_colours(png: bytes) -> bytes:
    """A diagram with 256 colours: a third of the bytes, and no difference that could be seen."""
    from PIL import Image

    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png)) as whole:
            whole.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    except (OSError, ValueError, SyntaxError):  # somebody else's file under that name
        return png
    return min(png, file.getvalue(), key=len)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def short(digest: Any) -> Html:
    """The beginning of a digest, with all of it beside it."""
    return element("code", text(str(digest)[:12]), title=digest)
