"""Diagram of a network, read from its modules: a box for each layer of stem and head and for each unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from torch import nn

from resnetlab.models.blocks import PooledBlock, Unit, ZeroPad
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import stage_of

MOST_UNITS = 6  # boxes in a stage; above it equal neighbours become one box, with their number
NORM = "|"  # the place of a norm and its ReLU among the parts of a box


@dataclass(frozen=True)
class Box:
    """One box: its parts in the order of the forward pass, and its shortcut if it has one."""

    parts: tuple[str, ...]
    shortcut: Literal["", "identity", "projection", "padding"] = ""
    shortcut_layers: str = ""
    times: int = 1  # number of equal boxes in a row that are drawn as one

    @property
    def layers(self) -> tuple[str, ...]:
        """The parts without the norms."""
        return tuple(part for part in self.parts if part != NORM)


@dataclass(frozen=True)
class Section:
    """A part of the network whose output is one activation.

    `name` is the module that gives the output: conv1, relu, maxpool, layer1 and so on, last_relu, avgpool, fc.
    """

    name: str
    boxes: tuple[Box, ...]

    @property
    def stage(self) -> str:
        """The row of Table 1 that it belongs to."""
        return stage_of(self.name)


def sections(network: ResNet) -> list[Section]:
    """The network from its first layer to its last; modules without effect have no section. Weights are not read.

    >>> from resnetlab.models import build_model
    >>> [section.name for section in sections(build_model("resnet20", 10))]
    ['conv1', 'relu', 'layer1', 'layer2', 'layer3', 'avgpool', 'fc']
    """
    found = [
        Section("conv1", (Box((of_convolution(network.conv1),)),)),
        Section("relu", boxes_of_activation(network.bn1, network.relu)),
        Section("maxpool", boxes_of_pool(network.maxpool)),
    ]
    for index, stage in enumerate(network.stages):
        found.append(Section(f"layer{index + 1}", boxes_of_stage(stage)))
    found += [
        Section("last_relu", boxes_of_activation(network.last_bn, network.last_relu)),
        Section("avgpool", (Box(("average pool",)),)),
        Section("fc", (Box((f"linear, {network.fc.out_features:,}",)),)),
    ]
    return [section for section in found if section.boxes]


def count_shortcuts(network: ResNet) -> int:
    """The number of residual units, which is the number of additions.

    >>> from resnetlab.models import build_model
    >>> count_shortcuts(build_model("resnet34")), count_shortcuts(build_model("plain34"))
    (16, 0)
    """
    return sum(box.times for section in sections(network) for box in section.boxes if box.shortcut)


def of_convolution(conv: nn.Conv2d) -> str:
    """Kernel size, output channels, and stride and groups if they are not 1, as in the paper's Fig. 3.

    >>> of_convolution(nn.Conv2d(3, 64, 7, stride=2)), of_convolution(nn.Conv2d(8, 8, 3, groups=4))
    ('7×7, 64 /2', '3×3, 8 in 4 groups')
    """
    stride = f" /{conv.stride[0]}" if conv.stride[0] > 1 else ""
    groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    return f"{'×'.join(map(str, conv.kernel_size))}, {conv.out_channels}{stride}{groups}"


def boxes_of_activation(norm: nn.Module, relu: nn.Module) -> tuple[Box, ...]:
    wanted = (("norm", norm), ("ReLU", relu))
    words = [word for word, module in wanted if not isinstance(module, nn.Identity)]
    return (Box((" and ".join(words),)),) if words else ()


def boxes_of_pool(pool: nn.Module) -> tuple[Box, ...]:
    if isinstance(pool, nn.Identity):
        return ()
    assert isinstance(pool, nn.MaxPool2d)
    return (Box((f"{pool.kernel_size}×{pool.kernel_size} max pool /{pool.stride}",)),)


def boxes_of_stage(stage: nn.Sequential) -> tuple[Box, ...]:
    """The boxes of a stage; if there are more than `MOST_UNITS`, equal neighbours become one."""
    boxes = [box for unit in stage for box in boxes_of_unit(unit)]
    if len(boxes) > MOST_UNITS:
        boxes = [replace(box, times=len(list(equal))) for box, equal in groupby(boxes)]
    return tuple(boxes)


def boxes_of_unit(unit: nn.Module) -> tuple[Box, ...]:
    """One box, with a shortcut if the unit is residual; two if the shortcut begins inside the unit."""
    assert isinstance(unit, Unit)
    parts = [part for module in unit.children() for part in parts_of(module)]
    if isinstance(unit, PooledBlock):
        before = (parts[0], *(["2×2 max pool"] if isinstance(unit.pool, nn.MaxPool2d) else []), parts[1])
        return Box(before), Box(tuple(parts[2:]), "identity")
    if unit.last is None:
        return (Box(tuple(parts)),)
    return (around(tuple(parts), unit.get_submodule("downsample")),)


def parts_of(module: nn.Module) -> list[str]:
    if isinstance(module, nn.Conv2d):
        return [of_convolution(module)]
    return [NORM] if isinstance(module, nn.BatchNorm2d) else []


def around(parts: tuple[str, ...], shortcut: nn.Module) -> Box:
    if isinstance(shortcut, nn.Sequential):
        conv = shortcut[0]
        assert isinstance(conv, nn.Conv2d)
        return Box(parts, "projection", of_convolution(conv))
    if isinstance(shortcut, ZeroPad):
        return Box(parts, "padding", f"/{shortcut.stride}, {shortcut.new_channels} zero maps")
    return Box(parts, "identity")
