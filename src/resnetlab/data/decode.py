"""Decode a file, a Pillow image or an array to upright 8-bit pixels, for training and prediction.

The mode of the result (`L` is grey, `RGB` is colour, 8 bits per channel):

| mode of the input | result |
|---|---|
| 1, L | L |
| LA; L or 1 with a transparent value | L, composited over white |
| P | RGB by its palette, composited over white if it has transparency |
| RGB, YCbCr, HSV, LAB, CMYK | RGB |
| RGBA, PA; RGB with a transparent colour | RGB, composited over white |
| I;16, I (16-bit grey) | L, 0..65535 scaled to 0..255; other values are refused |
| F | L, [0, 1] scaled to 0..255, or [0, 255] rounded; other values are refused |
| animated, several pages | the first frame |

Except for `silence_decoders`, which is for a command line, nothing here changes settings of the process. If the
process turns warnings into errors, an image that Pillow warns about is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import warnings
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnetlab.errors import BadInput, printable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that are opened. Pillow has forty more, and every parser can be attacked."""

MAX_PIXELS = 64_000_000
"""Larger images are refused from their header: 64 megapixels take 192 MB when decoded."""

_ORIENTATION = 0x0112  # the EXIF tag for the orientation of the camera
_TRANSPOSE = {
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
    """Decode an image file to mode L or RGB, 8 bits per channel, turned upright.

    `name` is used in error messages (default: the path). With `at_least`, a JPEG may be decoded at a half, a quarter
    or an eighth of its size as long as both sides keep `at_least` pixels.

    Raises BadInput, with the name and the reason, for anything but a complete image in one of `FORMATS` with at most
    `max_pixels` pixels.

    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (3, 2)).save(file, "PNG")
    >>> image = read_image(file)
    >>> image.mode, image.size, image.getpixel((0, 0))
    ('RGB', (3, 2), (255, 255, 255))
    """
    is_path = isinstance(source, str | Path)
    shown = printable(name if name is not None else source if is_path else getattr(source, "name", "the file"))
    try:
        # Reading all bytes at once, unbuffered, takes half the time of giving Pillow the path.
        file = io.BytesIO(read_bytes(source, name=name)) if isinstance(source, str | Path) else source
        image = Image.open(file, formats=FORMATS)
        _check_size(image, shown, max_pixels)  # before the draft, which changes the size
        if at_least and min(image.size) >= 2 * at_least and image.format == "JPEG":
            image.draft(None, (at_least, at_least))
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        raise BadInput(f"{shown} is not an image of a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"{shown} is too large ({_reason(error)}); at most {max_pixels:,} pixels are read") from error
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be read: {_reason(error)}") from error
    return _load(image, shown, max_pixels)


def to_image(
    source: str | Path | IO[bytes] | Image.Image | np.ndarray, *, name: str | None = None, at_least: int = 0
) -> Image.Image:
    """Convert a path, an open file, a Pillow image or an array to mode L or RGB, 8 bits per channel, turned upright.

    Arrays are uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, 3). `name` and `at_least` are those of
    `read_image`. Raises BadInput for anything else.

    >>> to_image(np.zeros((2, 3), dtype=np.uint8)).size
    (3, 2)
    """
    if isinstance(source, np.ndarray):
        return from_array(source, name or "the array", MAX_PIXELS)
    if isinstance(source, Image.Image):
        return _load(source, printable(name or getattr(source, "filename", "") or "the image"), MAX_PIXELS)
    return read_image(source, name=name, at_least=at_least)


def from_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    """Convert uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, 3) to mode L or RGB.

    Raises BadInput for other types, values and shapes.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)) or 0 in array.shape:
        raise BadInput(f"{name} has shape {array.shape}; (H, W), (H, W, 1) or (H, W, 3) is needed, channels last")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise BadInput(f"{name} has shape {array.shape}; at most {max_pixels:,} pixels are read")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # this form refuses NaN too
            raise BadInput(f"{name} has float pixels from {array.min():g} to {array.max():g}; [0, 1] is needed")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise BadInput(f"{name} is {array.dtype}; uint8 in 0..255 or float in [0, 1] is needed")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def read_header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return size (width, height) and mode from a file's header, before any rotation; None if it cannot be opened."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return None
        with Image.open(path, formats=FORMATS) as image:
            return image.size, image.mode
    except Exception:  # decoding the file later gives the reason
        return None


def silence_decoders() -> None:
    """Turn off Pillow's warnings and libtiff's messages on stderr, for the whole process.

    For a command line, which reports bad images itself; a library must not change such settings.
    """
    warnings.filterwarnings("ignore", module=r"PIL\b")
    _silence_libtiff()


@cache
def _silence_libtiff() -> None:
    with contextlib.suppress(AttributeError, OSError):  # a Pillow that is linked in another way
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]  # has libtiff's symbols
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def read_bytes(path: str | Path, *, name: str | None = None) -> bytes:
    """Return the bytes of a regular file; reading a pipe or a device might never end.

    `name` is used in error messages (default: the path). Raises BadInput for anything else, and for an empty file.
    """
    try:
        if Path(path).is_file():
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a quarter faster than Path.open
                content = file.read()
            if content:
                return content
            reason = "is an empty file"
        elif not Path(path).exists():
            raise BadInput(f"file not found: {printable(path if name is None else name)}")
        else:
            reason = "is a folder, not an image" if Path(path).is_dir() else "is a pipe or a device, not a file"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    raise BadInput(f"{printable(path if name is None else name)} {reason}")


def _check_size(image: Image.Image, shown: str, max_pixels: int) -> None:
    """Refuse an image by the size in its header, before memory is allocated for decoding."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadInput(f"{shown} has {width}×{height} pixels; at most {max_pixels:,} pixels are read")
    if not width or not height:
        raise BadInput(f"{shown} has no pixels")


def _load(image: Image.Image, shown: str, max_pixels: int) -> Image.Image:
    """Decode an opened image, turn it upright and convert its mode."""
    try:
        _check_size(image, shown, max_pixels)
        image.load()
        return _to_8bit(_turn_upright(image), shown)
    except BadInput:
        raise
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be decoded: {_reason(error)}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation (EXIF 2.3, 4.6.4.A); Pillow has already applied that of a TIFF."""
    if "exif" not in image.info and not (image.format == "PNG" and "Raw profile type exif" in image.info):
        return image  # the common case: parsing would cost more than decoding a small image
    try:
        turn = _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data; viewers show such an image as it is stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_8bit(image: Image.Image, shown: str) -> Image.Image:
    """Convert a decoded image of any mode to L or RGB, by the table at the top of this file."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _scale_to_8bit(image, shown)
    is_grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if is_grey else "RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("LA" if is_grey else "RGBA")
    # White, as viewers show it; the colour stored under transparent pixels is often black and has no meaning.
    background = Image.new("L" if is_grey else "RGB", image.size, "white")
    background.paste(image.convert(background.mode), mask=image.getchannel("A"))
    return background


def _scale_to_8bit(image: Image.Image, shown: str) -> Image.Image:
    """Scale 16-bit integers and floats to 8 bits; Pillow's own conversion clips them to white."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        if not (lowest >= 0 and highest <= 255):  # this form refuses NaN too
            raise BadInput(f"{shown} has float pixels from {lowest:g} to {highest:g}; [0, 1] or [0, 255] is needed")
        scaled = np.rint(values * np.float32(255 if highest <= 1 else 1))
    elif lowest < 0 or highest > 65535:
        raise BadInput(f"{shown} has integer pixels from {lowest} to {highest}; 0 to 65535 (16 bits) is needed")
    else:
        scaled = (values.astype(np.uint32) + 128) // 257  # 65535 / 257 = 255, rounded
    return Image.fromarray(scaled.astype(np.uint8))


def _reason(error: Exception) -> str:
    return printable(f"{error}"[:200] or type(error).__name__)
