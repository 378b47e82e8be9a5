"""The limit on the pixels of an image, which holds before memory is allocated for decoding."""

from __future__ import annotations

from resnetlab.errors import BadInput

MAX_PIXELS = 64_000_000
"""Images that are larger when decoded are refused from their header, without decoding.

64 megapixels of RGB take 256 MB in Pillow. What is decoded up to this limit takes more in some formats, however small
the file: 0.8 to 1.5 GB and several seconds for JPEG 2000, WebP, and colour with opacity or of 16 bits.
"""


class TooManyPixels(BadInput):
    """An image with more pixels than may be decoded."""


def require_pixels(
    size: tuple[int, int], shown: str, max_pixels: int, *, share: float = 1, what: str = "pixels"
) -> None:
    """Raise TooManyPixels for a larger (width, height), or BadInput for none.

    A pixel counts as `share` pixels: those of many bands count more than those of colour.

    >>> require_pixels((10, 10), "a.png", 99)
    Traceback (most recent call last):
    resnetlab.data.limits.TooManyPixels: a.png has 10×10 pixels; at most 99 pixels are decoded
    """
    width, height = size
    if width * height * share > max_pixels:
        count = f", which count as {round(width * height * share):,}" if share != 1 else ""
        raise TooManyPixels(f"{shown} has {width}×{height} {what}{count}; at most {max_pixels:,} pixels are decoded")
    if not width or not height:
        raise BadInput(f"{shown} has no pixels")
