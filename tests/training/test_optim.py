"""The optimisers are torch's, with the right parameters in the right group."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

from resnetlab.errors import BadInput
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.training.optim import OPTIMIZERS, make_optimizer

TINY = Architecture("basic", (1, 1), width=8, stem="cifar")


def network() -> ResNet:
    return build_model(TINY, 3).to(memory_format=torch.channels_last)


def train(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """A few steps on the same noise, each at another learning rate."""
    for seed in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / (seed + 1)
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


ORACLES: dict[str, tuple[dict[str, Any], Callable[[Any], optim.Optimizer]]] = {
    "sgd": (
        {"momentum": 0.8, "nesterov": True},
        lambda params: optim.SGD(params, 0.02, momentum=0.8, nesterov=True, weight_decay=0.01, foreach=False),
    ),
    "sgd without momentum": (
        {"momentum": 0.0},
        lambda params: optim.SGD(params, 0.02, weight_decay=0.01, foreach=False),
    ),
    "adam": (
        {"betas": (0.8, 0.95)},
        lambda params: optim.Adam(params, 0.02, betas=(0.8, 0.95), weight_decay=0.01, foreach=False),
    ),
    "adamw": (
        {"betas": (0.8, 0.95)},
        lambda params: optim.AdamW(params, 0.02, betas=(0.8, 0.95), weight_decay=0.01, foreach=False),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_the_fused_update_equals_the_plain_one(name: str) -> None:
    options, make = ORACLES[name]
    ours, theirs = network(), network()
    train(ours, make_optimizer(ours, name.split(maxsplit=1)[0], lr=0.02, weight_decay=0.01, **options))
    train(theirs, make(theirs.parameters()))
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_can_be_spared_the_decay(name: str) -> None:
    model = network()
    decayed, spared = make_optimizer(model, name, lr=0.1, weight_decay=0.01, decay_norms=False).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert set(map(id, decayed["params"])) == set(map(id, matrices))
    assert set(map(id, spared["params"])) == {id(p) for p in model.parameters()} - set(map(id, matrices))


def test_without_a_gradient_only_what_decays_shrinks() -> None:
    model = network()
    nn.init.constant_(model.fc.bias, 1.0)
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, "sgd", lr=0.1, weight_decay=0.5, decay_norms=False, momentum=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay_norms", [True, False])
def test_frozen_parameters_are_left_out_and_stay_as_they_were(name: str, decay_norms: bool) -> None:
    model = network()
    model.freeze_backbone()
    optimizer = make_optimizer(model, name, lr=0.1, weight_decay=0.1, decay_norms=decay_norms)
    inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert inside == {id(model.fc.weight), id(model.fc.bias)}
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"fc.weight", "fc.bias"}


def test_an_unknown_optimiser_is_explained() -> None:
    with pytest.raises(BadInput, match="unknown optimiser 'adamv'; did you mean 'adam"):
        make_optimizer(network(), "adamv", lr=0.1)


TRAINS = """
import sys, torch
from resnetlab.models import build_model
from resnetlab.training.optim import OPTIMIZERS, make_optimizer
for name in OPTIMIZERS:
    model = build_model("resnet20", 3)
    optimizer = make_optimizer(model, name, lr=0.01, decay_norms=False)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(2):
        model(torch.randn(2, 3, 16, 16)).sum().backward()
        scaler.step(optimizer)
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    print(name, *[part for part in ("torch._dynamo", "torch._inductor", "sympy", "triton") if part in sys.modules])
"""


@pytest.mark.slow
def test_training_imports_no_compiler() -> None:
    """torch's optimisers do: 1 s and 100 MB before the first step."""
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, list(OPTIMIZERS)), done.stderr
