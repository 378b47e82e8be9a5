"""Build a network from its name and a seed: the same seed gives the same bits."""

from __future__ import annotations

import math

import torch
from torch import nn

from resnetlab.errors import BadInput
from resnetlab.models.blocks import UNITS, PooledBlock, Unit
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture, is_count, resolve


def build_model(
    architecture: str | Architecture,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    stem: str = "auto",
    image_size: int | None = None,
    shortcut: str | None = None,
    zero_init: bool = False,
    seed: int = 0,
) -> ResNet:
    """Build a network on the CPU, in fp32 and training mode. No global random generator is used or changed.

    The network maps images (N, in_channels, H, W) to logits (N, num_classes).

    `architecture` is a name of the zoo or an `Architecture`. `stem`, `image_size` (pixels) and `shortcut` apply to a
    name only, as in `resolve`. `zero_init` starts every residual branch at zero (Goyal et al. 2017, 5.1).

    Raises `BadInput` for arguments that describe no network.

    >>> model = build_model("resnet20", num_classes=10)
    >>> model.depth, sum(p.numel() for p in model.parameters())
    (20, 269722)
    """
    if not isinstance(architecture, str | Architecture):
        raise BadInput(
            f"the architecture is {architecture!r}; give a name (`list_models` returns them) or an Architecture"
        )
    if isinstance(architecture, str):
        name, shape = architecture, resolve(architecture, stem=stem, image_size=image_size, shortcut=shortcut)
    elif (stem, shortcut) != ("auto", None):
        raise BadInput("stem and shortcut belong to a model's name; an Architecture brings its own")
    else:
        name, shape = "", architecture
    for what, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not is_count(count):
            raise BadInput(f"{what} is {count!r}; give a whole number from 1 up")
    if seed != 0 and not (is_count(seed) and seed < 2**63):
        raise BadInput(f"seed is {seed!r}; give a whole number from 0 to 2**63 - 1")
    if zero_init and UNITS[shape.unit].last is None:
        raise BadInput(f"{name or 'this net'} has no shortcuts that could carry the signal past zeros; drop zero_init")

    with torch.device("meta"):  # shapes only: nothing is drawn
        model = ResNet(shape, num_classes, in_channels)
    take_memory(model)
    initialize(model, torch.Generator().manual_seed(seed), zero_init=zero_init)
    model.name = name
    return model


def take_memory(model: nn.Module) -> None:
    """Replace the meta tensors of a model, which only have a shape, by uninitialised ones in memory.

    Weights and running statistics are float32, whatever torch's default is.

    `model.to_empty(device="cpu")` does the same and imports a package for symbolic shapes: 0.3 s and 34 MB.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            weight = torch.empty(parameter.shape, dtype=torch.float32)
            setattr(module, name, nn.Parameter(weight, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            kind = torch.float32 if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, torch.empty(buffer.shape, dtype=kind))


def initialize(model: nn.Module, generator: torch.Generator, *, zero_init: bool = False) -> None:
    """Initialise every parameter and buffer, drawing from `generator` alone.

    Convolutions as in He et al. 2015b ("Delving deep", 2.2, by fan-out); norms as the identity; the head uniform
    within 1 / sqrt(fan-in), as in `nn.Linear`.

    >>> layer = nn.BatchNorm2d(2, device="meta").to_empty(device="cpu")
    >>> initialize(layer, torch.Generator())
    >>> layer.running_var
    tensor([1., 1.])
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            module.reset_running_stats()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    for unit in model.modules():
        if isinstance(unit, PooledBlock):  # both convolutions start as the identity (Jordan 2024)
            for kernel in (unit.conv1.weight, unit.conv2.weight):
                nn.init.dirac_(kernel.data[: kernel.shape[1]])
    if zero_init:
        for unit in model.modules():
            if isinstance(unit, Unit) and unit.last is not None:
                nn.init.zeros_(unit.get_submodule(unit.last).get_parameter("weight"))
