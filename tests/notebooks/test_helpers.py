"""What notebooks/helpers.py draws and writes is what the code and the stored runs are."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

from resnetlab.models.blocks import BasicBlock, Bottleneck, PlainBlock, zero_pad
from resnetlab.models.build import build_model
from resnetlab.models.summary import describe


@pytest.fixture(scope="module")
def helpers() -> ModuleType:
    import helpers

    return helpers


def words(*drawn: Axes) -> list[str]:
    return [text.get_text() for axes in drawn for text in axes.texts if text.get_text()]


def additions(figure: Figure) -> int:
    return sum(isinstance(patch, Circle) for axes in figure.axes for patch in axes.patches)


class Functional(nn.Module):
    """A unit written with functions instead of modules, its shortcut first in the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + F.relu(self.conv(x)))


def test_a_unit_is_drawn_from_its_code(helpers: ModuleType) -> None:
    figure = helpers.unit_figure({"same": BasicBlock(8, 8, 1), "half": BasicBlock(8, 16, 2)}, (8, 6, 6))
    same, half = map(words, figure.axes)
    assert additions(figure) == 2
    assert same[:3] == ["x   8×6×6", "3×3 convolution\n8 → 8 channels", "batch norm"]
    assert same.count("ReLU") == half.count("ReLU") == 2
    assert "shortcut: x itself" in same
    assert "y   8×6×6" in same
    assert "3×3 convolution\n8 → 16 channels, stride 2" in half
    assert "1×1 convolution\n8 → 16 channels, stride 2" in half
    assert "y   16×3×3" in half


def test_other_units_are_drawn_too(helpers: ModuleType) -> None:
    assert additions(helpers.unit_figure({"plain": PlainBlock(8, 8, 1)}, (8, 6, 6))) == 0
    assert "1×1 convolution\n2 → 8 channels" in words(*helpers.unit_figure({"": Bottleneck(8, 2, 1)}, (8, 6, 6)).axes)
    assert "every 2nd pixel,\n8 channels of zeros" in words(
        *helpers.unit_figure({"": BasicBlock(8, 16, 2, zero_pad)}, (8, 6, 6)).axes
    )
    functional = words(*helpers.unit_figure({"": Functional()}, (4, 6, 6)).axes)
    assert functional[1:3] == ["3×3 convolution\n4 → 4 channels", "ReLU"]
    assert "shortcut: x itself" in functional


def test_shapes_are_those_of_the_summary(helpers: ModuleType) -> None:
    found = helpers.output_shapes(build_model("resnet18", 10, stem="imagenet"), (3, 32, 32))
    rows = {row.stage: row for row in describe("resnet18", 32, num_classes=10, stem="imagenet")}
    assert found["image"] == "3×32×32"
    assert found["maxpool"] == "×".join(map(str, rows["stem"].shape))
    assert found["layer3"] == "×".join(map(str, rows["layer3"].shape))
    assert found["fc"] == "10"


def test_a_run_is_read_from_its_files(helpers: ModuleType) -> None:
    run = helpers.load_run("cifar10-resnet18")
    assert len(run.epochs) == run.config["epochs"]
    assert run.best["val_accuracy"] == run.column("val_accuracy").max()
    points, half = helpers.difference(run, run)
    assert points == 0
    assert 1 < half < 2  # points, for 5,000 images
    with pytest.raises(FileNotFoundError, match="no stored run 'nope'"):
        helpers.load_run("nope")


def test_the_interval_stands_beside_the_accuracy(helpers: ModuleType) -> None:
    assert helpers.accuracy_with_interval(3693, 5000) == "73.86 % (72.6 to 75.1)"


def test_predictions_are_drawn_with_the_true_class_of_mistakes(helpers: ModuleType) -> None:
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    figure = helpers.predictions_figure(images, torch.tensor([0, 0, 0, 0]), probabilities, ("cat", "dog"), title="")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert sorted(titles[:3]) == ["cat, 60%", "cat, 70%", "cat, 90%"]
    assert titles[3:] == ["dog, 80%\nis cat"]


def test_pictures_and_tables_can_be_made(helpers: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    truth, predicted = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    helpers.class_table(truth, predicted, ("cat", "dog"))
    helpers.confusion_figure(truth, predicted, ("cat", "dog"), "three images")
    assert len(helpers.number_grids({"a": torch.eye(3), "b": torch.ones(2, 2)}).axes) == 2
    row = {"rate": 0.1, "train_loss": 2.0, "val_loss": 2.0, "train_accuracy": 0.1, "val_accuracy": 0.2}
    drawn = helpers.curves_figure({"Adam": [{"epoch": 1, **row}, {"epoch": 2, **row}]}, "three images")
    assert len(drawn.axes) == 3
