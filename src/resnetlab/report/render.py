"""Render pages from templates: the jinja environment with escaping, and filters for numbers and images."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from resnetlab import __version__
from resnetlab.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SVG = 150_000  # bytes; SVG is sharp at any size, but thousands of points are smaller as pixels
SHARP = 64  # pixels; up to here an image is shown pixel by pixel


@dataclass(frozen=True)
class Picture:
    """A figure of a page as a data URI, with its size in pixels, a description for screen readers and a note."""

    source: str
    width: int
    height: int
    description: str
    note: str = ""
    is_wide: bool = False  # wider than the page: it is scrolled
    folded: str = ""  # the summary under which it is folded away


@dataclass(frozen=True)
class Thumbnail:
    """A single image as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int
    is_small: bool


def render(template: str, **values: Any) -> str:
    """Fill a template. Every value is escaped, and control characters in it are made visible."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """The jinja environment of all pages. Undefined names raise errors, and all values are escaped."""
    made = Environment(
        loader=PackageLoader("resnetlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = asset("page.js")
    made.globals |= {
        "style": Markup(asset("style.css")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "version": __version__,
    }
    made.filters |= {
        "digits": json.dumps,
        "rounded": rounded,
        "thumbnail": thumbnail,
        "with_code": with_code,
        "lines": lines,
        "capitalised": capitalised,
    }
    made.tests |= {"finite": is_number, "pair": is_pair}
    return made


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return resources.files("resnetlab.report").joinpath(name).read_text(encoding="utf-8")


def without_controls(value: Any) -> Any:
    """A value on one line without control characters. Markup, which only templates create, is unchanged."""
    return value if hasattr(value, "__html__") else printable(value)


def with_code(sentence: str) -> Markup:
    """Convert text between backticks in a sentence to code.

    >>> with_code("run `ls <x>` again")
    Markup('run <code>ls &lt;x&gt;</code> again')
    """
    parts = enumerate(map(printable, sentence.split("`")))
    return Markup().join(Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in parts)


def lines(text: str) -> Markup:
    """Text that keeps its line breaks.

    >>> lines("a <b>" + chr(10) + "c")
    Markup('a &lt;b&gt;\\nc')
    """
    return Markup("\n").join(map(printable, text.split("\n")))


def capitalised(text: str) -> str:
    """A text whose first letter is a capital."""
    return text[:1].upper() + text[1:]


def rounded(value: float, style: str, unit: bool = True) -> str:
    """A number rounded for reading, in one of the styles percent, plain, count and short.

    >>> rounded(0.8302, "percent"), rounded(0.123456, "plain"), rounded(12345, "count"), rounded(4.8e-07, "short")
    ('83.02 %', '0.1235', '12,345', '4.8e-07')
    """
    forms = {"percent": f"{100 * value:.2f}{' %' if unit else ''}", "count": f"{value:,.0f}", "short": f"{value:.4g}"}
    return forms.get(style, f"{value:.4f}")


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def picture(figure: Figure, description: str, **options: Any) -> Picture:
    """A matplotlib figure as SVG, or as PNG if that is smaller."""
    from resnetlab.plots.style import rendered

    width, height = figure.get_size_inches()
    content, form = rendered(figure, "svg"), "svg+xml"
    if len(content) > MOST_SVG:
        content, form = fewer_colours(rendered(figure, "png")), "png"
    return Picture(data_uri(content, form), round(96 * width), round(96 * height), description, **options)


def png_picture(content: bytes, description: str) -> Picture:
    """The bytes of a PNG file as a picture. Raises OSError if they are not an image."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    return Picture(data_uri(fewer_colours(content), "png"), width, height, description)


def thumbnail(image: NDArray[np.uint8]) -> Thumbnail:
    """An image (H, W, C), uint8: unchanged if it is small, else as a JPEG."""
    from PIL import Image

    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    height, width = pixels.shape[:2]
    is_small = max(height, width) <= SHARP
    form, file = "png" if is_small else "jpeg", io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **({"optimize": True} if is_small else {"quality": 88}))
    return Thumbnail(data_uri(file.getvalue(), form), width, height, is_small)


def fewer_colours(png: bytes) -> bytes:
    """A diagram with 256 colours: a third of the bytes, and no visible difference."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as whole:
        whole.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    return min(png, file.getvalue(), key=len)


def data_uri(content: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
