"""The networks that `resnetlab models` shows: from the zoo, a model file or a run, with the activations of an image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from resnetlab.data.preprocess import STATISTICS, Preprocessing
from resnetlab.errors import BadInput, printable
from resnetlab.inference.model_file import read_model
from resnetlab.inference.sources import RUNS, model_path
from resnetlab.interpret.activations import Activation, collect_activations
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import PAPER_SETTING, StageRow, stage_rows, warnings_for
from resnetlab.models.zoo import ARCHITECTURES, LARGEST_FOR_CIFAR_STEM, resolve

SEED = 0


@dataclass(frozen=True)
class ImageActivations:
    """One image and its activations in a network.

    `pixels` (H, W, C), uint8, is the image after resizing and cropping. `classes` is empty for untrained weights.
    """

    pixels: np.ndarray
    activations: tuple[Activation, ...]
    classes: tuple[str, ...]

    def statistics(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the output of each stage, by its name."""
        return {one.stage: (one.mean, one.std) for one in self.activations}  # the last of a stage is its output

    def prediction(self) -> str:
        """The five most probable classes, in a line; or a note that the weights are untrained."""
        if not self.classes:
            return f"note: the weights are untrained, drawn from seed {SEED}; mean and std are those of random filters"
        logits = torch.from_numpy(self.activations[-1].values).double()
        if not logits.isfinite().all():
            return "note: the network's output is NaN or infinite, so there is no prediction"
        probability, order = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(probability.tolist()[:5], order.tolist(), strict=False)
        return "predicted: " + ", ".join(f"{self.classes[index]} {share:.2%}" for share, index in pairs)


@dataclass(frozen=True)
class InspectedModel:
    """A network with a title and the preprocessing of its images; `classes` is empty for untrained or blank weights."""

    network: ResNet
    title: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        size, architecture = self.preprocessing.image_size, self.network.architecture
        source = f" ({architecture.source})" if architecture.source else ""
        classes = f"{self.network.num_classes:,} classes"
        return f"{self.title}, {architecture.stem} stem, images of {size}×{size} px, {classes}{source}"

    def rows(self) -> list[StageRow]:
        """The stages with output shape and cost. Raises BadInput for images that are too small for the network."""
        size = self.preprocessing.image_size
        try:
            return stage_rows(self.network, size)
        except RuntimeError as error:  # from torch, about shapes: the weights are not used
            raise BadInput(
                f"images of {size}×{size} px are too small for {self.title}; give --image-size more"
            ) from error

    def notes(self) -> list[str]:
        """Warnings about training this network at this image size; none for a network that is not in the zoo."""
        name, architecture = self.network.name, self.network.architecture
        if name not in ARCHITECTURES or resolve(name, stem=architecture.stem) != architecture:
            return []
        return [f"note: {line}" for line in warnings_for(name, self.preprocessing.image_size, stem=architecture.stem)]

    def activations_of(self, file: Path) -> ImageActivations:
        """Send an image through the network. Raises BadInput for a file that cannot be read as an image."""
        self.rows()
        images = self.preprocessing.normalize(torch.from_numpy(self.preprocessing.read(file))[None])
        pixels = self.preprocessing.denormalize(images)[0].numpy()
        return ImageActivations(pixels, tuple(collect_activations(self.network, images)), self.classes)

    def save_figure(self, file: Path, image: ImageActivations | None = None) -> None:
        """Draw the network, with an image also its feature maps, into a .png, .svg or .pdf file."""
        from resnetlab.plots.activations import activations_figure
        from resnetlab.plots.diagram import diagram_figure  # importing matplotlib is slow
        from resnetlab.plots.style import save

        if image is None:
            figure = diagram_figure(self.network, self.preprocessing.image_size, title=self.title)
        else:
            activations, pixels = image.activations, image.pixels
            figure = activations_figure(self.network, activations, pixels, classes=self.classes, title=self.title)
        save(figure, file)


def inspect_model(
    name: str, image_size: int | None = None, stem: str = "auto", num_classes: int | None = None, *, is_blank: bool
) -> InspectedModel:
    """Return the network called `name` in the zoo, or the one in a model file or run folder, on the CPU.

    Stem "auto" depends on `image_size`. With `is_blank` a network of the zoo has shapes and no weights.

    Raises BadInput for an unknown name, and for a size, stem or number of classes together with a file, which
    contains them.

    >>> inspect_model("resnet34", 32, is_blank=True).heading
    'resnet34, cifar stem, images of 32×32 px, 1,000 classes (He 2015, Table 1)'
    """
    if name in ARCHITECTURES or not is_source(name):
        return from_zoo(name, image_size, stem, num_classes, is_blank=is_blank)
    given = {"--image-size": image_size, "--stem": None if stem == "auto" else stem, "--classes": num_classes}
    for flag, value in given.items():
        if value is not None:
            raise BadInput(f"{printable(name)} contains its image size, stem and classes; omit {flag}")
    model = read_model(model_path(name))
    title = f"{model.network.name or 'network'} from {printable(Path(name).resolve().name)}"
    return InspectedModel(model.network, title, model.preprocessing, model.classes)


def is_source(name: str) -> bool:
    """Return True for what can only be a model file or a run: it exists, or is written like a path."""
    return os.sep in name or name.endswith(".safetensors") or Path(name).exists() or (RUNS / name).exists()


def from_zoo(
    name: str, image_size: int | None, stem: str, num_classes: int | None, *, is_blank: bool
) -> InspectedModel:
    """Return a network of the zoo, by default at the image size and with the number of classes of its paper."""
    papers_size, papers_classes = PAPER_SETTING[resolve(name).stem]
    size = papers_size if image_size is None else image_size
    classes = papers_classes if num_classes is None else num_classes
    if classes < 1:
        raise BadInput(f"--classes is {classes}; a network needs at least 1")
    architecture = resolve(name, stem=stem, image_size=size)
    if is_blank:
        with torch.device("meta"):
            network = ResNet(architecture, classes)
    else:
        network = build_model(architecture, classes, seed=SEED)
    network.name = name
    mean, std = STATISTICS["cifar10" if size <= LARGEST_FOR_CIFAR_STEM else "imagenet"]
    return InspectedModel(network.eval(), name, Preprocessing(size, size, 3, mean, std))
