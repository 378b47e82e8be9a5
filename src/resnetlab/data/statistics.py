"""Mean and standard deviation of pixels, exactly: pixels are counted by value, so the order cannot matter."""

from __future__ import annotations

import math

import numpy as np


def channel_statistics(images: np.ndarray, *, chunk: int = 1 << 20) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, H, W, C), for pixels in [0, 1].

    Over all pixels together, not a mean of each image's own deviation. A channel of one value gets a deviation of
    1/255, so that it can be divided by. `chunk` is pixels at a time.

    >>> channel_statistics(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    pixels = images.reshape(-1, images.shape[-1])
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), chunk):
            counts += np.bincount(pixels[start : start + chunk, channel], minlength=256)
        # Python's whole numbers from here on: nothing rounds and nothing cancels.
        total = sum(value * count for value, count in enumerate(counts.tolist()))
        squares = sum(value * value * count for value, count in enumerate(counts.tolist()))
        variance = (len(pixels) * squares - total * total) / len(pixels) ** 2
        means.append(total / len(pixels) / 255)
        deviations.append(max(math.sqrt(variance), 1.0) / 255)
    return tuple(means), tuple(deviations)
