"""Resizing of colour images by a C kernel that gives Pillow's bytes. It needs no torch, and uses one thread."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from PIL import Image

from resnetlab.kernels.compiler import Sources, built

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image, in pixels."""

# -march=native may fuse a multiplication and an addition, which would change the weights; Pillow's are not fused.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fPIC")


def resize(image: Image.Image, size: tuple[int, int], box: Box) -> np.ndarray:
    """Resample the `box` of an image of mode L or RGB to `size`, (width, height); uint8 (height, width, 1 or 3).

    The filter is bilinear with antialiasing; the result is that of Pillow.

    >>> image = Image.new("RGB", (4, 4), (10, 20, 30))
    >>> resize(image, (2, 3), (0.0, 0.0, 4.0, 4.0))[2, 1].tolist()
    [10, 20, 30]
    """
    if size == image.size and box == (0.0, 0.0, *size):
        return _pixels(image)
    if image.mode == "RGB" and (kernel := _kernel()):
        result = np.empty((size[1], size[0], 3), dtype=np.uint8)
        if _by_kernel(kernel, image, result, box):
            return result
    return resize_by_pillow(image, size, box)


def resize_by_pillow(image: Image.Image, size: tuple[int, int], box: Box) -> np.ndarray:
    """Resample as `resize` does, by Pillow."""
    return _pixels(image.resize(size, Image.Resampling.BILINEAR, box=box))


def _pixels(image: Image.Image) -> np.ndarray:
    # frombuffer takes half the time of np.asarray for small images, of which there may be 50,000.
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1).copy()


@cache
def _kernel() -> ctypes.CDLL | None:
    """Return the compiled library if there is one that gives the bytes of the installed Pillow.

    Versions of Pillow differ in which pass comes first, which is seen in images that are far higher than wide.
    """
    library, _ = built(Sources("resize", ("resize.c",), FLAGS, _declared))
    if library is None:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (97, 41, 3), dtype=np.uint8)
    for pixels in (noise, noise.transpose(1, 0, 2)):
        image, result = Image.fromarray(np.ascontiguousarray(pixels)), np.empty((16, 16, 3), dtype=np.uint8)
        box = (0.0, 0.0, float(image.width), float(image.height))
        if not _by_kernel(library, image, result, box):
            return None
        if not np.array_equal(result, resize_by_pillow(image, (16, 16), box)):
            return None
    return library


def _by_kernel(library: ctypes.CDLL, image: Image.Image, result: np.ndarray, box: Box) -> bool:
    """Fill `result`, uint8 (height, width, 3); False if the kernel cannot read the image, or has no memory."""
    try:
        # Pillow holds four bytes for a pixel of three colours, and gives their address since 11.2. A copy of them would
        # take three times as long as the kernel.
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):  # an image above 16 MB, in several blocks
        return False
    pixels = ctypes.cast(_address_of(capsule, b"arrow_array"), ctypes.POINTER(_Array)).contents.children[0]
    width, height = image.size
    rows, columns = result.shape[:2]
    corners = (ctypes.c_float * 4)(*box)
    rows_first = not max(0, 2 * (width - columns)) < height - rows  # as in Pillow 13
    where = pixels.contents.buffers[1], width, height, corners, columns, rows, rows_first, result.ctypes.data
    failed: int = library.resize_bilinear(*where)
    return not failed


class _Array(ctypes.Structure):
    """Arrow's C data interface, https://arrow.apache.org/docs/format/CDataInterface.html."""


_Array._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, count, yes = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.resize_bilinear.argtypes = [pointer, count, count, pointer, count, count, yes, pointer]
    library.resize_bilinear.restype = yes
    return library
