"""Activations equal those of a plain forward pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.interpret.activations import collect_activations
from resnetlab.kernels.accelerate import accelerate
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import stage_rows
from resnetlab.models.zoo import ARCHITECTURES, Architecture, resolve

SIZE = 16


def narrow(name: str, image_size: int = SIZE) -> ResNet:
    """A network of the zoo with all its units and a fraction of its channels."""
    model = build_model(replace(resolve(name, image_size=image_size), width=16), 10)
    model.name = name
    return model


def with_statistics(model: ResNet) -> ResNet:
    """Norms that do something, as after training."""
    numbers = torch.Generator().manual_seed(7)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=numbers)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=numbers)
    return model


def picture(channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_shapes_are_those_of_the_table_and_the_head_is_the_networks_output(name: str) -> None:
    model = narrow(name).eval()
    recorded = collect_activations(model, picture())
    at_end = {activation.stage: activation.shape for activation in recorded}
    assert at_end.pop("image") == (3, SIZE, SIZE)
    assert at_end == {row.stage: row.shape for row in stage_rows(model, SIZE)}
    with torch.inference_mode():
        features = model.features(picture()[None])
        logits = model(picture()[None])
    np.testing.assert_array_equal(recorded[-2].values, features[0])
    np.testing.assert_array_equal(recorded[-1].values, logits[0])


def by_hand(weights: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """A narrow ResNet of basic units with the ImageNet stem, in float64 and in functions alone."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            weights[f"{name}.{word}"][:, None, None] for word in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    found = {"image": image[None].double()}
    found["conv1"] = conv("conv1", found["image"], stride=2)
    found["relu"] = norm("bn1", found["conv1"]).clamp(min=0)
    found["maxpool"] = x = F.max_pool2d(found["relu"], 3, 2, 1)
    for stage in (1, 2):
        for unit in (0, 1):
            at, stride = f"layer{stage}.{unit}", 2 if (stage, unit) == (2, 0) else 1
            residual = norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)).clamp(min=0)
            residual = norm(f"{at}.bn2", conv(f"{at}.conv2", residual))
            shortcut = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, stride)) if stride == 2 else x
            found[at] = x = (residual + shortcut).clamp(min=0)
        found[f"layer{stage}"] = x
    found["avgpool"] = x.mean((2, 3))
    found["fc"] = found["avgpool"] @ weights["fc.weight"].t() + weights["fc.bias"]
    return found


@pytest.mark.parametrize("training", [True, False])
def test_mean_and_std_are_those_of_a_forward_pass_by_hand_in_float64(training: bool) -> None:
    model = with_statistics(build_model(Architecture("basic", (2, 2), width=8), 5)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = by_hand({name: tensor.double() for name, tensor in before.items()}, picture(size=32))
    recorded = collect_activations(model, picture(size=32), units=True)
    assert [activation.name for activation in recorded] == list(expected)
    for activation in recorded:
        value = expected[activation.name][0]
        np.testing.assert_allclose(activation.values, value, atol=2e-5)
        assert activation.mean == pytest.approx(float(value.mean()), abs=1e-5)
        assert activation.std == pytest.approx(float(value.std(correction=0)), abs=1e-5)
        assert activation.zero_share == pytest.approx(float((value == 0).double().mean()), abs=0.002)
    assert model.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_relu_that_works_in_place_leaves_the_convolution_before_it_as_it_was() -> None:
    model = narrow("fast_resnet8")
    conv, relu = collect_activations(model, picture())[1:3]
    assert conv.values.min() < 0
    np.testing.assert_array_equal(relu.values, np.maximum(conv.values, 0))


def test_a_preactivation_net_is_rectified_before_its_pooling() -> None:
    recorded = {
        activation.name: activation
        for activation in collect_activations(with_statistics(narrow("preact_resnet20")), picture())
    }
    assert recorded["layer3"].values.min() < 0
    assert recorded["last_relu"].values.min() == 0
    np.testing.assert_allclose(recorded["avgpool"].values, recorded["last_relu"].values.mean((1, 2)), rtol=1e-5)


def test_gray_images_and_bare_channels() -> None:
    model = build_model(Architecture("bottleneck", (1, 1), width=8, stem="cifar"), 4, in_channels=1)
    one, other = collect_activations(model, picture(1)), collect_activations(model, picture(1)[None])
    assert [activation.shape for activation in one] == [
        (1, 16, 16),
        (8, 16, 16),
        (8, 16, 16),
        (32, 16, 16),
        (64, 8, 8),
        (64,),
        (4,),
    ]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="one image"):
        collect_activations(model, picture(1)[None].expand(2, -1, -1, -1))


def test_half_precision_around_it_changes_nothing() -> None:
    model = narrow("resnet20")
    with torch.autocast("cpu", torch.bfloat16):
        inside = collect_activations(model, picture())
    for one, other in zip(inside, collect_activations(model, picture()), strict=True):
        np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "fast_resnet8"])
def test_an_accelerated_network_has_the_same_activations(name: str) -> None:
    model = with_statistics(narrow(name))
    plain = collect_activations(model, picture(), units=True)
    accelerate(model)
    for one, other in zip(plain, collect_activations(model, picture(), units=True), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
