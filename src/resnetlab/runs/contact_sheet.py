"""A contact sheet: a random sample of predicted images with their classes and probabilities, as one figure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.predict_files import FilePrediction, FileResult

MOST = 48


class ContactSheet:
    """Collects up to 48 images of all that pass, each with the same chance (Vitter 1985, algorithm R)."""

    def __init__(self, classes: Sequence[str], preprocessing: Preprocessing) -> None:
        self.classes, self.preprocessing = classes, preprocessing
        self.seen = 0
        self.kept: list[tuple[int, FilePrediction]] = []
        self.random = random.Random(0)  # the same images give the same sheet

    def write(self, results: Sequence[FileResult]) -> None:
        """Take the images of a batch into account; those that could not be read are left out."""
        for result in results:
            if not isinstance(result, FilePrediction):
                continue
            place = self.seen if self.seen < MOST else self.random.randrange(self.seen + 1)
            if place < MOST:
                self.kept[place : place + 1] = [(self.seen, result)]
            self.seen += 1

    def save(self, path: Path) -> str:
        """Draw the sheet, and return the number of images on it in words. Raises DiskTrouble."""
        from resnetlab.plots.images import predictions
        from resnetlab.plots.style import save

        results = [result for _, result in sorted(self.kept, key=lambda item: item[0])]
        images = torch.from_numpy(np.stack([result.pixels for result in results]))
        figure = predictions(
            np.asarray(self.preprocessing.center_crop(images)),
            [result.file for result in results],
            [self.classes[result.predicted] for result in results],
            np.array([result.probability for result in results]),
            [bool(result.is_rejected) for result in results],
            total=self.seen,
        )
        save(figure, path)
        return f"{len(results):,} of {self.seen:,} images" if len(results) < self.seen else "all images"
