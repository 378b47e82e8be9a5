"""Pictures of every mode, and arrays, to 8-bit grey or colour; never clipped, never a guess.

What each mode becomes (`L` is grey, `RGB` is colour, both 8 bit):

| given | result |
|---|---|
| 1, L | L |
| LA, or L, 1 with a transparent value | composited over white, L |
| P | RGB by its palette; with transparency composited over white |
| RGB, YCbCr, HSV, LAB, CMYK | RGB |
| RGBA, PA, or RGB with a transparent colour | composited over white, RGB |
| I;16, I (16-bit grey) | 0..65535 scaled to 0..255, L; other values are refused |
| F | [0, 1] scaled, else [0, 255] rounded, L; other values are refused |
| animated, several pages | the first frame |
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from resnetlab.errors import BadInput


def eight_bit(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode to mode L or RGB, by the table at the top of this file."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("LA" if grey else "RGBA")
    # White, as a page or a viewer shows it: the colour hidden below transparent pixels is often black rubbish.
    paper = Image.new("L" if grey else "RGB", image.size, "white")
    paper.paste(image.convert(paper.mode), mask=image.getchannel("A"))
    return paper


def _scaled(image: Image.Image) -> Image.Image:
    """Integers beyond 8 bits and floats to 8 bits; Pillow's own conversion would clip them to white."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        if not (lowest >= 0 and highest <= 255):  # so put, NaN is refused too
            raise BadInput(f"has float pixels from {lowest:g} to {highest:g}; [0, 1] or [0, 255] is needed")
        scaled = np.rint(values * np.float32(255 if highest <= 1 else 1))
    elif lowest < 0 or highest > 65535:
        raise BadInput(f"has integer pixels from {lowest} to {highest}; 0 to 65535 (16 bits) is needed")
    else:
        scaled = (values.astype(np.uint32) + 128) // 257  # 65535 / 257 = 255, rounded
    return Image.fromarray(scaled.astype(np.uint8))


def from_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    """uint8, or float in [0, 1], of shape (H, W), (H, W, 1) or (H, W, 3), to mode L or RGB; BadInput for others."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)) or 0 in array.shape:
        raise BadInput(f"{name} has shape {array.shape}; (H, W), (H, W, 1) or (H, W, 3) is needed, channels last")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise BadInput(f"{name} has shape {array.shape}; at most {max_pixels // 1_000_000} million pixels are read")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # so put, NaN is refused too
            raise BadInput(f"{name} has float pixels from {array.min():g} to {array.max():g}; [0, 1] is needed")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise BadInput(f"{name} is {array.dtype}; uint8 in 0..255 or float in [0, 1] is needed")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))
