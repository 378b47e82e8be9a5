"""Load a trained network and predict the classes of images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resnetlab.errors import BadInput, NonFinite
from resnetlab.inference.model_file import Model, read_model
from resnetlab.runtime import Runtime, one_thread_after_fork, start

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | Tensor
)
FORMS = (
    "a path, the bytes of a file, a file opened in binary mode, a PIL image, an array (H, W[, C]) or a tensor "
    "([C, ]H, W)"
)
BATCH = 64  # images that go through the network at once


class Run(Protocol):
    """A run, as returned by `resnetlab.train`."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: the most probable class, and the probability of every class, highest first."""

    predicted: str
    probability: float
    probabilities: dict[str, float]


class Classifier:
    """A trained network with its class names and its preprocessing. It may be called from several threads at once.

    >>> from resnetlab.data.preprocess import Preprocessing
    >>> from resnetlab.models import build_model
    >>> preprocessing = Preprocessing(image_size=8, resize_to=8, channels=1, mean=(0.5,), std=(0.25,))
    >>> network = build_model("resnet20", 2, in_channels=1).eval()
    >>> classifier = Classifier(Model(network, ("cat", "dog"), preprocessing, {}, ""))
    >>> sorted(classifier(np.zeros((9, 12), np.uint8)).probabilities)
    ['cat', 'dog']
    """

    def __init__(self, model: Model, runtime: Runtime | None = None) -> None:
        """Move the network of `model` to the device of `runtime` (default: the CPU, in fp32)."""
        self.runtime = runtime or Runtime(torch.device("cpu"))
        self.model = model
        self.classes = model.classes
        with one_thread_after_fork(self.runtime.device):
            self.network = self.runtime.place(model.network).eval()

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]  # bytes are iterable
    @overload
    def __call__(self, images: Iterable[ImageLike]) -> list[Prediction]: ...
    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | list[Prediction]:
        """Predict one image, or each image of a list, generator or other iterable, in its order.

        An image is a path, the bytes of an image file, a file opened in binary mode, a PIL image, an array (H, W),
        (H, W, 1) or (H, W, 3), or a tensor (H, W), (1, H, W) or (3, H, W). Arrays and tensors are uint8, or float in
        [0, 1]. Images of any size are resized as in training.

        In a process that was forked after resnetlab was imported, the CPU computes with one thread.

        Raises BadInput, with the name of the file, if an image cannot be read; NonFinite if the network's output is not
        finite.
        """
        if is_one_image(images):
            return self._predict([images])[0]
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise BadInput(f"{type(images).__name__} is not an image; give {FORMS}, or several of them in a list")
        return [prediction for batch in in_batches(images) for prediction in self._predict(batch)]

    @torch.inference_mode()
    def _predict(self, images: Sequence[Any]) -> list[Prediction]:
        preprocessing = self.model.preprocessing
        pixels = np.stack([preprocessing.read(readable(image, preprocessing.channels)) for image in images])
        with one_thread_after_fork(self.runtime.device), self.runtime.autocast():
            logits = self.network(preprocessing.normalize(torch.from_numpy(pixels).to(self.runtime.device)))
            if not logits.isfinite().all():
                raise NonFinite("the output of the network is NaN or infinite, so there is no prediction")
            return [self._prediction(row) for row in logits.cpu().double().softmax(1)]

    def _prediction(self, probabilities: Tensor) -> Prediction:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        named = {self.classes[i]: float(probabilities[i]) for i in order}
        return Prediction(self.classes[order[0]], float(probabilities[order[0]]), named)


def is_one_image(images: object) -> bool:
    """Return True for a single image in any accepted form, even if it is iterable."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)
    return isinstance(images, kinds) or hasattr(images, "read")


def readable(image: Any, channels: int = 3) -> Path | IO[bytes] | Image.Image | np.ndarray:
    """Convert an image in any accepted form to one that `Preprocessing.read` accepts."""
    match image:
        case str() | os.PathLike():
            return Path(image)
        case bytes() | bytearray() | memoryview():
            return io.BytesIO(image)
        case Image.Image() | np.ndarray():
            return image
        case Tensor():
            most = channels if channels > 1 else 3  # a model of grey images reads colours, too
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, most)):
                raise BadInput(
                    f"the tensor has shape {tuple(image.shape)}; (H, W), (1, H, W) or ({most}, H, W) is needed"
                )
            values = image.detach().cpu()
            values = values.float() if values.is_floating_point() else values
            return np.asarray(values.movedim(0, -1) if values.ndim == 3 else values)
        case io.TextIOBase():
            raise BadInput("the file is open in text mode; open images in binary mode: open(path, 'rb')")
        case _ if hasattr(image, "read"):
            return image  # type: ignore[no-any-return]
    raise BadInput(f"{type(image).__name__} is not an image; give {FORMS}")


def in_batches(images: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of up to BATCH images; the iterable is read one list at a time."""
    iterator = iter(images)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def load(source: str | os.PathLike[str] | Run, device: str | torch.device = "auto") -> Classifier:
    """Load a classifier from a model file, or with the best weights of a run or run folder. It computes in fp32.

    `device` is auto, cpu, cuda or mps.

    Raises BadInput for a file that is missing, damaged or of another kind.

    >>> load("model.safetensors")  # doctest: +SKIP
    """
    return Classifier(read_model(model_path(source)), start(device, "fp32"))


def load_model(source: str | os.PathLike[str] | Run) -> nn.Module:
    """Load the network from a model file, run folder or run: a plain module in evaluation mode, in fp32, on the CPU.

    It maps normalised images (N, C, H, W) to logits (N, classes). Use `load` to include preprocessing and class names.
    In a process that was forked after resnetlab was imported, call `torch.set_num_threads(1)` before the network: torch
    would wait there for ever for threads that do not exist. `load` does this itself.

    Raises BadInput for a file that is missing, damaged or of another kind.

    >>> load_model("runs/quickstart-001").training  # doctest: +SKIP
    False
    """
    return read_model(model_path(source)).network


def model_path(source: str | os.PathLike[str] | Run) -> Path:
    """Return the path of the model file in a run folder, or `source` itself if it is a file."""
    if not isinstance(source, str | os.PathLike):
        source = getattr(source, "path", source)
    if not isinstance(source, str | os.PathLike):
        raise BadInput(f"{type(source).__name__} is not a model; give a model file, a run folder or a run")
    file = Path(source)
    if file.is_dir():
        file = file / "best.safetensors"
        if not file.exists():
            raise BadInput(f"{source} is a folder without best.safetensors; give a model file or a run folder")
    return file
