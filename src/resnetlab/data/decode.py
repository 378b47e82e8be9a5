"""Decode a file, a Pillow image or an array to upright 8-bit pixels, for training and prediction.

The mode of the result (`L` is grey, `RGB` is colour, 8 bits per channel):

| mode of the input | result |
|---|---|
| 1, L | L |
| LA; L or 1 with a transparent value | L, composited over white |
| P | RGB by its palette, composited over white if it has transparency |
| RGB, YCbCr, HSV, LAB, CMYK | RGB |
| RGBA, PA; RGB with a transparent colour | RGB, composited over white |
| I;16, I, F (more than 8 bits, grey) | L; the value range becomes 0..255, transparent values white |
| TIFF of 64 bits or 16-bit floats; colour of floats, signed or 32 bits | L or RGB, in the same way |
| TIFF of signed bytes | as if they had no sign, as in Pillow |
| RGB, RGBA, LA of 16 bits per channel (PNG, TIFF, PPM) | RGB; the value range becomes 0..255 |
| JPEG 2000, AVIF and HEIC of more than 8 bits in colour | RGB, scaled by the bit depth in the file |
| animated, several pages | the first frame |

The value range is chosen once for a data set and stored in its preprocessing. Without one (a model that was trained on
8-bit images), 16-bit values are scaled from 0..65535, integers of 32 bits from 0..255 if none is larger, else from
0..65535, floats from [0, 1] or [0, 255], and others are refused.

Images are turned upright by their EXIF orientation; that of XMP data alone is not used, as in browsers. Colour profiles
(ICC) are not applied: pixels keep their stored values.

Except for `silence_decoders`, which is for a command line, nothing here changes settings of the process. If the
process turns warnings into errors, an image that Pillow warns about is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import warnings
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from resnetlab.data.avif import frame_size
from resnetlab.data.decode_deep import content_if_deep, deep_colour, deep_grey, has_deep_planes, refuse_deep_inks
from resnetlab.data.depth import DeepPixels, Range
from resnetlab.data.formats import UnreadTiff, open_undecoded
from resnetlab.data.limits import MAX_PIXELS, TooManyPixels, require_pixels
from resnetlab.data.orientation import turn_upright
from resnetlab.data.shards import open_image, read_image_file
from resnetlab.data.tiff import read_tiff, size_and_samples
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_from_start

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags


def read_image(
    source: str | Path | IO[bytes],
    *,
    name: str | None = None,
    at_least: int = 0,
    max_pixels: int = MAX_PIXELS,
    value_range: Range | None = None,
) -> Image.Image:
    """Decode an image file to mode L or RGB, 8 bits per channel, turned upright.

    `name` is used in error messages (default: the path). With `at_least`, a JPEG may be decoded at a half, a quarter
    or an eighth of its size as long as both sides keep `at_least` pixels. `value_range` is for images of more than
    8 bits.

    Raises BadInput, with the name and the reason, for anything but a complete image in one of the known formats
    (`resnetlab.data.formats.FORMATS`), of which at most `max_pixels` pixels are decoded.

    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (3, 2)).save(file, "PNG")
    >>> image = read_image(file)
    >>> image.mode, image.size, image.getpixel((0, 0))
    ('RGB', (3, 2), (255, 255, 255))
    """
    keep_depth = value_range is not None
    pixels = decode(source, name=name, at_least=at_least, max_pixels=max_pixels, keep_depth=keep_depth)
    return Image.fromarray(pixels.to_8bit(value_range)) if isinstance(pixels, DeepPixels) else pixels


def to_image(
    source: str | Path | IO[bytes] | Image.Image | np.ndarray,
    *,
    name: str | None = None,
    at_least: int = 0,
    max_pixels: int = MAX_PIXELS,
    value_range: Range | None = None,
) -> Image.Image:
    """Convert a path, an open file, a Pillow image or an array to mode L or RGB, 8 bits per channel, turned upright.

    Arrays are uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, 3). `name`, `at_least`, `max_pixels`
    and `value_range` are those of `read_image`. Raises BadInput for anything else.

    >>> to_image(np.zeros((2, 3), dtype=np.uint8)).size
    (3, 2)
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(from_array(source, name or "the array", max_pixels))
    if isinstance(source, Image.Image):
        shown = str(name or getattr(source, "filename", "") or "the image")
        content = content_if_deep(source, keep_depth=value_range is not None)
        if content is not None:
            return read_image(io.BytesIO(content), name=shown, max_pixels=max_pixels, value_range=value_range)
        pixels = _load(source, printable(shown), max_pixels)
        return Image.fromarray(pixels.to_8bit(value_range)) if isinstance(pixels, DeepPixels) else pixels
    return read_image(source, name=name, at_least=at_least, max_pixels=max_pixels, value_range=value_range)


