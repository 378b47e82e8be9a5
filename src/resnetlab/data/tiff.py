"""Read the pixel values of TIFF files with tifffile: any number of bands, and kinds of numbers that Pillow lacks."""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from resnetlab.data.classes import counted
from resnetlab.data.limits import require_pixels
from resnetlab.errors import BadInput, printable

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a file; the last two are of BigTIFF."""

_BLACK_IS_ZERO, _RGB, _PALETTE, _INKS = 1, 2, 3, 5  # TIFF 6.0, PhotometricInterpretation
_ORIENTATION = 274
_DECOMPRESSORS: dict[int, Callable[[], Any]] = {  # by the tag Compression; tifffile gives them no limit
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
_HARMLESS = 10_000  # bytes of a segment, which become 10 MB at most with zlib, and 70 MB with LZMA
_COLOURS = 3  # samples of RGB, for which the limit on pixels is meant


def read_tiff(content: bytes, channels: int | None, shown: str, max_pixels: int) -> np.ndarray:
    """Read integers or floats of the first image, upright: (H, W, `channels`), or without `channels` grey or colour.

    Bands are samples of one page, or one page each. Grey is (H, W), colour (H, W, 3). Opacity is a band like others.
    Raises BadInput, with the name that is shown, for any other file.
    """
    try:
        with _tifffile(shown).TiffFile(io.BytesIO(content)) as file:
            pages = _pages(file, channels)
            _require_values(pages, channels, shown, max_pixels)
            for page in pages:
                _require_segments(page, content, shown)
            return _upright(_values(pages), _tag(pages[0], _ORIENTATION))
    except BadInput:
        raise
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be decoded: {printable(error)[:200] or type(error).__name__}") from error


def size_and_samples(file: IO[bytes]) -> tuple[tuple[int, int], int]:
    """Return (width, height), before any rotation, and the samples per pixel, from the header of a TIFF file.

    Any exception means that it cannot be read.
    """
    with _tifffile("the file").TiffFile(file) as opened:
        page = opened.pages[0]
        return (page.imagewidth, page.imagelength), page.samplesperpixel


def _pages(file: Any, channels: int | None) -> list[Any]:
    """Return the first page, or one for each band and one more, if there is one."""
    page = file.pages[0]
    if channels in (None, 1) or page.samplesperpixel != 1:
        return [page]
    return [file.pages[i] for i in range(min(len(file.pages), channels + 1))]


def _require_values(pages: list[Any], channels: int | None, shown: str, max_pixels: int) -> None:
    """Raise BadInput for pages of another kind than integers or floats of as many bands, before they are decoded."""
    page = pages[0]
    found = page.samplesperpixel if len(pages) == 1 else len(pages)
    bands = f" of {found} bands" if found > _COLOURS else ""
    share = max(1, found / _COLOURS)
    require_pixels((page.imagewidth, page.imagelength), shown, max_pixels, share=share, what=f"pixels{bands}")
    if page.is_tiled:
        require_pixels((page.tilewidth, page.tilelength), shown, max_pixels, share=share, what="pixels in a tile")
    if page.photometric in (_INKS, _PALETTE):
        what = "inks (CMYK)" if page.photometric == _INKS else "the colours of a palette"
        raise BadInput(f"{shown} has {what}, which are not bands of data; save it as RGB, and leave out data.channels")
    are_equal = all(other.shape == page.shape and other.dtype == page.dtype for other in pages)
    if channels is not None and (found != channels or not are_equal):
        raise BadInput(f"{shown} has {found if found <= channels else 'more'} bands; {channels} are needed")
    if page.imagedepth != 1 or page.dtype is None or page.dtype.kind not in "uif":
        raise BadInput(f"{shown} has pixels of another kind than integers or floats")
    if channels is None and (found, page.photometric) not in ((1, _BLACK_IS_ZERO), (_COLOURS, _RGB)):
        raise BadInput(
            f"{shown} has {counted(found, 'band')} of another kind than grey or RGB; to train on TIFF images of N "
            "bands, give their number (`channels`)"
        )


def _require_segments(page: Any, content: bytes, shown: str) -> None:
    """Raise BadInput if a strip or tile becomes larger than it should be when it is decompressed."""
    if page.compression not in _DECOMPRESSORS:
        return
    values = math.prod(page.chunks)
    most = (values if page.is_tiled else min(values, math.prod(page.shape))) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count < _HARMLESS:
            continue
        decompressor = _DECOMPRESSORS[page.compression]()
        if len(decompressor.decompress(content[offset : offset + count], most + 1)) > most:
            raise BadInput(f"{shown} is a damaged TIFF image: it has more pixels than it should have")


def _values(pages: list[Any]) -> np.ndarray:
    """Decode pages to (H, W) or (H, W, C), in the byte order of this machine."""
    page = pages[0]
    if len(pages) > 1:
        values = np.empty((*page.shape, len(pages)), page.dtype.newbyteorder("="))
        for band, one in enumerate(pages):
            values[..., band] = one.asarray()
        return values
    values = page.asarray()
    if page.planarconfig == 2 and page.samplesperpixel > 1:  # one plane after the other
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"its pixels have the shape {values.shape}")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _upright(values: np.ndarray, orientation: object) -> np.ndarray:
    """Turn pixels by the orientation of a TIFF file, 1 to 8 (TIFF 6.0, Orientation)."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _tag(page: Any, code: int) -> object:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def _tifffile(shown: str) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise BadInput(
            f"{shown} is a damaged TIFF image, or has several bands or values that Pillow does not read; to read them: "
            "pip install 'resnetlab[tiff]'"
        ) from error
    return tifffile
