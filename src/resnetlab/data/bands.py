"""Read TIFF files with any number of bands, such as satellite or multispectral images; needs tifffile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL.Image import Image

from resnetlab.data.decode import MAX_PIXELS, TIFF, TooManyPixels, read_bytes
from resnetlab.data.depth import DeepPixels
from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular

_INKS = 5  # TIFF 6.0, PhotometricInterpretation: Separated (CMYK)
_PALETTE = 3


def read_bands(
    source: str | Path | IO[bytes] | Image, channels: int, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> DeepPixels:
    """Read a TIFF file of `channels` bands: samples of one page, or one page each. Values (H, W, `channels`).

    Inks (CMYK) and palettes are not bands of data, and are refused. Opacity is a band like the others.

    Raises BadInput, with the name and the reason, for any other file.
    """
    shown = printable(name if name is not None else source if isinstance(source, str | Path) else "the file")
    if isinstance(source, Image):
        raise BadInput(f"a Pillow image has 1, 3 or 4 known channels; give {channels} bands as a TIFF file or an array")
    content = read_bytes(source, name=name) if isinstance(source, str | Path) else source.read()
    if content[:4] not in TIFF:
        raise BadInput(f"{shown} is not a TIFF file; {channels} channels are read from TIFF files of {channels} bands")
    try:
        with _tifffile(shown).TiffFile(io.BytesIO(content)) as file:
            return DeepPixels(_values(file, channels, shown, max_pixels), shown)
    except BadInput:
        raise
    except Exception as error:  # parsers of hostile files can raise anything
        raise BadInput(f"{shown} cannot be decoded: {printable(error)[:200] or type(error).__name__}") from error


def bands_header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return size (width, height) and the mode "bands" from a TIFF file's header; None if it cannot be opened."""
    try:
        with io.BufferedReader(open_regular(path)) as content, _tifffile(str(path)).TiffFile(content) as file:
            return (file.pages[0].imagewidth, file.pages[0].imagelength), "bands"
    except Exception:  # reading the file later gives the reason
        return None


def _values(file: Any, channels: int, shown: str, max_pixels: int) -> np.ndarray:
    page = file.pages[0]
    if page.imagewidth * page.imagelength > max_pixels:
        raise TooManyPixels(
            f"{shown} has {page.imagewidth}×{page.imagelength} pixels; at most {max_pixels:,} pixels are decoded"
        )
    if page.photometric in (_INKS, _PALETTE):
        what = "inks (CMYK)" if page.photometric == _INKS else "the colours of a palette"
        raise BadInput(f"{shown} has {what}, which are not bands of data; save it as RGB, and leave out data.channels")
    pages = [page]
    if page.samplesperpixel == 1 and channels > 1:
        pages = [file.pages[i] for i in range(min(len(file.pages), channels + 1))]
    found = page.samplesperpixel if len(pages) == 1 else len(pages)
    if found != channels or any(other.shape != page.shape or other.dtype != page.dtype for other in pages):
        raise BadInput(f"{shown} has {found if found <= channels else 'more'} bands; {channels} are needed")
    if page.imagedepth != 1 or page.dtype is None or page.dtype.kind not in "uif":
        raise BadInput(f"{shown} has pixels of another kind than integers or floats")
    values = np.stack([one.asarray() for one in pages], axis=-1) if len(pages) > 1 else page.asarray()
    if len(pages) == 1 and page.planarconfig == 2:  # one plane after the other
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or 0 in values.shape:
        raise BadInput(f"{shown} has pixels of shape {values.shape}; (H, W, {channels}) is needed")
    return values.astype(values.dtype.newbyteorder("="))


def _tifffile(shown: str) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise BadInput(f"{shown} has several bands; to read it: pip install 'resnetlab[tiff]'") from error
    return tifffile
