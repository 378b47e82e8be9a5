"""Compare an exported network with the classifier that it was made from: the same answers, and the time they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.onnx_file import Predict
from resnetlab.inference.predict import BATCH, Classifier

LARGEST_DIFFERENCE = 1e-4
"""Limit for the probabilities of an fp32 export, for images that have the right size."""

LEAST_AGREEMENT = 0.995
"""Limit for the share of images with the same top-1 class, with the resize inside the export."""

SIZES = ((1.37, 1.0), (0.7, 1.9), (3.1, 2.3), (1.0, 1.61), (5.3, 4.1), (0.45, 0.6))
"""Height and width, as factors, of images that are made when there are no originals of other sizes."""


@dataclass(frozen=True)
class Agreement:
    """The probabilities of two networks on the same images: share with the same top-1, and largest difference."""

    images: int
    same_top1: float
    largest_difference: float

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray) -> Agreement:
        """Compare two arrays of probabilities (N, classes).

        >>> Agreement.of(np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]]))
        Agreement(images=1, same_top1=1.0, largest_difference=0.25)
        """
        same = float((ours.argmax(1) == theirs.argmax(1)).mean())
        return cls(len(ours), same, float(np.abs(ours - theirs).max()))


@dataclass(frozen=True)
class Verification:
    """A comparison of an export with its classifier.

    `resized` are images that were decoded and resized by the classifier's preprocessing, `decoded` images of other
    sizes that the export resizes itself; None if it does not. `milliseconds` are the times of both for a batch, from
    resized pixels to probabilities. `accuracy` is that of both on labelled images, for int8 only.
    """

    resized: Agreement
    decoded: Agreement | None
    milliseconds: dict[str, dict[str, float]]
    accuracy: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def require_same(self) -> None:
        """Raise BadInput unless the export gives the same answers as the classifier."""
        if not self.resized.largest_difference <= LARGEST_DIFFERENCE:
            raise BadInput(
                f"the export is not written: its probabilities differ by up to {self.resized.largest_difference:.2g} "
                f"from those of the model, more than {LARGEST_DIFFERENCE:g}"
            )
        for found in (self.resized, self.decoded):
            if found is not None and found.same_top1 < LEAST_AGREEMENT:
                raise BadInput(
                    f"the export is not written: it predicts the class of the model for {found.same_top1:.1%} of "
                    f"{found.images:,} images, fewer than {LEAST_AGREEMENT:.1%}"
                )


def verify(
    classifier: Classifier, predict: Predict, pixels: np.ndarray, decoded: Sequence[np.ndarray] | None
) -> Verification:
    """Compare `predict`, an exported network, with its classifier.

    `pixels` are resized images (N, H, W, C), uint8, `decoded` the same or other images in their own sizes.
    """

    def reference(images: np.ndarray) -> np.ndarray:
        return np.asarray(classifier.probabilities(images))

    ours, theirs = (in_batches(function, pixels) for function in (reference, predict))
    resizing = None
    if decoded is not None:
        resize = classifier.model.preprocessing.resize
        wanted = in_batches(reference, np.stack([resize(without_axis(image)) for image in decoded]))
        resizing = Agreement.of(wanted, np.concatenate([predict(image[None]) for image in decoded]))
    times = {
        str(size): {
            "export": milliseconds(predict, batch_of(pixels, size)),
            "resnetlab": milliseconds(reference, batch_of(pixels, size)),
        }
        for size in (1, 64)
    }
    return Verification(Agreement.of(ours, theirs), resizing, times)


def in_batches(predict: Predict, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities of many images."""
    return np.concatenate([predict(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def batch_of(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return `size` images, repeated if there are fewer."""
    return np.ascontiguousarray(pixels[np.arange(size) % len(pixels)])


def milliseconds(
    predict: Predict, batch: np.ndarray, *, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the median time of a batch, of at least 3 and of as many as fit into `seconds`."""
    predict(batch)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = clock()
        predict(batch)
        times.append(clock() - began)
    return round(1000 * statistics.median(times), 3)


def decoded_pixels(preprocessing: Preprocessing, file: Path) -> np.ndarray:
    """Decode a file to the input of an export: uint8 (H, W, channels), not resized."""
    image = preprocessing.decode(file)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L" if preprocessing.channels == 1 else "RGB"))
    return image.reshape(*image.shape[:2], preprocessing.channels)


def of_other_sizes(images: Iterable[np.ndarray], size: int) -> list[np.ndarray]:
    """Return decoded images (H, W, C); those that have `size` already are scaled to an odd size by Pillow."""
    found = []
    for number, image in enumerate(images):
        if image.shape[:2] == (size, size):
            height, width = (max(1, round(factor * size)) for factor in SIZES[number % len(SIZES)])
            bands = [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(image[:, :, band])).resize(
                        (width, height), Image.Resampling.BICUBIC
                    )
                )
                for band in range(image.shape[2])
            ]
            found.append(np.stack(bands, axis=2))
        else:
            found.append(image)
    return found


def without_axis(image: np.ndarray) -> np.ndarray:
    """Return a grey image (H, W, 1) as (H, W), the form that Pillow reads."""
    return image[:, :, 0] if image.shape[2] == 1 else image
