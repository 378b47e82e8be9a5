"""Every net of the zoo is what its name and its paper say, can learn, and starts from its seed alone."""

import re
from dataclasses import replace

import numpy
import pytest
import torch

from resnetlab.errors import BadInput
from resnetlab.models.blocks import PreActBlock, Unit
from resnetlab.models.build import build_model, initialize
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import ARCHITECTURES, Architecture


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_depth_is_the_number_in_the_name(name):
    with torch.device("meta"):
        model = ResNet(ARCHITECTURES[name])
    assert model.depth == int(re.search(r"\d+", name)[0])


@pytest.mark.parametrize(("name", "millions"), [("20", 0.27), ("32", 0.46), ("44", 0.66), ("56", 0.85), ("110", 1.73)])
def test_parameter_counts_equal_table_6(name, millions):
    assert round(parameters(build_model(f"resnet{name}", 10)) / 1e6, 2) == millions


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(name):
    architecture, side = ARCHITECTURES[name], 16
    if architecture.stem == "imagenet":  # a quarter as wide: tests/models/test_parity.py looks at the full width
        architecture, side = replace(architecture, width=16), 64
    model = build_model(architecture, 10)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(images), torch.tensor([1, 7])).backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:  # filters that are computed from the data
            assert key == "conv1.weight"
            assert model.architecture.stem == "whitened"
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "plain20", "preact_resnet20", "preact_resnet18"])
@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.slow), 224])
@torch.no_grad()
def test_images_of_any_size_become_logits(name, side):
    model = build_model(name, 7, image_size=side).eval()
    images = torch.zeros(1, 3, side, side)
    assert model(images).shape == (1, 7)
    assert model.features(images).shape == (1, model.fc.in_features)


@pytest.mark.parametrize("in_channels", [1, 3, 5])
@pytest.mark.parametrize("num_classes", [1, 10])
def test_any_number_of_channels_and_classes(in_channels, num_classes):
    model = build_model("resnet20", num_classes, in_channels=in_channels)
    assert model(torch.zeros(2, in_channels, 8, 8)).shape == (2, num_classes)
    assert (model.in_channels, model.num_classes, model.name) == (in_channels, num_classes, "resnet20")


def test_the_seed_decides_every_bit():
    one, same, other = (build_model("resnet20", 10, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if "conv" in key or "fc" in key)


def test_the_bits_are_the_same_under_any_default_dtype():
    expected = build_model("resnet20", 10).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        found = build_model("resnet20", 10).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(value.dtype == expected[name].dtype and value.equal(expected[name]) for name, value in found.items())


def test_no_global_generator_is_used_or_touched():
    torch_before, numpy_before = torch.get_rng_state(), numpy.random.get_state()[1].copy()  # noqa: NPY002
    first = build_model("preact_resnet20").fc.weight
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert numpy.array_equal(numpy.random.get_state()[1], numpy_before)  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(build_model("preact_resnet20").fc.weight, first)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "resnet20", "plain20", "preact_resnet20"])
@pytest.mark.parametrize("shortcut", ["A", "C", None])
def test_initialize_leaves_no_number_unset(name, shortcut):
    model = build_model(name, 10, shortcut=None if name == "plain20" else shortcut)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    for value in model.state_dict().values():
        value.fill_(torch.nan if value.is_floating_point() else 77)
    initialize(model, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_the_weights_have_the_papers_spread():
    model = build_model("resnet18")
    weight = model.layer4[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)  # by fan-out
    assert model.fc.weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)
    assert model.fc.weight.std().item() == pytest.approx((512 * 3) ** -0.5, rel=0.01)


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "preact_resnet20"])
@torch.no_grad()
def test_zero_init_starts_every_residual_branch_at_zero(name):
    model = build_model(name, 10, zero_init=True).eval()
    x = model.relu(model.bn1(model.conv1(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))))
    units = [module for module in model.modules() if isinstance(module, Unit)]
    for unit in units:
        if isinstance(unit, PreActBlock):
            expected = unit.downsample(x if unit.carries_x else unit.relu1(unit.bn1(x)))
        else:
            expected = unit.downsample(x).relu()
        x = unit(x)
        assert torch.equal(x, expected)
    assert len(units) == sum(model.architecture.units_per_stage)


def test_an_architecture_of_ones_own_can_be_built():
    model = build_model(Architecture("bottleneck", (1, 1), width=8, stem="cifar", groups=2, group_width=32), 10)
    assert (model.depth, model.name) == (8, "")
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"architecture": "resnet19"}, "did you mean 'resnet1"),
        ({"architecture": "resnet18", "num_classes": 0}, "num_classes is 0"),
        ({"architecture": "resnet18", "in_channels": -1}, "in_channels is -1"),
        ({"architecture": "plain20", "zero_init": True}, "plain20 has no shortcuts"),
        ({"architecture": ARCHITECTURES["resnet18"], "stem": "cifar"}, "an Architecture brings its own"),
    ],
)
def test_what_cannot_be_built_gets_a_sentence(arguments, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        build_model(**arguments)
