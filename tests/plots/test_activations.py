"""The network as a diagram and the activations of an image: all that is there is drawn, and nothing overlaps."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from resnetlab.interpret.activations import Activation, collect_activations
from resnetlab.interpret.diagram import MOST_UNITS, count_shortcuts, sections
from resnetlab.models.blocks import PlainBlock, Unit
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import PAPER_SETTING
from resnetlab.models.zoo import ARCHITECTURES, Architecture, resolve
from resnetlab.plots import style
from resnetlab.plots.activations import LIKELIEST, MAPS, activations_figure, thumbnails
from resnetlab.plots.diagram import diagram_figure
from resnetlab.plots.style import rendered

SMALL = Architecture("basic", (2, 1), width=4, stem="cifar")


def weightless(name: str) -> tuple[ResNet, int]:
    """A network of the zoo as its paper has it, and its image size."""
    size, classes = PAPER_SETTING[resolve(name).stem]
    with torch.device("meta"):
        model = ResNet(resolve(name), classes)
    model.name = name
    return model.eval(), size


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def require_order(figure: Figure) -> None:
    """All words lie inside the picture, and none on another."""
    pen = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(pen)) for text in texts(figure) if text.axes is not None]
    assert boxes
    for said, box in boxes:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, said  # noqa: PT018
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, said  # noqa: PT018
    for (said, one), (other_said, other) in combinations(boxes, 2):
        apart = min(one.x1, other.x1) - max(one.x0, other.x0) < 1 or min(one.y1, other.y1) - max(one.y0, other.y0) < 3
        assert apart, f"{said!r} and {other_said!r}"


def arcs(figure: Figure) -> int:
    return sum(patch.get_gid() == "shortcut" for patch in figure.axes[0].patches)


def sent(model: ResNet, size: int = 16) -> tuple[list[Activation], np.ndarray]:
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (size, size, model.in_channels), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 64 - 2
    return collect_activations(model, image), pixels


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_every_network_is_drawn_with_all_its_units_shortcuts_and_costs(name: str) -> None:
    model, size = weightless(name)
    units = [module for module in model.modules() if isinstance(module, Unit)]
    residual = [unit for unit in units if not isinstance(unit, PlainBlock)]
    assert count_shortcuts(model) == len(residual)
    boxes = [box for section in sections(model) if section.stage.startswith("layer") for box in section.boxes]
    layers = sum(len([layer for layer in box.layers if "pool" not in layer]) * box.times for box in boxes)
    assert layers == sum(unit.depth for unit in units) == model.depth - 2
    projected = [unit for unit in residual if isinstance(getattr(unit, "downsample", None), nn.Sequential)]
    assert sum(box.shortcut == "projection" for box in boxes) == len(projected)

    figure = diagram_figure(model, size)
    assert arcs(figure) == sum(bool(box.shortcut) for box in boxes)
    assert {"layer1", "stem", "head", name} <= set(words(figure))
    assert f"{model.num_classes}" in words(figure)
    require_order(figure)


def test_the_paper_s_figure_3() -> None:
    """34 layers: one 7×7, units of 64, 128, 256 and 512, of which three change the shape."""
    drawn = {section.name: section.boxes for section in sections(weightless("resnet34")[0])}
    assert list(drawn) == ["conv1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert drawn["conv1"][0].layers == ("7×7, 64 /2",)
    assert drawn["maxpool"][0].layers == ("3×3 max pool /2",)
    assert [len(drawn[f"layer{i}"]) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
    first, second, *_ = drawn["layer2"]
    assert (first.layers, first.shortcut, first.shortcut_layers) == (
        ("3×3, 128 /2", "3×3, 128"),
        "projection",
        "1×1, 128 /2",
    )
    assert (second.parts, second.shortcut) == (("3×3, 128", "|", "3×3, 128", "|"), "identity")
    assert arcs(diagram_figure(weightless("resnet34")[0], 224)) == 16
    assert arcs(diagram_figure(weightless("plain34")[0], 224)) == 0
    assert "no shortcuts: a plain net" in words(diagram_figure(weightless("plain34")[0], 224))


def test_layers_of_the_other_units() -> None:
    def first(name: str) -> Any:
        return next(s for s in sections(weightless(name)[0]) if s.name == "layer2").boxes[0]

    assert first("resnet50").layers == ("1×1, 128", "3×3, 128 /2", "1×1, 512")
    assert first("resnext50_32x4d").layers[1] == "3×3, 256 /2 in 32 groups"
    assert first("preact_resnet18").parts == ("|", "3×3, 128 /2", "|", "3×3, 128")
    assert first("resnet20").shortcut == "padding"
    fast = sections(weightless("fast_resnet8")[0])[2].boxes
    assert [box.parts for box in fast] == [("3×3, 64", "2×2 max pool", "|"), ("3×3, 64", "|")]
    assert [box.shortcut for box in fast] == ["", "identity"]


def test_many_equal_units_are_folded_into_one_box_with_their_number() -> None:
    model, size = weightless("resnet152")
    third = next(section for section in sections(model) if section.name == "layer3")
    assert [(box.times, box.shortcut) for box in third.boxes] == [(1, "projection"), (35, "identity")]
    assert "35 ×" in words(diagram_figure(model, size))
    assert all(len(section.boxes) <= MOST_UNITS for section in sections(model))


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "plain20", "preact_resnet20", "resnet110", "fast_resnet8"])
def test_every_activation_is_drawn(name: str) -> None:
    model = build_model(replace(resolve(name, image_size=16), width=16), 10)
    recorded, pixels = sent(model)
    figure = activations_figure(model, recorded, pixels, title=name)
    (axes,) = figure.axes
    maps = [activation for activation in recorded if activation.name not in ("image", "avgpool", "fc")]
    assert 1 + 3 + MAPS * len(maps) + 2 <= len(axes.images) <= 1 + 3 + 2 * MAPS * len(maps) + 2
    np.testing.assert_array_equal(axes.images[0].get_array(), pixels)
    assert axes.images[0].get_interpolation() == "nearest"
    assert arcs(figure) == sum(bool(box.shortcut) for section in sections(model) for box in section.boxes)
    for activation in recorded:
        assert "×".join(map(str, activation.shape)) in words(figure)
    assert "untrained" in words(figure)
    assert any("drawn from a seed" in word for word in words(figure))
    require_order(figure)


def test_thumbnails_are_the_maps_of_largest_variance_on_one_scale() -> None:
    maps = np.zeros((4, 2, 2), np.float32)
    maps[1], maps[2], maps[3] = [[0, 1], [2, 3]], [[-50, 0], [0, 50]], 50
    wide, narrow, constant = thumbnails(maps, 3)
    assert (wide[0, 1] == narrow[0, 0]).all(), "equal values have equal colours in all maps"
    assert (constant == wide[1, 1]).all(), "of the maps without variance, the one with the largest mean is shown"
    assert (wide[0, 0] != wide[1, 1]).any()


def test_maps_of_one_pixel_have_the_colours_of_their_values() -> None:
    """Each by itself would be the lowest value of its own scale: the same colour for all."""
    shown = thumbnails(np.array([0.5, 3, 0, 1.5], np.float32)[:, None, None], 3)
    brightness = shown.mean((1, 2, 3))
    assert brightness[0] > brightness[1] > brightness[2], "3, 1.5 and 0.5"
    assert brightness[2] > thumbnails(np.zeros((1, 1, 1), np.float32), 1).mean(), "the lowest value, 0, is not shown"


def test_the_most_probable_classes_of_a_trained_network_are_drawn() -> None:
    model = build_model(SMALL, 12, seed=2)
    recorded, pixels = sent(model)
    classes = [f"class {index}, a ${index}$ long name" for index in range(12)]
    figure = activations_figure(model, recorded, pixels, classes=classes)
    probability = torch.from_numpy(recorded[-1].values).double().softmax(0)
    found = words(figure)
    for share, index in zip(*probability.topk(LIKELIEST), strict=True):
        assert any(word.startswith(f"class {index},") for word in found)
        assert f"{100 * share:.1f} %" in found
    assert any(word.endswith("most probable of 12 classes") for word in found)
    assert "untrained" not in found
    require_order(figure)
    rendered(figure, "png")


def test_logits_that_are_not_finite_are_reported() -> None:
    model = build_model(SMALL, 3)
    with torch.no_grad():
        model.get_submodule("layer2").get_parameter("0.conv1.weight").fill_(float("nan"))
    recorded, pixels = sent(model)
    figure = activations_figure(model, recorded, pixels, classes=["a", "b", "c"])
    assert "not a number" in words(figure)
    rendered(figure, "png")


def test_a_gray_image_and_one_of_a_single_pixel() -> None:
    for channels, size in ((1, 16), (3, 1)):
        model = build_model(SMALL, 2, in_channels=channels)
        figure = activations_figure(model, *sent(model, size), classes=["no", "yes"])
        assert len(rendered(figure, "png")) > 10_000


@pytest.mark.parametrize("form", ["svg", *(pytest.param(form, marks=pytest.mark.slow) for form in ("png", "pdf"))])
def test_the_same_network_gives_the_same_bytes(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 40)  # encoding takes most of the time
    model = build_model(SMALL, 3)
    recorded, pixels = sent(model)
    pictures = [lambda: activations_figure(model, recorded, pixels), lambda: diagram_figure(model, 16)]
    for draw in pictures:
        assert rendered(draw(), form) == rendered(draw(), form)
