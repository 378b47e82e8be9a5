"""A network to look at, from the zoo, a model file or a run folder: what it costs, and what it makes of one picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from resnetlab.data.datasets import IMAGENET
from resnetlab.data.named import STATISTICS
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput, printable
from resnetlab.inference.predict import load
from resnetlab.interpret.activations import Activation, collect_activations
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import PAPER_SETTING, StageRow, stage_rows, warnings_for
from resnetlab.models.zoo import ARCHITECTURES, LARGEST_FOR_CIFAR_STEM, resolve

SEED = 0


@dataclass(frozen=True)
class Seen:
    """What became of one picture: `pixels` (H, W, C), uint8, are what the network saw of it."""

    pixels: np.ndarray
    activations: tuple[Activation, ...]
    classes: tuple[str, ...]

    def numbers(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of what leaves each stage."""
        return {one.stage: (one.mean, one.std) for one in self.activations}  # the last of a stage is its output

    def outcome(self) -> str:
        """What the network takes the picture for, in a line."""
        if not self.classes:
            return f"note: the weights are untrained, drawn from seed {SEED}; mean and std are those of random filters"
        logits = torch.from_numpy(self.activations[-1].values).double()
        if not logits.isfinite().all():
            return "note: the network's output is NaN or infinite; there is nothing to predict from"
        probability, order = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(probability.tolist()[:5], order.tolist(), strict=False)
        return "predicted: " + ", ".join(f"{self.classes[index]} {share:.2%}" for share, index in pairs)


@dataclass(frozen=True)
class InspectedModel:
    """A network and what it needs to look at a picture; without `classes` its weights are untrained, or not there."""

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
        """The network stage by stage. Raises BadInput where maps would vanish on the way."""
        size = self.preprocessing.image_size
        try:
            return stage_rows(self.network, size)
        except RuntimeError as error:  # torch's, of shapes: weights are not computed with
            raise BadInput(
                f"images of {size}×{size} px are too small for {self.title}; give --image-size more"
            ) from error

    def notes(self) -> list[str]:
        """What to know before training such a network; nothing of a network that is not in the zoo."""
        name, built = self.network.name, self.network.architecture
        if name not in ARCHITECTURES or resolve(name, stem=built.stem) != built:
            return []
        return [f"note: {line}" for line in warnings_for(name, self.preprocessing.image_size, stem=built.stem)]

    def look(self, picture: Path) -> Seen:
        """Send a picture through the network. Raises BadInput for what cannot be read as one."""
        self.rows()
        see = self.preprocessing
        images = see.normalize(torch.from_numpy(see.read(picture))[None])
        pixels = see.denormalize(images)[0].numpy()
        return Seen(pixels, tuple(collect_activations(self.network, images)), self.classes)

    def draw(self, file: Path, seen: Seen | None = None) -> None:
        """The network as a picture, with what it made of an image if one was seen; .png, .svg or .pdf."""
        from resnetlab.plots.activations import activations_figure
        from resnetlab.plots.diagram import diagram_figure  # matplotlib takes its time to import
        from resnetlab.plots.style import save

        if seen is None:
            figure = diagram_figure(self.network, self.preprocessing.image_size, title=self.title)
        else:
            recorded, pixels = seen.activations, seen.pixels
            figure = activations_figure(self.network, recorded, pixels, classes=self.classes, title=self.title)
        save(figure, file)


def find(
    name: str, image_size: int | None = None, stem: str = "auto", num_classes: int | None = None, *, is_blank: bool
) -> InspectedModel:
    """The network of that name in the zoo, or else the one in that model file or run folder, on the CPU.

    Stem "auto" goes by an `image_size` that is given. With `is_blank` a network of the zoo has shapes and no weights.
    Raises BadInput for what is not there, and for a file that is given what it brings itself.

    >>> find("resnet34", 32, is_blank=True).heading
    'resnet34, cifar stem, images of 32×32 px, 1,000 classes (He 2015, Table 1)'
    """
    if name in ARCHITECTURES or not (Path(name).exists() or os.sep in name or name.endswith(".safetensors")):
        return of_the_zoo(name, image_size, stem, num_classes, is_blank=is_blank)
    given = {"--image-size": image_size, "--stem": None if stem == "auto" else stem, "--classes": num_classes}
    for flag, value in given.items():
        if value is not None:
            raise BadInput(f"{printable(name)} brings its own image size, stem and classes; leave {flag} away")
    model = load(name, device="cpu").model
    title = f"{model.network.name or 'network'} from {printable(Path(name).resolve().name)}"
    return InspectedModel(model.network, title, model.preprocessing, model.classes)


def of_the_zoo(
    name: str, image_size: int | None, stem: str, num_classes: int | None, *, is_blank: bool
) -> InspectedModel:
    """A network of the zoo, at the image size and with the classes of its paper unless others are given."""
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
    mean, std = STATISTICS["cifar10"] if size <= LARGEST_FOR_CIFAR_STEM else IMAGENET
    return InspectedModel(network.eval(), name, Preprocessing(size, size, 3, mean, std))
