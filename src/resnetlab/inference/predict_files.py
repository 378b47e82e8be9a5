"""Predict the classes of many image files, in their order, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

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


def predict_files(
    classifier: Classifier, files: Iterable[str], threshold: float | None = None
) -> Iterator[list[FileResult]]:
    """Yield the results of the files, in their order, in lists of up to `BATCH`.

    Files are decoded in threads, ahead of the network; only a few batches of names are read ahead, so they may be an
    endless stream. Predictions whose highest probability is below `threshold` are rejected.

    Raises NonFinite if the network's output is not finite.
    """
    for batch in in_batches(read_ahead(classifier.pixels, files)):
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
