"""A network with everything after decoding in one graph: resize, crop, normalisation, temperature, softmax."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import PIL
import torch
from torch import Tensor, nn

from resnetlab import __version__
from resnetlab.data.preprocess import Preprocessing
from resnetlab.host import warnings_ignored
from resnetlab.inference.model_file import Model

INPUT, OUTPUTS = "pixels", ("probabilities", "logits")

COLUMNS_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
"""True if the installed Pillow resizes tall images along the columns first."""

BITS = 11  # half of the 22 bits of Pillow's weights


class ImageClassifier(nn.Module):
    """Maps images (N, H, W, C), uint8, of any one size to probabilities and logits, both float32 (N, classes).

    The steps are those of `Preprocessing.resize` and `Preprocessing.normalize`, written with operations that can be
    exported with N, H and W left open.

    >>> from resnetlab.models import build_model
    >>> preprocessing = Preprocessing(image_size=8, resize_to=8, channels=1, mean=(0.5,), std=(0.25,))
    >>> graph = ImageClassifier(build_model("resnet20", 2, in_channels=1).eval(), preprocessing)
    >>> probabilities, logits = graph(torch.zeros(3, 9, 12, 1, dtype=torch.uint8))
    >>> probabilities.shape, logits.shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, temperature: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.temperature = temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = self.resized(pixels.permute(0, 3, 1, 2).float())
        logits = self.network((images / 255 - self.mean) / self.std)
        return (logits / self.temperature).softmax(1), logits

    def resized(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) to the centre (N, C, image_size, image_size) of the resized image, in 0..255.

        Along the rows first, then along the columns, both rounded to whole numbers, as in Pillow. Pillow 13 does it
        the other way round if the height shrinks by more than twice as many pixels as the width; so does the graph if
        that version is installed.
        """
        rows, columns, is_tall = self.weights(images.shape[2:])
        tensors = (images, *rows, *columns)
        if not COLUMNS_FIRST:
            return along_rows_first(*tensors)
        if torch.compiler.is_exporting():  # both ways are in the file
            chosen: Tensor = torch.cond(is_tall, along_columns_first, along_rows_first, tensors)
            return chosen
        return along_columns_first(*tensors) if is_tall else along_rows_first(*tensors)

    def weights(self, size: Sequence[int]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """Return the weights of the rows (image_size, H) and of the columns (image_size, W), in two parts each.

        The third value is True if Pillow 13 resizes along the columns first.
        """
        settings, target = self.preprocessing, self.preprocessing.resize_to
        # As tensors: exporters know few functions of symbolic sizes.
        height, width = (torch.scalar_tensor(side, dtype=torch.float64) for side in size)
        sides, shrinks = [], []
        for side, length in zip((height, width), size, strict=True):
            start, covered, new = torch.zeros_like(side), side, torch.full_like(side, target)
            if settings.fit == "crop":
                covered = torch.minimum(height, width)
                start = ((side - covered) / 2).floor()
            elif settings.fit == "pad":
                new = (side * (target / torch.maximum(height, width))).round().clamp(min=1)
            sides.append(self.weights_along(length, start, covered, new))
            shrinks.append(side - new)
        return sides[0], sides[1], (shrinks[0] > 0) & (shrinks[0] > 2 * shrinks[1])

    def weights_along(self, length: int, start: Tensor, covered: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (image_size, length) that scale `covered` pixels from `start` to `new` ones, centred.

        They are Pillow's: triangles as wide as a new pixel, in units of 2^-22, here in two parts of 11 bits.
        """
        size, target = self.preprocessing.image_size, self.preprocessing.resize_to
        index = torch.arange(size, dtype=torch.float64) + (target - size) // 2 - ((target - new) / 2).floor()
        scale = covered / new
        width = scale.clamp(min=1)
        centre = start + (index + 0.5) * scale
        distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centre[:, None]) / width
        weights = (1 - distance.abs()).clamp(min=0)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        is_inside = ((index >= 0) & (index < new)).double()[:, None]  # the rest is the black of `pad`
        units = (weights * is_inside * 2 ** (2 * BITS) + 0.5).floor()
        high = (units / 2**BITS).floor()
        return high.float(), (units - high * 2**BITS).float()


def along_rows_first(images: Tensor, high: Tensor, low: Tensor, right_high: Tensor, right_low: Tensor) -> Tensor:
    """Resize images (N, C, H, W) with the two parts of the weights (h, H) and (w, W)."""
    wide = rounded(images @ part.t() for part in (right_high, right_low))
    return rounded(part @ wide for part in (high, low))


def along_columns_first(images: Tensor, high: Tensor, low: Tensor, right_high: Tensor, right_low: Tensor) -> Tensor:
    """Do the same in the other order."""
    tall = rounded(part @ images for part in (high, low))
    return rounded(tall @ part.t() for part in (right_high, right_low))


def rounded(products: Iterable[Tensor]) -> Tensor:
    """Add the products with both parts of the weights, divide by 2^22 and round.

    Every value is a whole number below 2^24 (with weights of up to 32 pixels), so float32 is exact.
    """
    high, low = products
    total: Tensor = ((high + (low / 2**BITS).floor() + 2 ** (BITS - 1)) / 2**BITS).floor()
    return total


@contextmanager
def exported(graph: ImageClassifier) -> Iterator[torch.export.ExportedProgram]:
    """Trace a graph with batch, height and width left open; warnings of the exporters are silent meanwhile."""
    size = graph.preprocessing.image_size
    example = torch.zeros(2, size + 3, size + 5, graph.preprocessing.channels, dtype=torch.uint8)
    is_open = torch.export.Dim.DYNAMIC
    with warnings_ignored():
        yield torch.export.export(graph, (example,), dynamic_shapes={INPUT: {0: is_open, 1: is_open, 2: is_open}})


def graph_of(model: Model) -> ImageClassifier:
    """Return the graph of a model, in evaluation mode."""
    return ImageClassifier(model.network, model.preprocessing, model.temperature).eval()


def metadata_of(model: Model) -> dict[str, str]:
    """Return what an exported file needs to be used without the model file, as texts; most of them are JSON."""
    return {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "preprocessing": json.dumps(model.preprocessing.to_json()),
        "temperature": json.dumps(model.temperature),
        "model": model.network.name,
        "weights_digest": model.weights_digest,
        "resnetlab": __version__,
    }
