"""From a model file to named probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from PIL import Image

from resnetlab.errors import BadInput, NonFinite
from resnetlab.inference.model_file import Model, read_model
from resnetlab.runtime import Runtime, start

Picture: TypeAlias = str | Path | Image.Image | np.ndarray
BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image: the likeliest class, and the probability of each, likeliest first."""

    predicted: str
    probability: float
    probabilities: dict[str, float]


class Classifier:
    """A trained network with everything it needs to be asked: its classes and its preprocessing.

    >>> from resnetlab.data.preprocess import Preprocessing
    >>> from resnetlab.models import build_model
    >>> see = Preprocessing(image_size=8, resize_to=8, channels=1, mean=(0.5,), std=(0.25,))
    >>> model = Model(build_model("resnet20", 2, in_channels=1).eval(), ("cat", "dog"), see, {}, "")
    >>> sorted(Classifier(model)(np.zeros((9, 12), np.uint8)).probabilities)
    ['cat', 'dog']
    """

    def __init__(self, model: Model, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime(torch.device("cpu"))
        self.model = model
        self.classes = model.classes
        self.network = self.runtime.place(model.network).eval()

    @overload
    def __call__(self, images: Picture) -> Prediction: ...
    @overload
    def __call__(self, images: list[Picture]) -> list[Prediction]: ...
    def __call__(self, images: Picture | list[Picture]) -> Prediction | list[Prediction]:
        """Predict one image, or a list of them: paths, PIL images, or arrays (H, W) or (H, W, C).

        Raises BadInput, naming the file, for what cannot be read as an image, and NonFinite where the network gives no
        numbers.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return self._predict([images])[0]
        return [p for first in range(0, len(images), BATCH) for p in self._predict(images[first : first + BATCH])]

    @torch.inference_mode()
    def _predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        see = self.model.preprocessing
        pixels = torch.from_numpy(np.stack([see.read(picture) for picture in pictures])).to(self.runtime.device)
        with self.runtime.autocast():
            logits = self.network(see.normalize(pixels))
        if not logits.isfinite().all():
            raise NonFinite("the network's output is NaN or infinite; there is nothing to predict from")
        return [self._prediction(row) for row in logits.cpu().double().softmax(1)]

    def _prediction(self, probabilities: torch.Tensor) -> Prediction:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        named = {self.classes[i]: float(probabilities[i]) for i in order}
        return Prediction(self.classes[order[0]], float(probabilities[order[0]]), named)


def load(path: str | Path, device: str = "auto") -> Classifier:
    """The classifier in a model file, or in a run folder's best weights; it computes in fp32.

    Raises BadInput for a file that is missing, damaged or foreign.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "best.safetensors"
        if not file.exists():
            raise BadInput(f"{path} is a folder without best.safetensors; give a model file or a run folder")
    return Classifier(read_model(file), start(device, "fp32"))
