"""Report samples: the images of a split that a report shows, with Grad-CAM maps and features, in one small file.

Scoring writes the file, because network, images and probabilities are in memory there; a report draws from it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnetlab.errors import Damaged, printable
from resnetlab.evaluation.metrics import losses
from resnetlab.files import read_sealed, write_sealed
from resnetlab.interpret.embedding import MOST, spread
from resnetlab.interpret.grad_cam import grad_cam
from resnetlab.models.resnet import ResNet
from resnetlab.runs.evaluation_files import Evaluation, make_folder
from resnetlab.runtime import Runtime

FILE, FORMAT, VERSION = "report_samples.safetensors", "resnetlab-report-samples", 1
OLD_FILE, OLD_FORMAT = "looks.safetensors", "resnetlab-looks"  # as older versions wrote them
OLD_NAMES = {"shown": "seen", "classes": "named", "probabilities": "sure"}
SHOWN, MAPPED = 18, 4  # samples and as many mistakes; half of the images with Grad-CAM maps
LARGEST = 160  # pixels; larger images are stored at this size


@dataclass(frozen=True)
class Sample:
    """One image of a report: its name, its true class and its prediction."""

    name: str
    true: int
    predicted: int
    probability: float  # of the predicted class
    loss: float


@dataclass(frozen=True)
class ReportSamples:
    """The stored `images` (n, H, W, C), uint8, a `Sample` for each in `shown`, and their places in the report.

    `samples`, `mistakes` and `mapped` are indices into both. `maps` (m, 2, H, W), uint8, are the Grad-CAM maps of the
    images at `mapped` for two `classes` (m, 2) with their `probabilities` (m, 2). `features` (M, C) are those of up to
    2,000 images, whose classes are `true` and `predicted` (M,).
    """

    weights_digest: str
    split_digest: str
    shown: tuple[Sample, ...]
    samples: tuple[int, ...]
    mistakes: tuple[int, ...]
    mapped: tuple[int, ...]
    images: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    features: NDArray[np.float16]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, evaluation: Evaluation, network: ResNet, features: Tensor, runtime: Runtime) -> ReportSamples:
        """Select evenly spread samples and the mistakes with the highest loss, and compute maps of some of both.

        `features` (M, C) are those of the images `spread(len(split), MOST)`, from `catching_features`.
        """
        labels, predicted = evaluation.labels, evaluation.predicted
        loss = losses(evaluation.probabilities, labels)
        samples = spread(len(labels), SHOWN)
        wrong = np.flatnonzero(predicted != labels)
        mistakes = wrong[np.argsort(-loss[wrong], kind="stable")[:SHOWN]]
        right = samples[predicted[samples] == labels[samples]]
        mapped = np.concatenate([mistakes[:MAPPED], right[:MAPPED]])
        kept = np.unique(np.concatenate([samples, mistakes]))
        place = {int(index): at for at, index in enumerate(kept)}
        pairs = two_classes(evaluation.probabilities[mapped], labels[mapped])
        pixels = evaluation.split.images[torch.from_numpy(mapped)].to(runtime.device)
        normalized = evaluation.preprocessing.normalize(pixels)
        maps = grad_cam(network, normalized, torch.from_numpy(pairs).to(runtime.device))
        images = evaluation.preprocessing.center_crop(evaluation.split.images[torch.from_numpy(kept)]).cpu().numpy()
        embedded = spread(len(labels), MOST)
        return cls(
            weights_digest=evaluation.facts["weights_digest"],
            split_digest=evaluation.facts["split_digest"],
            shown=tuple(
                Sample(
                    evaluation.split.names[i],
                    int(labels[i]),
                    int(predicted[i]),
                    float(evaluation.probabilities[i].max()),
                    float(loss[i]),
                )
                for i in kept
            ),
            samples=tuple(place[int(i)] for i in samples),
            mistakes=tuple(place[int(i)] for i in mistakes),
            mapped=tuple(place[int(i)] for i in mapped),
            images=np.stack([shrunk(image) for image in images]),
            maps=np.stack([[shrunk(as_bytes(one)) for one in pair] for pair in maps])
            if len(mapped)
            else np.zeros((0, 2, 1, 1), np.uint8),
            classes=pairs,
            probabilities=np.take_along_axis(evaluation.probabilities[mapped], pairs, 1),
            features=np.asarray(features.float().clamp(-6e4, 6e4).cpu(), np.float16),
            true=labels[embedded],
            predicted=predicted[embedded],
        )

    def write(self, folder: Path) -> None:
        """Write the file into `folder`, whole or not at all, in place of an older version's. Raises DiskTrouble."""
        make_folder(folder)
        facts = {"format": FORMAT, "format_version": VERSION, "shown": [asdict(one) for one in self.shown]}
        facts |= {name: getattr(self, name) for name in ("weights_digest", "split_digest", *PLACES)}
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in ARRAYS}
        write_sealed(folder / FILE, arrays, facts)
        with suppress(OSError):  # two files would be read in the right order
            (folder / OLD_FILE).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> ReportSamples | None:
        """Read the file in `folder`, or an older version's; None if there is none. Raises Damaged."""
        path = folder / FILE if (folder / FILE).exists() else folder / OLD_FILE
        if not path.exists():
            return None
        arrays, facts = read_sealed(path)
        is_old = facts.get("format") == OLD_FORMAT
        if facts.get("format") not in (FORMAT, OLD_FORMAT) or facts.get("format_version") != VERSION:
            raise Damaged(f"{printable(path)} is not a file of report samples that this version of resnetlab can read")
        keys = OLD_NAMES if is_old else {}
        try:
            given: dict[str, Any] = {name: arrays[keys.get(name, name)].numpy() for name in ARRAYS}
            given |= {name: tuple(facts[name]) for name in PLACES}
            shown = tuple(Sample(**one) for one in facts[keys.get("shown", "shown")])
            return cls(weights_digest=facts["weights_digest"], split_digest=facts["split_digest"], shown=shown, **given)
        except (KeyError, TypeError) as error:
            raise Damaged(f"{printable(path)} is incomplete: {printable(error)}") from error


PLACES = ("samples", "mistakes", "mapped")
ARRAYS = ("images", "maps", "classes", "probabilities", "features", "true", "predicted")


def two_classes(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image the predicted class, and the true class or, if they are equal, the second most probable: (N, 2).

    >>> two_classes(np.array([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]), np.array([1, 2])).tolist()
    [[1, 0], [1, 2]]
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    second = order[:, min(1, order.shape[1] - 1)]
    return np.stack([order[:, 0], np.where(order[:, 0] == labels, second, labels)], 1)


def as_bytes(heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert a map in [0, 1] to 0 … 255."""
    return np.round(255 * heat).astype(np.uint8)


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink an image (H, W) or (H, W, C) to at most 160 pixels a side."""
    if max(image.shape[:2]) <= LARGEST:
        return image
    from PIL import Image

    picture = Image.fromarray(image.squeeze())
    scale = LARGEST / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], *image.shape[2:])
