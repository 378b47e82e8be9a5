"""Read TIFF files with any number of bands, such as satellite or multispectral images; needs tifffile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

from PIL.Image import Image

from resnetlab.data.decode import read_bytes
from resnetlab.data.depth import DeepPixels
from resnetlab.data.limits import MAX_PIXELS
from resnetlab.data.shards import open_image
from resnetlab.data.tiff import SIGNATURES, read_tiff, size_and_samples
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_from_start


def read_bands(
    source: str | Path | IO[bytes] | Image, channels: int, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> DeepPixels:
    """Read a TIFF file of `channels` bands, upright: samples of one page, or one page each; (H, W, `channels`).

    Inks (CMYK) and palettes are not bands of data, and are refused. Opacity is a band like the others. As many values
    are read as `max_pixels` of colour have.

    Raises BadInput, with the name and the reason, for any other file.
    """
    shown = printable(name if name is not None else source if isinstance(source, str | Path) else "the file")
    if isinstance(source, Image):
        raise BadInput(f"a Pillow image has 1, 3 or 4 known channels; give {channels} bands as a TIFF file or an array")
    if isinstance(source, str | Path):
        content = read_bytes(source, name=name)
    else:
        try:
            content = read_from_start(source)
        except (OSError, ValueError) as error:  # it is closed, for example
            raise BadInput(f"{shown} cannot be read: {printable(error)}") from error
    if content[:4] not in SIGNATURES:
        raise BadInput(f"{shown} is not a TIFF file; {channels} channels are read from TIFF files of {channels} bands")
    return DeepPixels(read_tiff(content, channels, shown, max_pixels), shown)


def bands_header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return size (width, height) and the mode "bands" from a TIFF file's header; None if it cannot be opened."""
    try:
        with io.BufferedReader(open_image(path)) as content:
            return size_and_samples(content)[0], "bands"
    except Exception:  # reading the file later gives the reason
        return None
