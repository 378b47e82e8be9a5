"""One way from a file, a picture or an array to upright 8-bit pixels, for training and prediction alike."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import threading
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnetlab.data.modes import eight_bit, from_array
from resnetlab.errors import BadInput, printable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The kinds of file that are opened; Pillow knows forty more, each with its own parser to attack."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused from their header: 64 megapixels are 192 MB decoded."""

_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: str | Path | IO[bytes], *, name: str | None = None, at_least: int = 0, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture in a file, upright, in mode L or RGB, 8 bit (`resnetlab.data.modes` has the table).

    `name` is what an error calls it (default: the path). With `at_least`, a JPEG may be decoded at a half, a quarter
    or an eighth of its size as long as both sides stay `at_least` pixels. Raises BadInput, with the name and the
    reason, for whatever is not a whole picture of at most `max_pixels` in one of `FORMATS`.
    """
    with SILENCE:
        return decode(source, name=name, at_least=at_least, max_pixels=max_pixels)


def to_image(
    source: str | Path | IO[bytes] | Image.Image | np.ndarray, *, name: str | None = None, at_least: int = 0
) -> Image.Image:
    """A path, an open file, a picture or an array to a picture, upright, in mode L or RGB, 8 bit.

    Arrays are uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, 3). Raises BadInput for others.

    >>> to_image(np.zeros((2, 3), dtype=np.uint8)).size
    (3, 2)
    """
    if isinstance(source, np.ndarray):
        return from_array(source, name or "the array", MAX_PIXELS)
    if isinstance(source, Image.Image):
        with SILENCE:
            return _finished(source, name or str(getattr(source, "filename", "") or "the picture"), MAX_PIXELS)
    return read_image(source, name=name, at_least=at_least)


def decode(source: str | Path | IO[bytes], *, name: str | None, at_least: int, max_pixels: int) -> Image.Image:
    """`read_image` without the silence around it, for the reader of thousands, who keeps it once for all."""
    called = name if name is not None else str(source if isinstance(source, str | Path) else _name_of(source))
    try:
        # All bytes at once, unbuffered, is half the time of handing Pillow the path.
        image = Image.open(_opened(source), formats=FORMATS)
        _bounded(image, max_pixels)  # before the draft, which changes what the picture says of its size
        if at_least and min(image.size) >= 2 * at_least and image.format == "JPEG":
            image.draft(None, (at_least, at_least))
    except BadInput as error:
        raise BadInput(f"{printable(called)} {error}") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{printable(called)} is not an image of a known kind ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{printable(called)} is far larger than the {max_pixels:,} pixels that are read") from error
    except Exception as error:  # parsers of hostile files fail in every way there is
        raise BadInput(f"{printable(called)} cannot be read: {_reason(error)}") from error
    return _finished(image, called, max_pixels)


def header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Size (width, height) and mode as the header has them, before any rotation; None for what cannot be opened."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size, image.mode
    except Exception:  # whoever decodes it will say what is wrong
        return None


def _name_of(file: IO[bytes]) -> object:
    return getattr(file, "name", "the file")


def _opened(source: str | Path | IO[bytes]) -> IO[bytes]:
    return io.BytesIO(_whole_file(Path(source))) if isinstance(source, str | Path) else source


def _whole_file(path: Path) -> bytes:
    """The bytes of a regular file: a pipe or a device would never end."""
    if not path.is_file():
        missing = "is a folder, not an image" if path.is_dir() else "is not a file" if path.exists() else "is not there"
        raise BadInput(missing)
    with path.open("rb", buffering=0) as file:
        data = file.read()
    if not data:
        raise BadInput("is an empty file")
    return data


def _finished(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """The pixel cap, the decoding, the rotation and the mode, with every failure as a sentence."""
    try:
        _bounded(image, max_pixels)
        image.load()
        return eight_bit(_upright(image))
    except BadInput as error:
        raise BadInput(f"{printable(name)} {error}") from error
    except Exception as error:  # parsers of hostile files fail in every way there is
        raise BadInput(f"{printable(name)} cannot be decoded: {_reason(error)}") from error


def _bounded(image: Image.Image, max_pixels: int) -> None:
    """Refuse a picture by the size in its header, before it takes that memory."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadInput(f"is {width}×{height} pixels large; at most {max_pixels:,} are read")
    if not width or not height:
        raise BadInput("has no pixels")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; a TIFF has been turned by Pillow already."""
    if "exif" not in image.info and not (image.format == "PNG" and "Raw profile type exif" in image.info):
        return image  # the common case: parsing would cost more than decoding a small picture
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with damaged notes is still a picture; viewers show it as stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _reason(error: Exception) -> str:
    return printable(f"{error}"[:200] or type(error).__name__)


@functools.cache
def _hush_libtiff() -> None:
    """libtiff itself writes to stderr what it tells Pillow, too, and so us; its messages end there."""
    with contextlib.suppress(AttributeError, OSError):  # a Pillow that is linked in another way
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]  # finds the symbols of what it is linked with
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


class _Silence:
    """No warning from Pillow, in any thread, while someone is inside.

    `warnings.catch_warnings` alone is not made for threads: two that overlap can leave the process silent for ever.
    So the first one in sets it up, and the last one out puts back what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        _hush_libtiff()
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


SILENCE = _Silence()
