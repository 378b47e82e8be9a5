"""`accelerate` changes the classes of modules and nothing else: not the numbers, not the keys, not what others see."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import resnetlab
from resnetlab.errors import BadInput
from resnetlab.kernels.accelerate import accelerate, count_accelerated, restore
from resnetlab.kernels.convolution import FastConv3x3
from resnetlab.kernels.library import library
from resnetlab.kernels.swap import Fast
from resnetlab.kernels.units import FastResNet
from resnetlab.models import ARCHITECTURES, ResNet, build_model
from resnetlab.models.blocks import BasicBlock
from resnetlab.runtime import Runtime

TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)
QUICK = {"resnetlab resnet20", "resnetlab preact_resnet20", "torchvision resnet18"}  # the others are slow tests
needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels")


def ours(name: str) -> nn.Module:
    model = build_model(name, 10, image_size=32, seed=3)
    if name == "fast_resnet8":  # its kernels start as identities, which every algorithm computes exactly
        for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, generator=torch.Generator().manual_seed(2))
    return model


def theirs(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torchvision.models.get_model(name, num_classes=10)


def networks() -> list[object]:
    named = [(f"resnetlab {name}", ours, name) for name in ARCHITECTURES]
    named += [(f"torchvision {name}", theirs, name) for name in TORCHVISION]
    marks = [[] if label in QUICK else [pytest.mark.slow] for label, _, _ in named]
    return [
        pytest.param(make, name, id=label, marks=mark) for (label, make, name), mark in zip(named, marks, strict=True)
    ]


def train_step(model: nn.Module, *, precision: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """One step's logits, gradients and running statistics; bfloat16 by autocast."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if precision == torch.float64:
        model, images = model.double(), images.double()
    model.train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = model(images.to(memory_format=torch.channels_last))
    logits = logits if precision == torch.float64 else logits.float()
    nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    found = {"logits": logits.detach()}
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {f"buffer {name}": b for name, b in model.named_buffers()}


def error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-12))


@needs_kernels
@pytest.mark.parametrize(("make", "name"), networks())
def test_a_training_step_is_as_exact_as_torchs(make, name: str) -> None:
    """In bfloat16 against float64, and in fp32 to the bit."""
    plain = make(name)
    swapped = accelerate(copy.deepcopy(plain))
    exact = train_step(copy.deepcopy(plain), precision=torch.float64)
    by_torch = train_step(copy.deepcopy(plain), precision=torch.bfloat16)
    by_us = train_step(copy.deepcopy(swapped), precision=torch.bfloat16)
    assert by_us.keys() == by_torch.keys() == exact.keys()
    # All gradients as one vector, because a rounding before a ReLU decides about single entries; Winograd's
    # convolution rounds twice as often as a plain one.
    for kind in ("logits", "gradient", "buffer"):
        mine, reference, truth = (
            torch.cat([v.double().flatten() for k, v in step.items() if k.startswith(kind) and "tracked" not in k])
            for step in (by_us, by_torch, exact)
        )
        assert error(mine, truth) <= 2.25 * error(reference, truth) + 1e-3, kind
    for key in exact:
        if "tracked" in key:
            assert torch.equal(by_us[key], by_torch[key])
        else:
            assert error(by_us[key], exact[key]) <= 3.5 * error(by_torch[key], exact[key]) + 0.02, key
    for key, value in train_step(plain).items():
        if key == "logits":
            reference = value
            again = train_step(swapped)
        assert torch.equal(again[key], value), key
    assert reference.isfinite().all()


@pytest.mark.parametrize(
    ("make", "name"), [(ours, "resnet18"), (ours, "fast_resnet8"), (ours, "preact_resnet18"), (theirs, "resnet50")]
)
def test_restore_gives_back_every_class(make, name: str) -> None:
    model = make(name)
    classes = [type(module) for module in model.modules()]
    keys = list(model.state_dict())
    assert accelerate(model) is model
    assert [type(module) for module in model.modules()] != classes
    assert all(isinstance(module, kind) for module, kind in zip(model.modules(), classes, strict=True))
    assert list(model.state_dict()) == keys
    swapped = [type(module) for module in model.modules()]
    assert [type(module) for module in accelerate(model).modules()] == swapped  # twice is once
    assert restore(model) is model
    assert [type(module) for module in model.modules()] == classes
    assert count_accelerated(model) == 0


def test_numbers_of_swapped_modules_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="resnetlab"):
        resnetlab.accelerate(build_model("resnet18"))
    assert caplog.messages == ["accelerated 35 of 83 modules"]


def test_parameters_hooks_and_attributes_are_those_of_before() -> None:
    model = build_model("resnet20", 10)
    model.layer1[0].register_forward_hook(lambda *_: None)
    parameters = [id(parameter) for parameter in model.parameters()]
    before = [dict(module.__dict__) for module in model.modules()]
    accelerate(model)
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert [module.__dict__ for module in model.modules()] == before


@pytest.mark.parametrize("function", [accelerate, restore, count_accelerated])
def test_what_is_no_module_is_refused(function: Callable[[Any], object]) -> None:
    with pytest.raises(BadInput, match="model is a str"):
        function("resnet18")


def test_only_exact_classes_are_swapped() -> None:
    class Own(BasicBlock):
        pass

    class Convolution(nn.Conv2d):
        pass

    model = nn.Sequential(Own(16, 16, 1), Convolution(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 5))
    accelerate(model)
    assert [type(module) for module in model] == [Own, Convolution, nn.Conv2d]
    assert type(model[0].conv1) is FastConv3x3  # its parts are torch's own
    unusual = [
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, dilation=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(16, 16, 3, padding="same", bias=False),
        nn.Conv2d(16, 16, 3, stride=3, padding=1, bias=False),
        nn.Conv2d(16, 16, (3, 1), padding=1, bias=False),
    ]
    assert count_accelerated(accelerate(nn.ModuleList(unusual))) == 0


def test_a_copy_is_accelerated_and_a_pickle_is_plain() -> None:
    model = accelerate(build_model("resnet20", 10))
    other = copy.deepcopy(model)
    assert type(other) is FastResNet
    assert count_accelerated(other) == count_accelerated(model)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
    for made in (pickle.loads(pickle.dumps(model)), torch.load(saved(model), weights_only=False)):
        assert type(made) is ResNet
        assert count_accelerated(made) == 0
        assert all(torch.equal(*pair) for pair in zip(made.parameters(), model.parameters(), strict=True))
    theirs_again = pickle.loads(pickle.dumps(accelerate(theirs("resnet18"))))
    assert type(theirs_again) is torchvision.models.ResNet


def saved(model: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_a_runtime_accelerates_for_training_in_bfloat16_alone() -> None:
    bf16, fp32 = Runtime(torch.device("cpu"), torch.bfloat16), Runtime(torch.device("cpu"))
    assert count_accelerated(bf16.place(build_model("resnet20", 10), training=True)) > 0
    assert count_accelerated(bf16.place(build_model("resnet20", 10))) == 0
    assert count_accelerated(fp32.place(build_model("resnet20", 10), training=True)) == 0


def test_every_fast_class_is_a_sub_class_that_adds_no_state() -> None:
    names = ("resnet18", "resnet50", "plain20", "preact_resnet18", "fast_resnet8", "resnet20")
    models = [accelerate(build_model(name, 10, image_size=32)) for name in names]
    found = {type(module) for model in models for module in model.modules() if isinstance(module, Fast)}
    assert len(found) == 11
    for kind in found:
        assert issubclass(kind, kind.plain)
        assert not hasattr(kind, "__slots__") or not kind.__slots__
