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
import importlib
import io
import logging
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from resnetlab.data.avif import frame_size
from resnetlab.data.depth import DeepPixels, Range
from resnetlab.data.limits import MAX_PIXELS, TooManyPixels, require_pixels
from resnetlab.data.shards import open_image, read_image_file
from resnetlab.data.tiff import SIGNATURES, read_tiff, size_and_samples
from resnetlab.errors import BadInput, printable

__all__ = ["FORMATS", "MAX_PIXELS", "TooManyPixels", "decode", "header", "read_image", "to_image"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIC")
"""The formats that are opened, by content. Pillow has forty more, and every parser can be attacked."""

_ORIENTATION = 0x0112  # the EXIF tag for the orientation of the camera
_BITS, _SAMPLE_FORMAT, _TILE_WIDTH, _TILE_LENGTH, _PLANES = 258, 339, 322, 323, 284  # TIFF tags
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLUGINS = ("Jpeg", "Png", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Jpeg2K", "Avif")
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}  # brands
_DEEP = {f"{bands};16{order}" for bands in ("RGB", "RGBX", "RGBA", "RGBa", "R", "G", "B", "A") for order in "BLN"}


class _UnreadTiff(Exception):
    """A TIFF file that Pillow does not open."""


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

    Raises BadInput, with the name and the reason, for anything but a complete image in one of `FORMATS` of which at
    most `max_pixels` pixels are decoded.

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
        content = _content_of(source, keep_depth=value_range is not None)
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
        image = _open(file, shown)
        if image.format == "AVIF":
            _require_frame(file, shown, max_pixels)
        _draft(image, at_least, shown, max_pixels)
        content = None
        if keep_depth or _has_deep_planes(image):
            content = file.getvalue() if isinstance(file, io.BytesIO) else read_from_start(file)
    except BadInput:
        raise
    except _UnreadTiff:
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
                image = _open(file, "")
            except _UnreadTiff:
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


def read_from_start(file: IO[bytes]) -> bytes:
    """Return all bytes of an open file, wherever it was read to; of a stream, those that are left."""
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        file.seek(0)
    return file.read()


def _is_seekable(file: IO[bytes]) -> bool:
    return hasattr(file, "seekable") and file.seekable()


@cache
def _openers() -> tuple[tuple[str, Callable[..., ImageFile.ImageFile], Callable[[bytes], bool | str] | None], ...]:
    """Return Pillow's openers for `FORMATS`, those that this Pillow has; importing a plugin registers it."""
    for plugin in _PLUGINS:
        with contextlib.suppress(ImportError):  # AVIF is in Pillow since 11.3
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return tuple((name, *Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)


def _open(file: IO[bytes], shown: str) -> Image.Image:
    """Open an image without decoding it.

    `Image.open` would do the same, but for its own limit on pixels, a setting of the process: it warns of 90 megapixels
    and refuses 180, even of a JPEG of which an eighth is decoded.
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
        raise _UnreadTiff
    if alike:
        raise BadInput(f"{shown} begins like {alike}, but is damaged or of an unknown kind")
    raise BadInput(f"{shown} is not an image of a known format ({', '.join(FORMATS)})")


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
        _refuse_deep_inks(image, shown)
        if content is not None and (deep := _deep_colour(image, content, shown, max_pixels)):
            return deep
        image.load()
        upright = _turn_upright(image)
        if upright.mode.startswith(("I", "F")):
            return _deep_grey(upright, image, shown)
        return _to_8bit(upright)
    except BadInput:
        raise
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be decoded: {_reason(error)}") from error


def _deep_colour(image: Image.Image, content: bytes, shown: str, max_pixels: int) -> DeepPixels | None:
    """Decode 16 bits per channel of colour, or of grey with opacity; None for other images.

    Pillow has no mode for them. It keeps the high byte of each value, and with the other byte order the low byte.
    """
    if image.format == "JPEG":  # has 8 bits
        return None
    tiles = list(getattr(image, "tile", ()))
    names = {_raw_mode(tile) for tile in tiles}
    stored = {name: name.replace("RGBa", "RGBA") for name in names}  # Pillow would divide by a single byte of opacity
    if _has_deep_planes(image):
        order = "L" if content[:1] == b"I" else "B"
        stored = {name: f"{name};16{order}" for name in names}
        names = set(stored.values())
    if _is_deep_ppm(image):
        return DeepPixels(_deep_ppm(image, content), shown)
    if names == {"LA;16B"}:  # four bytes per pixel, like RGBA of 8 bits
        pixels = _decoded_as(image, {"LA;16B": "RGBA"}).astype(np.uint16)
        return DeepPixels(pixels[..., 0] << 8 | pixels[..., 1], shown, pixels[..., 2].astype(np.uint8))
    if not names or not names <= _DEEP:
        return None
    if image.format == "TIFF" and tiles[0][0] == "libtiff" and image.tag_v2.get(_PLANES) == 2:  # type: ignore[attr-defined]
        with contextlib.suppress(BadInput):  # without tifffile, and of opacity, the high byte of each value has to do
            return DeepPixels(read_tiff(content, None, shown, max_pixels), shown)
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    swapped = {name: raw_mode[:-1] + other[raw_mode[-1]] for name, raw_mode in stored.items()}
    low, high = _decoded_as(_open(io.BytesIO(content), shown), swapped), _decoded_as(image, stored)
    values = (high.astype(np.uint16) << 8 | low)[..., :3]
    opacity = high[..., 3] if high.shape[2] == 4 else None
    if opacity is not None and any(name.startswith("RGBa") for name in names):  # colours are multiplied by it
        whole = values * (255 / np.maximum(opacity, 1)[..., None])
        values = np.rint(np.minimum(whole, 65535)).astype(np.uint16)
    if isinstance(key := image.info.get("transparency"), tuple):  # the transparent colour of a PNG
        opacity = np.where((values == key).all(-1), np.uint8(0), np.uint8(255))
    return DeepPixels(np.ascontiguousarray(values), shown, opacity)


def _has_deep_planes(image: Image.Image) -> bool:
    """Return True for an opened TIFF of colour in planes of 16 bits, which Pillow decodes as if they had 8."""
    if image.format != "TIFF":
        return False
    names = {_raw_mode(tile) for tile in getattr(image, "tile", ())}
    is_deep = set(image.tag_v2.get(_BITS, ())) == {16}  # type: ignore[attr-defined]
    return bool(names) and names <= set("RGBA") and is_deep


def _refuse_deep_inks(image: Image.Image, shown: str) -> None:
    """Raise BadInput for a TIFF of inks in planes of 16 bits, which Pillow decodes as if they had 8."""
    if image.format == "TIFF" and image.mode == "CMYK":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_PLANES) == 2 and 16 in tags.get(_BITS, ()):
            raise BadInput(f"{shown} has inks (CMYK) of 16 bits in planes, which are not read; convert it to RGB")


def _is_deep_ppm(image: Image.Image) -> bool:
    tiles = list(getattr(image, "tile", ()))
    return len(tiles) == 1 and tiles[0][0] == "ppm" and image.mode == "RGB" and tiles[0][3][1] > 255


def _content_of(image: Image.Image, *, keep_depth: bool) -> bytes | None:
    """Return the file of an opened image that is not decoded yet, if Pillow would lose bits that are needed.

    These are colours of 16 bits with `keep_depth`, and planes of 16 bits. None for any other image.
    """
    file = getattr(image, "fp", None)
    try:
        names = {_raw_mode(tile) for tile in getattr(image, "tile", ())}
        is_deep = bool(names) and (names <= _DEEP or names == {"LA;16B"} or _is_deep_ppm(image))
        if file is None or image.tell() or not (_has_deep_planes(image) or (keep_depth and is_deep)):
            return None
        at = file.tell()
        content: bytes = read_from_start(file)
        file.seek(at)
    except Exception:  # a closed or damaged file; decoding gives the reason
        return None
    return content


def _deep_grey(upright: Image.Image, image: Image.Image, shown: str) -> DeepPixels:
    """Return the pixels of a grey image of more than 8 bits, in the byte order of this machine."""
    values = np.asarray(upright)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if image.format == "PPM" and image.mode == "I":  # Pillow has scaled their largest value to 65535
        values = values.astype(np.uint16)
    if _has_unsigned_32_bits(image):  # for which Pillow has no mode
        values = values.view(np.uint32)
    key = image.info.get("transparency")
    opacity = np.where(values == key, np.uint8(0), np.uint8(255)) if isinstance(key, int) else None
    return DeepPixels(values, shown, opacity)


def _has_unsigned_32_bits(image: Image.Image) -> bool:
    """Return True for grey TIFF of integers of 32 bits without a sign."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" and image.mode == "I" else {}
    return tuple(tags.get(_BITS, ())) == (32,) and tuple(tags.get(_SAMPLE_FORMAT, (1,))) == (1,)


def _raw_mode(tile: Any) -> str:
    """Return the layout of the stored pixels, the first of the decoder's arguments; "" if it has none."""
    arguments = tile[3]
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if isinstance(name, str) else ""


def _decoded_as(image: Image.Image, raw_modes: Mapping[str, str]) -> np.ndarray:
    """Decode an opened image with other layouts of the stored pixels, by the name of the right one."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        codec, extents, offset, arguments = tile
        name = raw_modes.get(_raw_mode(tile), _raw_mode(tile))
        arguments = name if isinstance(arguments, str) else (name, *arguments[1:])
        tiles.append(ImageFile._Tile(codec, extents, offset, arguments))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return np.asarray(_turn_upright(image))


def _deep_ppm(image: Image.Image, content: bytes) -> np.ndarray:
    """Read binary PPM of 16 bits, whose values are shares of a largest one, as Pillow does for grey: 0 to 65535."""
    _, _, offset, (_, largest) = image.tile[0]  # type: ignore[attr-defined]
    width, height = image.size
    values = np.frombuffer(content, ">u2", width * height * 3, offset).reshape(height, width, 3)
    scaled: np.ndarray = np.rint(np.minimum(values / largest, 1) * 65535)
    return scaled.astype(np.uint16)


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation (EXIF 2.3, 4.6.4.A); Pillow has already applied that of a TIFF."""
    if "exif" not in image.info and not (image.format == "PNG" and "Raw profile type exif" in image.info):
        return image  # the common case: parsing would cost more than decoding a small image
    try:
        has_xmp = "xmp" in image.info or "XML:com.adobe.xmp" in image.info
        exif = _exif_alone(image) if has_xmp else image.getexif()  # which looks for an orientation in XMP data, too
        turn = _TRANSPOSE.get(exif.get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data; viewers show such an image as it is stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _exif_alone(image: Image.Image) -> Image.Exif:
    given = image.info.get("exif")
    text = "" if given is not None else image.info["Raw profile type exif"]
    exif = Image.Exif()
    exif.load(bytes.fromhex("".join(text.split("\n")[3:])) if given is None else given)
    return exif


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