def decode(
    source: str | Path | IO[bytes],
    *,
    name: str | None = None,
    at_least: int = 0,
    max_pixels: int = MAX_PIXELS,
    keep_depth: bool = False,
) -> Image.Image | DeepPixels:
    """Decode an image file like `read_image`, but leave grey images of more than 8 bits as they are.

    With `keep_depth`, colour images of 16 bits per channel are left as they are, too. So are TIFF files whose kind of
    numbers Pillow lacks, such as floats of 64 bits.
    """
    is_path = isinstance(source, str | Path)
    shown = printable(name if name is not None else source if is_path else getattr(source, "name", "the file"))
    try:
        # Reading all bytes at once, unbuffered, takes half the time of giving Pillow the path.
        file = io.BytesIO(read_bytes(source, name=name)) if isinstance(source, str | Path) else source
        if not isinstance(file, io.BytesIO) and (keep_depth or not _is_seekable(file)):
            file = io.BytesIO(read_from_start(file))
        image = open_undecoded(file, shown)
        if image.format == "AVIF":
            _require_frame(file, shown, max_pixels)
        _draft(image, at_least, shown, max_pixels)
        content = None
        if keep_depth or has_deep_planes(image):
            content = file.getvalue() if isinstance(file, io.BytesIO) else read_from_start(file)
    except BadInput:
        raise
    except UnreadTiff:
        file.seek(0)
        return DeepPixels(read_tiff(file.read(), None, shown, max_pixels), shown)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # limits of a plugin of Pillow
        raise TooManyPixels(
            f"{shown} is too large: {_reason(error)}; at most {max_pixels:,} pixels are decoded"
        ) from error
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be read: {_reason(error)}") from error
    return _load(image, shown, max_pixels, content)


def from_array(array: np.ndarray, name: str, max_pixels: int, channels: int = 3) -> np.ndarray:
    """Convert uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, `channels`) to uint8 (H, W[, channels]).

    Raises BadInput for other types, values and shapes.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, channels)) or 0 in array.shape:
        hint = alpha_hint(array.shape[2], channels) if array.ndim == 3 else ""
        raise BadInput(
            f"{name} has shape {array.shape}; (H, W), (H, W, 1) or (H, W, {channels}) is needed, channels last{hint}"
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise BadInput(f"{name} has shape {array.shape}; at most {max_pixels:,} pixels are read")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # this form refuses NaN too
            raise BadInput(f"{name} has float pixels from {array.min():g} to {array.max():g}; [0, 1] is needed")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise BadInput(f"{name} is {array.dtype}; uint8 in 0..255 or float in [0, 1] is needed")
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def alpha_hint(given: int, channels: int) -> str:
    """Return what to do with four channels where three are needed, as the end of a sentence; else an empty string.

    RGBA and BGRA have the same shape, so neither is accepted.
    """
    if (given, channels) != (4, 3):
        return ""
    return (
        ": four channels may be RGBA or BGRA; remove the alpha channel, and reverse the channels if they are in the "
        "order BGR, as OpenCV's are: RGB is needed"
    )


def header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return size (width, height) and mode from a file's header, before any rotation; None if it cannot be opened."""
    try:
        with io.BufferedReader(open_image(path)) as file:
            try:
                image = open_undecoded(file, "")
            except UnreadTiff:
                file.seek(0)
                size, samples = size_and_samples(file)
                return size, "F" if samples == 1 else "RGB"
            return image.size, image.mode
    except Exception:  # decoding the file later gives the reason
        return None


