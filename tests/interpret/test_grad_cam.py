"""Grad-CAM against its formula, worked out by brute force, and against what it must be for a linear head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnetlab.interpret.grad_cam import cam_stage, grad_cam, logits_from_stage, map_sizes, stage_outputs
from resnetlab.models import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture


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
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_several_classes_of_an_image_at_once_are_the_maps_of_each() -> None:
    model, images, classes = network(), pictures(2), torch.tensor([[0, 2], [1, 1]])
    together = grad_cam(model, images, classes)
    assert together.shape == (2, 2, 16, 16)
    for column in range(2):
        np.testing.assert_allclose(together[:, column], grad_cam(model, images, classes[:, column]), atol=1e-6)


@pytest.mark.parametrize("unit", ["basic", "bottleneck", "plain", "preact", "pooled"])
def test_parts_of_the_forward_pass_give_the_networks_logits(unit: str) -> None:
    stem, widths = ("whitened", (16, 16, 16)) if unit == "pooled" else ("cifar", ())
    shortcut = "B" if unit in ("bottleneck", "preact") else "A"
    model = build_model(Architecture(unit, (1, 2, 1), 16, widths, stem=stem, shortcut=shortcut), 3).eval()
    images = pictures(2).float()
    with torch.no_grad():
        for stage, maps in enumerate(stage_outputs(model, images)):
            torch.testing.assert_close(logits_from_stage(model, maps, stage), model(images))


@pytest.mark.parametrize(("name", "image_size"), [("resnet20", 8), ("resnet18", 32), ("resnet18", 96), ("resnet20", 2)])
def test_the_stage_is_the_last_one_with_maps_of_four_by_four_positions(name: str, image_size: int) -> None:
    """Sizes of the real maps; without any of that size it is the last of the largest."""
    model, images = build_model(name, 2, image_size=image_size).eval(), torch.zeros(1, 3, image_size, image_size)
    with torch.no_grad():
        sizes = [maps.shape[-1] for maps in stage_outputs(model, images)]
    stage = cam_stage(model, image_size)
    assert map_sizes(model.architecture, image_size) == tuple(sizes)
    assert (stage.size, stage.last_size) == (sizes[stage.index], sizes[-1])
    assert stage.size >= min(4, max(sizes))
    assert all(size < min(4, max(sizes)) for size in sizes[stage.index + 1 :])


def test_with_maps_of_one_position_an_earlier_stage_points_at_the_place() -> None:
    """A hand computation with autograd: the first stage of ResNet-18 at 8 pixels, whose last maps are 1×1."""
    model = build_model("resnet18", 3, image_size=8, seed=3).double().eval()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert map_sizes(model.architecture, 8) == (8, 4, 2, 1)
    assert cam_stage(model, 8).name == "layer2"
    activation = model.layer2(model.layer1(model.relu(model.bn1(model.conv1(images))))).detach().requires_grad_()
    logit = model.fc(model.layer4(model.layer3(activation)).mean((2, 3)))[0, 1]
    (gradient,) = torch.autograd.grad(logit, activation)
    heat = (gradient.mean((2, 3))[0][:, None, None] * activation.detach()[0]).sum(0).clamp(min=0)
    np.testing.assert_allclose(grad_cam(model, images, torch.tensor([1]))[0], enlarged(heat, 8), atol=1e-6)


def test_it_works_in_inference_mode() -> None:
    model, images, classes = network(), pictures(), torch.tensor([0, 1])
    expected = grad_cam(model, images, classes)
    with torch.inference_mode():
        maps = grad_cam(model, images * 1, classes)
    np.testing.assert_array_equal(maps, expected)


def test_threads_with_one_network_get_the_same_maps_as_alone() -> None:
    model, images = network(), pictures(8)
    jobs = [(images[i % 8][None], torch.tensor([i % 3])) for i in range(24)]
    expected = [grad_cam(model, *job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(lambda job: grad_cam(model, *job), jobs))
    np.testing.assert_array_equal(maps, expected)


def test_no_images_are_no_maps() -> None:
    assert grad_cam(network(), pictures(0), torch.zeros((0, 2), dtype=torch.long)).shape == (0, 2, 16, 16)
