"""Every residual unit of an accelerated network in bf16, beside the same unit in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from resnetlab.kernels.accelerate import accelerate
from resnetlab.models import build_model
from resnetlab.models.blocks import Unit


def inputs_of_units(model: nn.Module, images: Tensor) -> list[tuple[str, Unit, Tensor]]:
    """The units of a network in order, each with its input in a bf16 forward pass."""
    found: list[tuple[str, Unit, Tensor]] = []
    units = {name: module for name, module in model.named_modules() if isinstance(module, Unit)}
    for name, unit in units.items():
        unit.register_forward_pre_hook(lambda module, given, name=name: found.append((name, module, given[0].detach())))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(images)
    return found


def run(unit: nn.Module, x: Tensor, grad: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """The output, the gradients of the input and of every parameter; and the gradient of the output."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype != torch.float64):
        y = unit(x)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    y.backward(grad.to(y.dtype))
    assert x.grad is not None
    return [y.detach(), x.grad, *[p.grad for p in unit.parameters() if p.grad is not None]], grad


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet20", 32),
        *(
            pytest.param(name, 32, marks=pytest.mark.slow)
            for name in ("resnet18", "fast_resnet8", "preact_resnet18", "resnet50")
        ),
    ],
)
def test_units_are_as_close_to_float64_as_torchs_own_bf16(name: str, side: int) -> None:
    model = build_model(name, 10, image_size=32).to(memory_format=torch.channels_last).train()
    if name == "fast_resnet8":  # its kernels start as identities, which every algorithm computes exactly
        for kernel in (module.weight for module in model.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(kernel, generator=torch.Generator().manual_seed(2))
    batch = 32 if name in ("resnet20", "fast_resnet8") else 8
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    units = inputs_of_units(model, images.to(memory_format=torch.channels_last))
    assert len(units) == sum(model.architecture.units_per_stage)
    for where, unit, x in units:
        alone = copy.deepcopy(unit)
        alone._forward_pre_hooks.clear()
        ours, grad = run(accelerate(copy.deepcopy(alone)), x, None)
        # All three are given the same maps and the same gradient, rounded to bf16.
        truth, _ = run(copy.deepcopy(alone).double(), x.double(), grad)
        theirs, _ = run(copy.deepcopy(alone), x, grad)
        assert len(ours) == len(truth) == len(theirs)
        for mine, other, exact in zip(ours, theirs, truth, strict=True):

            def error(values: Tensor, exact: Tensor = exact) -> float:
                return float((values.double() - exact).norm() / exact.norm().clamp_min(1e-12))

            # bf16 has 8 bits; near zero, a rounding decides on which side of a ReLU a pixel's gradient is.
            assert error(mine) < 0.15, where
            # Winograd's convolution rounds twice as often (kernels/winograd.py).
            assert error(mine) <= 2.25 * error(other) + 1e-3, where
