"""Predict the classes of many image files, in their order, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL.Image import Image

from resnetlab.data.bands import read_bands
from resnetlab.data.decode import decode, read_image
from resnetlab.data.depth import DeepPixels, LostContrast
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.ahead import Pixels, read_ahead
from resnetlab.inference.predict import Classifier, in_batches


@dataclass(frozen=True, eq=False)
class FilePrediction:
    """The prediction for one file.

    `pixels` (resize_to, resize_to, C), uint8, is the decoded image. `probabilities` (classes,), float64, are in the
    order of the classes, `order` (classes,) are the indices of the classes, the most probable first. `is_rejected` is
    True if the highest probability is below the threshold; None if there is no threshold.
    """

    file: str
    pixels: np.ndarray
    probabilities: np.ndarray
    order: np.ndarray
    is_rejected: bool | None

    @property
    def predicted(self) -> int:
        """The index of the most probable class."""
        return int(self.order[0])

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return float(self.probabilities[self.predicted])


@dataclass(frozen=True)
class UnreadFile:
    """A file that is not an image, or cannot be read; `reason` is a sentence with its name."""

    file: str
    reason: str


FileResult: TypeAlias = FilePrediction | UnreadFile


@dataclass(frozen=True, eq=False)
class NotingReader:
    """Reads files like `Classifier.pixels`, and notes those whose pixel values do not suit the training images."""

    preprocessing: Preprocessing
    lost: LostContrast = field(default_factory=LostContrast)

    def __call__(self, file: str) -> np.ndarray:
        settings, path = self.preprocessing, Path(file)
        most, at_least, has_bands = settings.max_pixels, 2 * settings.resize_to, settings.channels not in (1, 3)
        pixels: Image | np.ndarray | DeepPixels
        if has_bands:
            pixels = read_bands(path, settings.channels, max_pixels=most)
        else:
            pixels = decode(path, at_least=at_least, max_pixels=most, keep_depth=True)
        if isinstance(pixels, DeepPixels):
            self.lost.add(file, pixels, settings.range)
            if settings.range is None and not has_bands:
                pixels = read_image(path, at_least=at_least, max_pixels=most)
            else:
                pixels = pixels.to_8bit(settings.range)
        return settings.resize(pixels)


def predict_files(
    classifier: Classifier,
    files: Iterable[str],
    threshold: float | None = None,
    read: Callable[[str], np.ndarray] | None = None,
) -> Iterator[list[FileResult]]:
    """Yield the results of the files, in their order, in lists of up to `BATCH`.

    Files are decoded in threads, ahead of the network; only a few batches of names are read ahead, so they may be an
    endless stream. Predictions whose highest probability is below `threshold` are rejected. `read` decodes and resizes
    a file; default: `classifier.pixels`.

    Raises NonFinite if the network's output is not finite.
    """
    for batch in in_batches(read_ahead(read or classifier.pixels, files)):
        yield _results(classifier, batch, threshold)


def _results(classifier: Classifier, batch: Sequence[tuple[str, Pixels]], threshold: float | None) -> list[FileResult]:
    """Return the results of files that were decoded or could not be."""
    images = [pixels for _, pixels in batch if not isinstance(pixels, BadInput)]
    rows = iter(classifier.probabilities(np.stack(images)).numpy() if images else ())
    results: list[FileResult] = []
    for file, pixels in batch:
        if isinstance(pixels, BadInput):
            results.append(UnreadFile(file, str(pixels)))
            continue
        row = next(rows)
        order = np.argsort(-row, kind="stable")
        is_rejected = None if threshold is None else bool(row[order[0]] < threshold)
        results.append(FilePrediction(file, pixels, row, order, is_rejected))
    return results
