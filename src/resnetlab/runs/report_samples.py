"""What is worth looking at in a split, small enough to keep: images, where the network looked, a map of its features.

Scoring leaves it behind, because there network, images and probabilities are together; a report draws from it.
"""

from __future__ import annotations

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

FILE, FORMAT, VERSION = "looks.safetensors", "resnetlab-looks", 1
SHOWN, MAPPED = 18, 4  # samples and as many mistakes; half of the images with Grad-CAM maps
LARGEST = 160  # pixels; larger images are kept this large


@dataclass(frozen=True)
class Seen:
    """One image that is shown: what it is, and what the network says of it."""

    name: str
    true: int
    predicted: int
    probability: float  # of the predicted class
    loss: float


@dataclass(frozen=True)
class ReportSamples:
    """The kept images, uint8 (n, H, W, C), with what is known of each, and which of them are shown where.

    `maps` (m, 2, H, W) are Grad-CAM maps, uint8, of the images at `mapped`, for the classes `named` (m, 2), whose
    probabilities are `sure` (m, 2). `features` (M, C) belong to images whose classes are `true` and `predicted` (M,).
    """

    weights_digest: str
    split_digest: str
    seen: tuple[Seen, ...]
    samples: tuple[int, ...]
    mistakes: tuple[int, ...]
    mapped: tuple[int, ...]
    images: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    named: NDArray[np.int64]
    sure: NDArray[np.float64]
    features: NDArray[np.float16]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def at(cls, evaluation: Evaluation, network: ResNet, features: Tensor, runtime: Runtime) -> ReportSamples:
        """What to keep of an evaluation: samples evenly spread, the costliest mistakes, maps of some of both.

        `features` (M, C) are those of `spread(len(split), MOST)`, from `catching_features`.
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
        named = two_classes(evaluation.probabilities[mapped], labels[mapped])
        pixels = evaluation.split.images[torch.from_numpy(mapped)].to(runtime.device)
        normalized = evaluation.preprocessing.normalize(pixels)
        classes = torch.from_numpy(named).to(runtime.device)
        maps = [grad_cam(network, normalized, classes[:, which]) for which in (0, 1)]
        images = evaluation.preprocessing.seen(evaluation.split.images[torch.from_numpy(kept)]).cpu().numpy()
        embedded = spread(len(labels), MOST)
        return cls(
            weights_digest=evaluation.facts["weights_digest"],
            split_digest=evaluation.facts["split_digest"],
            seen=tuple(
                Seen(
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
            maps=np.stack([[shrunk(as_bytes(one)) for one in pair] for pair in zip(*maps, strict=True)])
            if len(mapped)
            else np.zeros((0, 2, 1, 1), np.uint8),
            named=named,
            sure=np.take_along_axis(evaluation.probabilities[mapped], named, 1),
            features=np.asarray(features.float().clamp(-6e4, 6e4).cpu(), np.float16),
            true=labels[embedded],
            predicted=predicted[embedded],
        )

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all. Raises DiskTrouble."""
        make_folder(folder)
        facts = {"format": FORMAT, "format_version": VERSION, "seen": [asdict(one) for one in self.seen]}
        facts |= {name: getattr(self, name) for name in ("weights_digest", "split_digest", *PLACES)}
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in ARRAYS}
        write_sealed(folder / FILE, arrays, facts)

    @classmethod
    def read(cls, folder: Path) -> ReportSamples | None:
        """What `write` left in `folder`; None where there is nothing. Raises Damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        arrays, facts = read_sealed(path)
        if facts.get("format") != FORMAT or facts.get("format_version") != VERSION:
            raise Damaged(f"{printable(path)} is not what this version of resnetlab writes")
        try:
            given: dict[str, Any] = {name: arrays[name].numpy() for name in ARRAYS}
            given |= {name: tuple(facts[name]) for name in PLACES}
            seen = tuple(Seen(**one) for one in facts["seen"])
            return cls(weights_digest=facts["weights_digest"], split_digest=facts["split_digest"], seen=seen, **given)
        except (KeyError, TypeError) as error:
            raise Damaged(f"{printable(path)} is incomplete: {printable(error)}") from error


PLACES = ("samples", "mistakes", "mapped")
ARRAYS = ("images", "maps", "named", "sure", "features", "true", "predicted")


def two_classes(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image the predicted class, and the true one or, where that is the same, the runner-up: (N, 2).

    >>> two_classes(np.array([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]), np.array([1, 2])).tolist()
    [[1, 0], [1, 2]]
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    second = order[:, min(1, order.shape[1] - 1)]
    return np.stack([order[:, 0], np.where(order[:, 0] == labels, second, labels)], 1)


def as_bytes(heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map in [0, 1] as 0 … 255."""
    return np.round(255 * heat).astype(np.uint8)


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W) or (H, W, C), not larger than is kept."""
    if max(image.shape[:2]) <= LARGEST:
        return image
    from PIL import Image

    picture = Image.fromarray(image.squeeze())
    scale = LARGEST / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], *image.shape[2:])