def silence_decoders() -> None:
    """Turn off Pillow's warnings and the messages of Pillow, libtiff and tifffile on stderr, for the whole process.

    For a command line, which reports bad images itself; a library must not change such settings.
    """
    warnings.filterwarnings("ignore", module=r"PIL\b")
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _silence_libtiff()


@cache
def _silence_libtiff() -> None:
    with contextlib.suppress(AttributeError, OSError):  # a Pillow that is linked in another way
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]  # has libtiff's symbols
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def read_bytes(path: str | Path, *, name: str | None = None) -> bytes:
    """Return the bytes of a regular file, or of an image in a shard; reading a pipe or a device might never end.

    `name` is used in error messages (default: the path). Raises BadInput for anything else, and for an empty file.
    """
    try:
        content = read_image_file(path, name=name)
    except OSError as error:
        raise BadInput(
            f"{printable(path if name is None else name)} cannot be read: {error.strerror or error}"
        ) from error
    if not content:
        raise BadInput(f"{printable(path if name is None else name)} is an empty file")
    return content


def _is_seekable(file: IO[bytes]) -> bool:
    return hasattr(file, "seekable") and file.seekable()


def _draft(image: Image.Image, at_least: int, shown: str, max_pixels: int) -> None:
    """Choose the size at which a JPEG is decoded, and refuse an image of which too many pixels are decoded."""
    full = image.size
    is_jpeg = image.format == "JPEG" or (image.format == "MPO" and full[0] * full[1] > max_pixels)
    if is_jpeg and at_least and min(full) >= 2 * at_least:
        image.draft(None, (at_least, at_least))
    # A progressive JPEG is held whole while it is decoded, whatever the size of the result. Two bits are the least for
    # a block of 8×8 pixels: a shorter file is not whole, and its decoder would fill in the rest for seconds.
    is_whole = full == image.size or _length(image.fp) >= full[0] * full[1] // 64 * 2 // 8  # type: ignore[attr-defined]
    require_pixels(image.size if is_whole and not image.info.get("progressive") else full, shown, max_pixels)


def _require_frame(file: IO[bytes], shown: str, max_pixels: int) -> None:
    """Refuse an AVIF image whose frame is larger than its header has it."""
    file.seek(0)
    if size := frame_size(file.read()):
        require_pixels(size, shown, max_pixels, what="pixels in its frame")


def _length(file: IO[bytes]) -> int:
    """Return the number of bytes of an open file."""
    at = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(at)
    return length


def _load(image: Image.Image, shown: str, max_pixels: int, content: bytes | None = None) -> Image.Image | DeepPixels:
    """Decode an opened image, turn it upright and convert its mode; with its `content`, keep the depth of colours."""
    try:
        require_pixels(image.size, shown, max_pixels)
        if image.format == "TIFF" and _TILE_WIDTH in (tags := getattr(image, "tag_v2", {})):
            tile = tags[_TILE_WIDTH], tags.get(_TILE_LENGTH, 0)  # libtiff decodes whole tiles
            require_pixels(tile, shown, max_pixels, what="pixels in a tile")
        refuse_deep_inks(image, shown)
        if content is not None and (deep := deep_colour(image, content, shown, max_pixels)):
            return deep
        image.load()
        upright = turn_upright(image)
        if upright.mode.startswith(("I", "F")):
            return deep_grey(upright, image, shown)
        return _to_8bit(upright)
    except BadInput:
        raise
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be decoded: {_reason(error)}") from error


def _to_8bit(image: Image.Image) -> Image.Image:
    """Convert a decoded image of at most 8 bits to L or RGB, by the table at the top of this file."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    is_grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if is_grey else "RGB")
    if image.mode == "La":
        image = image.convert("LA")
    mode = "LA" if is_grey else "RGBA"
    if image.mode != mode:  # converting to the same mode would copy the pixels
        image = image.convert(mode)
    # White, as viewers show it; the colour stored under transparent pixels is often black and has no meaning.
    background = Image.new("L" if is_grey else "RGB", image.size, "white")
    background.paste(image.convert(background.mode), mask=image.getchannel("A"))
    return background


def _reason(error: Exception) -> str:
    return printable(f"{error}"[:200] or type(error).__name__)
