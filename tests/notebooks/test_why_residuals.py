"""What notebooks/why_residuals.py measures with is right: removal, both branches of a unit, gradients, sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime

Tools = dict[str, Any]
CPU = Runtime(torch.device("cpu"))


def normalise(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def tools(executed: Callable[..., Tools]) -> Tools:
    return executed("why_residuals", "tools", runtime=CPU, device=CPU.device, normalise=normalise)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (7, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(7) % 3


def small(unit: str = "basic", shortcut: str = "A") -> ResNet:
    """A network that is asked, not trained, with norms that do something."""
    network = build_model(Architecture(unit, (2, 2), width=16, stem="cifar", shortcut=shortcut), 3).eval()
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight.data, module.bias.data):
                values.uniform_(0.5, 1.5, generator=generator)
    return network


@torch.inference_mode()
def skipping(network: ResNet, removed: set[str], inputs: Tensor) -> Tensor:
    """The forward pass written out, with the correction F(x) of the removed units left away."""
    x = network.relu(network.bn1(network.conv1(inputs)))
    for s, stage in enumerate(network.stages, 1):
        for u, unit in enumerate(stage):
            if f"layer{s}.{u}" not in removed:
                x = unit(x)
            elif hasattr(unit, "downsample"):
                x = torch.relu(unit.downsample(x))
    return network.fc(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", "ABC")
@pytest.mark.parametrize("removed", [{"layer1.1"}, {"layer2.0"}, {"layer1.0", "layer2.1"}])
def test_a_network_without_units_equals_a_forward_pass_that_skips_them(
    tools: Tools, images: Tensor, shortcut: str, removed: set[str]
) -> None:
    network, inputs = small(shortcut=shortcut), normalise(images)
    with torch.inference_mode():
        logits, whole = tools["without"](network, *removed)(inputs), network(inputs)
    assert torch.allclose(logits, skipping(network, removed, inputs), atol=1e-5)
    assert torch.allclose(whole, skipping(network, set(), inputs), atol=1e-5), "the network itself has all its units"
    assert not torch.allclose(logits, whole, atol=1e-3)


def test_a_plain_network_loses_a_unit_to_the_identity(tools: Tools, images: Tensor) -> None:
    network, inputs = small("plain"), normalise(images)
    with torch.inference_mode():
        logits = tools["without"](network, "layer1.1")(inputs)
    assert torch.allclose(logits, skipping(network, {"layer1.1"}, inputs), atol=1e-5)
    with pytest.raises(ValueError, match=r"layer2\.0 changes the shape"):
        tools["without"](network, "layer2.0")


def test_where_the_shape_stays_the_shortcut_alone_passes_x_on(tools: Tools) -> None:
    x = torch.rand(2, 16, 8, 8)
    unit = tools["without"](small(), "layer1.1").get_submodule("layer1.1")
    assert torch.equal(unit(x), x)
    assert [tools["keeps_shape"](unit) for unit in tools["units_of"](small()).values()] == [True, True, False, True]


@pytest.mark.parametrize("shortcut", "ABC")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("half", [False, True])  # in training, and half precision, some CPUs fuse what has no hook
def test_the_branches_of_each_unit_add_up_to_its_output(
    tools: Tools, images: Tensor, shortcut: str, training: bool, half: bool
) -> None:
    network = small(shortcut=shortcut).train(training)
    outputs: list[Tensor] = []
    hooks = [u.register_forward_hook(lambda m, i, o: outputs.append(o)) for u in tools["units_of"](network).values()]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = tools["branches"](network, normalise(images))
    for hook in hooks:
        hook.remove()
    assert list(found) == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    for (residual, shortcut_), output in zip(found.values(), outputs, strict=True):
        assert torch.equal(torch.relu(residual + shortcut_), output)
    assert not any(module._forward_hooks for module in network.modules())


def test_corrections_are_the_mean_over_single_images(tools: Tools, images: Tensor) -> None:
    network = small()
    found = tools["corrections"](network, images, batch=3)
    single = [tools["branches"](network, normalise(image[None])) for image in images]
    for name, ratio in found.items():
        norms = [[float(branch.norm()) for branch in branches[name]] for branches in single]
        assert ratio == pytest.approx(np.mean([residual / shortcut for residual, shortcut in norms]), rel=1e-4)


def test_zero_initialised_units_add_nothing(tools: Tools, images: Tensor) -> None:
    network = build_model("resnet20", 3, zero_init=True).train()
    assert not any(residual.any() for residual, _ in tools["branches"](network, normalise(images)).values())


@pytest.mark.parametrize("unit", ["basic", "plain"])
def test_relative_gradients_are_those_of_backward(tools: Tools, images: Tensor, labels: Tensor, unit: str) -> None:
    network = small(unit)
    loss, found = tools["relative_gradients"](network, normalise(images), labels)
    assert all(parameter.grad is None for parameter in network.parameters())
    expected = nn.functional.cross_entropy(network(normalise(images)), labels)
    expected.backward()
    kernels = [weight for name, weight in network.named_parameters() if weight.shape[2:] == (3, 3)]
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert found == pytest.approx(
        [float(w.grad.norm() / w.detach().norm()) for w in kernels if w.grad is not None], rel=1e-4
    )
    assert len(found) == 9


def test_a_network_without_norms_has_none(tools: Tools, images: Tensor) -> None:
    network = tools["without_norms"](small(shortcut="B"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert network(normalise(images)).shape == (7, 3)


def test_accuracy_counts_every_image_once(tools: Tools, images: Tensor) -> None:
    network = small()
    with torch.inference_mode():
        said = network(normalise(images)).argmax(1)
    wrong_at_two = said.clone()
    wrong_at_two[[0, 6]] += 1
    assert tools["accuracy"](network.train(), images, said, batch=3) == 100
    assert tools["accuracy"](network, images, wrong_at_two, batch=3) == pytest.approx(100 * 5 / 7)


def stored(label: str, train_accuracy: float, test_accuracy: float = 0.8) -> Any:
    from helpers import Run  # in the notebooks' folder

    epochs = [{"epoch": 1.0, "train_accuracy": train_accuracy, "val_accuracy": 0.5, "val_loss": 1.0}]
    return Run(label, {"model": {"name": label}}, epochs, {"accuracy": test_accuracy, "images": 5000})


@pytest.mark.parametrize(
    ("kind", "deep", "shallow", "said"),
    [
        ("plain", 0.7, 0.8, "+10.00 ± 1.69 points. **The degradation appears.**"),
        ("plain", 0.8, 0.7, "−10.00 ± 1.69 points. **No degradation at this budget.**"),
        ("plain", 0.795, 0.8, "+0.50 ± 1.58 points. **No difference detected.**"),
        ("residual", 0.9, 0.8, "points. **The deeper network is better.**"),
        ("residual", 0.8, 0.805, "points. **No difference detected.**"),
        ("residual", 0.7, 0.8, "points. **The deeper network is worse here, too.**"),
    ],
)
def test_the_verdict_follows_from_the_figures(tools: Tools, kind: str, deep: float, shallow: float, said: str) -> None:
    assert tools["verdict"](kind, stored("deep", deep), stored("shallow", shallow)).endswith(said)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (0.85, "x against y: +5.00 ± 1.49 points of test accuracy; more than the choice of images explains."),
        (0.79, "x against y: −1.00 ± 1.58 points of test accuracy; no difference detected."),
    ],
)
def test_two_runs_are_compared_with_an_interval(tools: Tools, new: float, said: str) -> None:
    assert tools["compared"]("x", "y", stored("new", 0.5, new), stored("old", 0.5, 0.8)) == said
