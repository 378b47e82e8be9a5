"""Open an image in one of the known formats with Pillow, without decoding it."""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
from collections.abc import Callable
from functools import cache
from typing import IO

from PIL import Image, ImageFile

from resnetlab.data.tiff import SIGNATURES
from resnetlab.errors import BadInput

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIC")
"""The formats that are opened, by content. Pillow has forty more, and every parser can be attacked."""

_PLUGINS = ("Jpeg", "Png", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Jpeg2K", "Avif")
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}  # brands


class UnreadTiff(Exception):
    """A TIFF file that Pillow does not open."""


def open_undecoded(file: IO[bytes], shown: str) -> Image.Image:
    """Open an image without decoding it; `shown` is its name for messages.

    `Image.open` would do the same, but for its own limit on pixels, a setting of the process: it warns of 90 megapixels
    and refuses 180, even of a JPEG of which an eighth is decoded.

    Raises BadInput for a file of another format, UnreadTiff for a TIFF that Pillow does not open.
    """
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        file = io.BytesIO(file.read())
    prefix = file.read(16)
    alike = ""
    for name, factory, accept in _openers():
        # A format whose decoder this Pillow lacks answers with a sentence.
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            if accept is None or accept(prefix) is True:
                alike = name
                file.seek(0)
                return factory(file, "")
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC:
        return _open_heic(file, shown)
    if prefix[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" not in Image.SAVE:
        raise BadInput(f"{shown} is an AVIF image, which this Pillow cannot decode; pip install --upgrade pillow")
    if prefix[:4] in SIGNATURES:
        raise UnreadTiff
    if alike:
        raise BadInput(f"{shown} begins like {alike}, but is damaged or of an unknown kind")
    raise BadInput(f"{shown} is not an image of a known format ({', '.join(FORMATS)})")


@cache
def _openers() -> tuple[tuple[str, Callable[..., ImageFile.ImageFile], Callable[[bytes], bool | str] | None], ...]:
    """Return Pillow's openers for `FORMATS`, those that this Pillow has; importing a plugin registers it."""
    for plugin in _PLUGINS:
        with contextlib.suppress(ImportError):  # AVIF is in Pillow since 11.3
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return tuple((name, *Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)


def _open_heic(file: IO[bytes], shown: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile  # without registering it: that would change Pillow for the process
    except ImportError as error:
        raise BadInput(
            f"{shown} is a HEIC image; to read it: pip install 'resnetlab[heif]', or convert it to JPEG"
        ) from error
    file.seek(0)
    opened: Image.Image = HeifImageFile(file)  # type: ignore[no-untyped-call]
    return opened
