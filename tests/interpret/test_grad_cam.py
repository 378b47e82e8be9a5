"""Grad-CAM against its formula, worked out by brute force, and against what it must be for a linear head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnetlab.interpret.grad_cam import grad_cam
from resnetlab.models import build_model
from resnetlab.models.resnet import ResNet


def network(name: str = "resnet20", seed: int = 0) -> ResNet:
    """A small network in float64, with norms that have seen something."""
    model = build_model(name, 3, image_size=16, seed=seed).double()
    model.train()
    for _ in range(3):
        model(torch.randn(16, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def stage_output(model: ResNet, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = model.stages[-1].register_forward_hook(lambda *given: kept.append(given[-1].detach().clone()))
    with torch.no_grad():
        model(images)
    hook.remove()
    return kept[0]


def logits_from(model: ResNet, activation: Tensor) -> Tensor:
    """What the rest of the network makes of the last stage's output."""
    return model.fc(model.avgpool(model.last_relu(model.last_bn(activation.clone()))).flatten(1))


def enlarged(heat: Tensor, size: int) -> np.ndarray:
    """Bilinear, without corners, and scaled to a maximum of 1."""
    large = nn.functional.interpolate(heat[None, None], (size, size), mode="bilinear")[0, 0]
    return np.asarray(large / large.max() if large.max() > 0 else large)


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20"])
def test_maps_are_the_papers_formula_with_gradients_by_finite_differences(name: str) -> None:
    """Equations 1 and 2: each channel, each position, one at a time."""
    model, images, step = network(name), pictures(1), 1e-6
    activation = stage_output(model, images)
    for wanted in range(3):
        heat = torch.zeros(activation.shape[2:], dtype=torch.float64)
        for channel in range(activation.shape[1]):
            slopes = []
            for row in range(activation.shape[2]):
                for column in range(activation.shape[3]):
                    up, down = activation.clone(), activation.clone()
                    up[0, channel, row, column] += step
                    down[0, channel, row, column] -= step
                    with torch.no_grad():
                        difference = logits_from(model, up) - logits_from(model, down)
                    slopes.append(float(difference[0, wanted]) / (2 * step))
            heat += np.mean(slopes) * activation[0, channel]
        expected = enlarged(heat.clamp(min=0), 16)
        np.testing.assert_allclose(grad_cam(model, images, torch.tensor([wanted]))[0], expected, atol=2e-5)


def test_with_a_linear_head_it_is_class_activation_mapping() -> None:
    """Zhou et al. (2016): the weights of the head, applied at each position."""
    model, images, classes = network(), pictures(3), torch.tensor([0, 2, 1])
    activation = stage_output(model, images)
    with torch.no_grad():
        heat = torch.einsum("nc,nchw->nhw", model.fc.weight[classes], activation).relu()
    expected = [enlarged(one, 16) for one in heat]
    np.testing.assert_allclose(grad_cam(model, images, classes), expected, atol=1e-6)


def test_images_do_not_change_each_others_maps() -> None:
    model, images, classes = network(), pictures(3), torch.tensor([2, 0, 2])
    together = grad_cam(model, images, classes)
    alone = [grad_cam(model, images[i : i + 1], classes[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_without_evidence_for_a_class_the_map_is_zero_and_not_nan() -> None:
    model = network()
    with torch.no_grad():
        model.fc.weight[1] = -model.fc.weight[1].abs()  # what comes out of a ReLU can only speak against it
    maps = grad_cam(model, pictures(), torch.tensor([1, 1]))
    assert not maps.any()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_was(*, frozen: bool, training: bool) -> None:
    model = network()
    if frozen:
        model.freeze_backbone()
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # as a caller might be
        maps = grad_cam(model, pictures(), torch.tensor([0, 1]))
    assert maps.shape == (2, 16, 16)
    assert maps.min() >= 0
    assert maps.max() == 1
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.stages[-1]._forward_hooks
