"""One sees y = F(x) + x: what a unit adds, what its shortcut carries, and what is left without it."""

import pytest
import torch
from torch import nn

from resnetlab.models.blocks import SHORTCUTS, UNITS, BasicBlock, PlainBlock, PreActBlock, ZeroPad
from resnetlab.models.build import build_model, initialize


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_unit_has_the_shape_that_it_promises(unit, shortcut, stride):
    made = UNITS[unit](16, 32, stride, SHORTCUTS[shortcut])
    assert made(random(2, 16, 8, 8)).shape == (2, 32 * made.expansion, 8 // stride, 8 // stride)
    assert sum(isinstance(module, nn.Conv2d) for name, module in made.named_children()) == made.depth


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_leaves_its_input_alone(unit):
    made = UNITS[unit](16, 16, 1)
    x = random(2, 16, 4, 4)
    before = x.clone()
    made(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("unit", UNITS)
def test_no_relu_is_used_twice(unit):
    made, calls = UNITS[unit](16, 32, 2), []
    relus = [module for module in made.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    made(random(2, 16, 8, 8))
    assert calls == relus


def test_zero_padding_subsamples_and_adds_empty_channels():
    x = random(2, 3, 4, 4)
    padded = ZeroPad(3, 5, 2)(x)
    assert torch.equal(padded[:, :3], x[:, :, ::2, ::2])
    assert not padded[:, 3:].any()


def test_options_differ_by_their_projections_alone():
    """Section 3.3: A has no parameters, B projects where the shape changes, C everywhere."""
    a, b, c = (parameters(build_model("resnet34", shortcut=option)) for option in "ABC")
    projections = {64: 64 * 64 + 2 * 64, 128: 128 * 128 + 2 * 128, 256: 256 * 256 + 2 * 256, 512: 512 * 512 + 2 * 512}
    changes = [64 * 128 + 2 * 128, 128 * 256 + 2 * 256, 256 * 512 + 2 * 512]
    same_shape = {64: 3, 128: 3, 256: 5, 512: 2}
    assert b - a == sum(changes)
    assert c - b == sum(projections[width] * units for width, units in same_shape.items())


def test_a_plain_net_is_a_residual_net_without_the_addition():
    residual, plain = build_model("resnet34", 10, image_size=32, seed=1), build_model("plain34", 10, image_size=32)
    plain.load_state_dict({key: value for key, value in residual.state_dict().items() if "downsample" not in key})
    for unit in residual.modules():
        if isinstance(unit, BasicBlock):
            unit.downsample = Nothing()
    images = random(2, 3, 16, 16)
    assert torch.equal(residual(images), plain(images))
    assert not any("downsample" in name for name, _ in plain.named_modules())
    assert PlainBlock.last is None


class Nothing(nn.Module):
    def forward(self, x):
        return 0.0


def test_an_identity_shortcut_carries_x_untouched_through_pre_activation_units():
    stage = nn.Sequential(*(PreActBlock(8, 8, 1) for _ in range(4)))
    for unit in stage:
        nn.init.zeros_(unit.conv1.weight)
        nn.init.zeros_(unit.conv2.weight)
    x = random(2, 8, 4, 4)
    assert x.min() < 0
    assert torch.equal(stage(x), x)


def test_a_changing_shape_takes_the_activated_input_and_a_bare_projection():
    unit = PreActBlock(8, 16, 2)
    initialize(unit, torch.Generator().manual_seed(0), zero_init=True)
    x = random(2, 8, 4, 4)
    assert list(unit.downsample.state_dict()) == ["0.weight"]
    expected = nn.functional.conv2d(unit.bn1(x).relu(), unit.downsample[0].weight, stride=2)
    assert torch.equal(unit(x), expected)


def test_the_norm_of_a_pre_activation_net_stands_before_the_pooling():
    model = build_model("preact_resnet20", 10)
    keys = list(model.state_dict())
    assert keys[0] == "conv1.weight"
    assert keys[1].startswith("layer1.0.bn1")
    assert keys[-7:-2] == [
        f"last_bn.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    assert model.features(random(2, 3, 16, 16)).min() >= 0


def test_a_frozen_backbone_learns_nothing_and_keeps_its_statistics():
    model = build_model("resnet20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.freeze_backbone()
    model.train()
    assert [key for key, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]
    assert model.training
    assert model.fc.training
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(random(4, 3, 8, 8)).sum().backward()
    optimiser.step()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["fc.weight", "fc.bias"]
    assert not model.eval().fc.training
