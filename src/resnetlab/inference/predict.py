"""Load a trained network and predict the classes of images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resnetlab.data.decode import alpha_hint
from resnetlab.data.image_paths import find_images
from resnetlab.errors import BadInput, NonFinite
from resnetlab.inference.ahead import Pixels, read_ahead
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.sources import Run, model_path
from resnetlab.kernels.folded import fold
from resnetlab.runtime import Runtime, isolated, start

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | Tensor
)
FORMS = (
    "a path, the bytes of a file, a file opened in binary mode, a PIL image, an array (H, W[, C]) or a tensor "
    "([C, ]H, W)"
)
BATCH = 64  # images that go through the network at once
AGREEMENT = 0.999  # share of validation images with the class of fp32, from which on a precision is chosen by "auto"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: the most probable class, and the probability of every class, highest first.

    `rejected` is True if the highest probability is below the threshold for the risk that was asked for. `file` is the
    path of the image; it is empty for an image that was not given by a path, and not compared by ==.
    """

    predicted: str
    probability: float
    probabilities: dict[str, float]
    rejected: bool = False
    file: str = field(default="", compare=False)


class Classifier:
    """A trained network with its class names and its preprocessing. It may be called from several threads at once.

    `network` is the network that predicts: a copy for inference, with folded norms, in the precision of `runtime`.
    `model.network` stays as it was, in fp32. In fp32 the two give the same probabilities to 1e-4.

    >>> from resnetlab.data.preprocess import Preprocessing
    >>> from resnetlab.models import build_model
    >>> preprocessing = Preprocessing(image_size=8, resize_to=8, channels=1, mean=(0.5,), std=(0.25,))
    >>> network = build_model("resnet20", 2, in_channels=1).eval()
    >>> classifier = Classifier(Model(network, ("cat", "dog"), preprocessing, {}, ""))
    >>> sorted(classifier(np.zeros((9, 12), np.uint8)).probabilities)
    ['cat', 'dog']
    """

    def __init__(self, model: Model, runtime: Runtime | None = None) -> None:
        """Make the network for inference, for the device and precision of `runtime` (default: the CPU, in fp32)."""
        self.runtime = runtime or Runtime(torch.device("cpu"))
        self.model = model
        self.classes = model.classes
        with isolated(self.runtime.device):
            self.network = fold(model.network, self.runtime.precision, self.runtime.device)

    @overload
    def __call__(self, images: str | os.PathLike[str], *, reject: float | None = None) -> Any: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # bytes are iterable
        self, images: ImageLike, *, reject: float | None = None
    ) -> Prediction: ...
    @overload
    def __call__(self, images: Iterable[ImageLike], *, reject: float | None = None) -> list[Prediction]: ...
    def __call__(
        self, images: ImageLike | Iterable[ImageLike], *, reject: float | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one image, or each image of a list, generator or other iterable, in its order.

        Of a folder, all images in it and below it are predicted, in natural order ("2.jpg" before "10.jpg"), as a list.
        For a type checker, the result for a path is `Any`: whether it is a file or a folder is known when it is read.

        An image is a path, the bytes of an image file, a file opened in binary mode, a PIL image, an array (H, W),
        (H, W, 1) or (H, W, 3), or a tensor (H, W), (1, H, W) or (3, H, W). Arrays and tensors are uint8, or float in
        [0, 1]; colours are in the order red, green, blue (OpenCV's are not: give image[:, :, ::-1]). Images of any size
        are resized as in training. Paths and bytes are decoded in threads, ahead of the network.

        `reject` is a risk: of the predictions that are not `rejected`, at most this share is wrong. The threshold for
        it was fitted on validation images, so it holds for images like those.

        In a process that was forked after resnetlab was imported, the CPU computes with one thread.

        Raises BadInput, with the name of the file, if an image cannot be read, for a folder without images, and if the
        model has no threshold for the risk; NonFinite if the network's output is not finite.
        """
        threshold = 0.0 if reject is None else self.model.rejection(reject).threshold
        if isinstance(images, str | os.PathLike) and os.path.isdir(images):  # noqa: PTH112 - Path raises for "\0"
            images = find_images(os.fspath(images)).files
        if is_one_image(images):
            return self._predict([(images, self.pixels(images))], threshold)[0]  # type: ignore[arg-type,list-item]
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise BadInput(f"{type(images).__name__} is not an image; give {FORMS}, or several of them in a list")
        found = require_pixels(read_ahead(self.pixels, images))
        return [one for batch in in_batches(found) for one in self._predict(batch, threshold)]

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Decode and resize one image to uint8 (resize_to, resize_to, channels), as in training.

        Raises BadInput, with the name of the file, if it cannot be read.
        """
        preprocessing = self.model.preprocessing
        return preprocessing.read(readable(image, preprocessing.channels))

    @torch.inference_mode()
    def logits(self, pixels: np.ndarray) -> Tensor:
        """Compute the logits (N, classes), float32 on the CPU, of pixels (N, H, W, C), uint8, as `pixels` returns them.

        Raises NonFinite if the network's output is not finite.
        """
        with isolated(self.runtime.device):
            images = self.model.preprocessing.normalize(torch.from_numpy(pixels).to(self.runtime.device))
            logits: Tensor = self.network(images).cpu()
            is_finite = bool(logits.isfinite().all())
        if not is_finite:
            raise NonFinite("the output of the network is NaN or infinite, so there is no prediction")
        return logits

    def probabilities(self, pixels: np.ndarray) -> Tensor:
        """Compute the probabilities (N, classes), float64, of pixels (N, H, W, C), uint8, as `pixels` returns them.

        The logits are divided by the temperature that was fitted on validation, if the model has one.
        """
        with isolated(self.runtime.device):
            return (self.logits(pixels).double() / self.model.temperature).softmax(1)

    def _predict(self, images: Sequence[tuple[ImageLike, np.ndarray]], threshold: float) -> list[Prediction]:
        """Predict images with their pixels."""
        probabilities = self.probabilities(np.stack([pixels for _, pixels in images])).numpy()
        orders = np.argsort(-probabilities, axis=1, kind="stable")
        ordered = np.take_along_axis(probabilities, orders, axis=1)
        files = (os.fsdecode(image) if isinstance(image, str | os.PathLike) else "" for image, _ in images)
        rows = zip(orders.tolist(), ordered.tolist(), files, strict=True)
        return [self._prediction(*row, threshold) for row in rows]

    def _prediction(self, order: list[int], ordered: list[float], file: str, threshold: float) -> Prediction:
        named = {self.classes[index]: value for index, value in zip(order, ordered, strict=True)}
        return Prediction(self.classes[order[0]], ordered[0], named, ordered[0] < threshold, file)


def is_one_image(images: object) -> bool:
    """Return True for a single image in any accepted form, even if it is iterable."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)
    return isinstance(images, kinds) or hasattr(images, "read")


def readable(image: Any, channels: int = 3) -> Path | IO[bytes] | Image.Image | np.ndarray:
    """Convert an image in any accepted form to one that `Preprocessing.read` accepts."""
    match image:
        case str() | os.PathLike():
            return Path(os.fsdecode(image))
        case bytes() | bytearray():
            return io.BytesIO(image)
        case memoryview():
            return io.BytesIO(image.tobytes())
        case Image.Image() | np.ndarray():
            return image
        case Tensor():
            most = channels if channels > 1 else 3  # a model of grey images reads colours, too
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, most)):
                hint = alpha_hint(image.shape[0], most) if image.ndim == 3 else ""
                raise BadInput(
                    f"the tensor has shape {tuple(image.shape)}; (H, W), (1, H, W) or ({most}, H, W) is needed{hint}"
                )
            if image.is_quantized or image.is_meta or image.layout != torch.strided:
                raise BadInput("the tensor is quantized, sparse or without data; give a dense one, uint8 or float")
            with isolated():
                values = image.detach().cpu()
                values = values.float() if values.is_floating_point() else values
                return np.asarray(values.movedim(0, -1) if values.ndim == 3 else values)
        case io.TextIOBase():
            raise BadInput("the file is open in text mode; open images in binary mode: open(path, 'rb')")
        case _ if hasattr(image, "read"):
            return image  # type: ignore[no-any-return]
    raise BadInput(f"{type(image).__name__} is not an image; give {FORMS}")


def require_pixels(found: Iterable[tuple[Any, Pixels]]) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield images with their pixels; raise the BadInput of the first one that could not be read."""
    for image, pixels in found:
        if isinstance(pixels, BadInput):
            raise pixels
        yield image, pixels


def in_batches(images: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of up to BATCH images; the iterable is read one list at a time."""
    iterator = iter(images)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def load(
    source: str | os.PathLike[str] | Run, device: str | torch.device = "auto", precision: str = "auto"
) -> Classifier:
    """Load a classifier from a model file, or with the best weights of a run or run folder.

    `source` is a path, a run, or the name of a run in the folder `runs`; "hf:owner/name" or "hf:owner/name@revision" is
    a model that `push` uploaded to the Hugging Face Hub (`pip install 'resnetlab[hub]'`).

    `device` is auto, cpu, cuda or mps.
    `precision` is fp32, bf16, fp16 or auto: the precision that the device computes fastest, if it gave the same class
    as fp32 on at least 99.9 % of the validation images when the file was written; else, and for a file without that
    measurement, fp32.

    Raises BadInput for a file that is missing, damaged or of another kind.

    >>> load("model.safetensors")  # doctest: +SKIP
    """
    model, runtime = read_model(model_path(source)), start(device, precision)
    if precision == "auto" and not agrees(model, runtime.precision_name):
        runtime = replace(runtime, precision=torch.float32)
    return Classifier(model, runtime)


def agrees(model: Model, precision: str) -> bool:
    """Return True if this precision gave the classes of fp32 on the validation images of the model."""
    agreement = {} if model.validation is None else model.validation.agreement
    return agreement.get(precision, 0.0) >= AGREEMENT


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
