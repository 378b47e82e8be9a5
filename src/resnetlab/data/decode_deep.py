"""Decode images of more than 8 bits with Pillow, which has no mode for most of them and would lose bits."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from resnetlab.data.depth import DeepPixels
from resnetlab.data.formats import open_undecoded
from resnetlab.data.orientation import turn_upright
from resnetlab.data.tiff import read_tiff
from resnetlab.errors import BadInput
from resnetlab.files import read_from_start

_BITS, _PLANES, _SAMPLE_FORMAT = 258, 284, 339  # TIFF tags
_DEEP = {f"{bands};16{order}" for bands in ("RGB", "RGBX", "RGBA", "RGBa", "R", "G", "B", "A") for order in "BLN"}


def deep_colour(image: Image.Image, content: bytes, shown: str, max_pixels: int) -> DeepPixels | None:
    """Decode 16 bits per channel of colour, or of grey with opacity; None for other images.

    Pillow has no mode for them. It keeps the high byte of each value, and with the other byte order the low byte.
    """
    if image.format == "JPEG":  # has 8 bits
        return None
    tiles = list(getattr(image, "tile", ()))
    names = {_raw_mode(tile) for tile in tiles}
    stored = {name: name.replace("RGBa", "RGBA") for name in names}  # Pillow would divide by a single byte of opacity
    if has_deep_planes(image):
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
    low, high = _decoded_as(open_undecoded(io.BytesIO(content), shown), swapped), _decoded_as(image, stored)
    values = (high.astype(np.uint16) << 8 | low)[..., :3]
    opacity = high[..., 3] if high.shape[2] == 4 else None
    if opacity is not None and any(name.startswith("RGBa") for name in names):  # colours are multiplied by it
        whole = values * (255 / np.maximum(opacity, 1)[..., None])
        values = np.rint(np.minimum(whole, 65535)).astype(np.uint16)
    if isinstance(key := image.info.get("transparency"), tuple):  # the transparent colour of a PNG
        opacity = np.where((values == key).all(-1), np.uint8(0), np.uint8(255))
    return DeepPixels(np.ascontiguousarray(values), shown, opacity)


def has_deep_planes(image: Image.Image) -> bool:
    """Return True for an opened TIFF of colour in planes of 16 bits, which Pillow decodes as if they had 8."""
    if image.format != "TIFF":
        return False
    names = {_raw_mode(tile) for tile in getattr(image, "tile", ())}
    is_deep = set(image.tag_v2.get(_BITS, ())) == {16}  # type: ignore[attr-defined]
    return bool(names) and names <= set("RGBA") and is_deep


def refuse_deep_inks(image: Image.Image, shown: str) -> None:
    """Raise BadInput for a TIFF of inks in planes of 16 bits, which Pillow decodes as if they had 8."""
    if image.format == "TIFF" and image.mode == "CMYK":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_PLANES) == 2 and 16 in tags.get(_BITS, ()):
            raise BadInput(f"{shown} has inks (CMYK) of 16 bits in planes, which are not read; convert it to RGB")


def content_if_deep(image: Image.Image, *, keep_depth: bool) -> bytes | None:
    """Return the file of an opened image that is not decoded yet, if Pillow would lose bits that are needed.

    These are colours of 16 bits with `keep_depth`, and planes of 16 bits. None for any other image.
    """
    file = getattr(image, "fp", None)
    try:
        names = {_raw_mode(tile) for tile in getattr(image, "tile", ())}
        is_deep = bool(names) and (names <= _DEEP or names == {"LA;16B"} or _is_deep_ppm(image))
        if file is None or image.tell() or not (has_deep_planes(image) or (keep_depth and is_deep)):
            return None
        at = file.tell()
        content: bytes = read_from_start(file)
        file.seek(at)
    except Exception:  # a closed or damaged file; decoding gives the reason
        return None
    return content


def deep_grey(upright: Image.Image, image: Image.Image, shown: str) -> DeepPixels:
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


def _is_deep_ppm(image: Image.Image) -> bool:
    tiles = list(getattr(image, "tile", ()))
    return len(tiles) == 1 and tiles[0][0] == "ppm" and image.mode == "RGB" and tiles[0][3][1] > 255


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
    return np.asarray(turn_upright(image))


def _deep_ppm(image: Image.Image, content: bytes) -> np.ndarray:
    """Read binary PPM of 16 bits, whose values are shares of a largest one, as Pillow does for grey: 0 to 65535."""
    _, _, offset, (_, largest) = image.tile[0]  # type: ignore[attr-defined]
    width, height = image.size
    values = np.frombuffer(content, ">u2", width * height * 3, offset).reshape(height, width, 3)
    scaled: np.ndarray = np.rint(np.minimum(values / largest, 1) * 65535)
    return scaled.astype(np.uint16)
