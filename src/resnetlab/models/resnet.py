"""The residual network: a stem, a few stages of residual units, a linear head.

Attribute names (conv1, bn1, layer1, downsample, fc) are torchvision's, so its checkpoints load unchanged.
"""

# torch types a module's call as Any
# mypy: no-warn-return-any

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from resnetlab.models.blocks import SHORTCUTS, UNITS
from resnetlab.models.stems import STEMS
from resnetlab.models.zoo import Architecture


class ResNet(nn.Module):
    """A network that maps images (N, in_channels, H, W), float and normalised, to logits (N, num_classes).

    `build_model` draws the weights from a seed; the constructor draws them from torch's global generator. He et al.
    2015 (Table 1 and Section 4.2), and 2016 for the pre-activation units.

    >>> import torch
    >>> from resnetlab.models import build_model
    >>> model, images = build_model("resnet20", num_classes=10), torch.zeros(2, 3, 32, 32)
    >>> model.features(images).shape, model(images).shape
    (torch.Size([2, 64]), torch.Size([2, 10]))
    """

    def __init__(self, architecture: Architecture, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.name = ""  # the name in the zoo, if it has one
        self.backbone_is_frozen = False

        unit, width = UNITS[architecture.unit], architecture.width
        conv1, maxpool = STEMS[architecture.stem](in_channels, width)
        self.conv1 = conv1
        # The output of a whitened stem has a variance of 1 already: it has a ReLU and no norm.
        is_whitened = architecture.stem == "whitened"
        self.bn1, self.relu = norm_and_relu(width, wanted=not unit.pre_activation and not is_whitened)
        if is_whitened:
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = maxpool

        channels = len(conv1.weight)
        for index, units in enumerate(architecture.units_per_stage):
            wide = architecture.channels(index)
            stride = 2 if index or unit.halves_at_once else 1
            stage = make_stage(architecture, channels, wide, units, stride=stride)
            self.add_module(f"layer{index + 1}", stage)
            channels = wide * unit.expansion

        # Pre-activation units end in a sum without norm and ReLU: those of the stem are here instead.
        self.last_bn, self.last_relu = norm_and_relu(channels, wanted=unit.pre_activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages layer1, layer2, … in order, each a sequence of units."""
        return [getattr(self, f"layer{index + 1}") for index in range(len(self.architecture.units_per_stage))]

    @property
    def depth(self) -> int:
        """The number of weighted layers, as in the name; shortcuts do not count (Table 1)."""
        layers = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        return sum("downsample" not in name for name in layers)

    def features(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to pooled embeddings (N, C), the input of the head."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self.stages:
            x = stage(x)
        return self.avgpool(self.last_relu(self.last_bn(x))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        return self.fc(self.features(images))

    def freeze_backbone(self) -> None:
        """Train only the head from now on; `train()` leaves the layers below it in evaluation mode."""
        self.backbone_is_frozen = True
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("fc."))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; layers that `freeze_backbone` froze stay in evaluation mode."""
        super().train(mode)
        if self.backbone_is_frozen:
            for name, child in self.named_children():
                child.train(mode and name == "fc")
        return self


def norm_and_relu(channels: int, *, wanted: bool) -> tuple[nn.Module, nn.Module]:
    """A batch norm and a ReLU, or two identities, which add no keys to the state dict."""
    return (nn.BatchNorm2d(channels), nn.ReLU(inplace=True)) if wanted else (nn.Identity(), nn.Identity())


def make_stage(
    architecture: Architecture, in_channels: int, channels: int, units: int, *, stride: int
) -> nn.Sequential:
    """A stage of `units` units: the first changes the resolution and the width, the others keep both."""
    unit, options = UNITS[architecture.unit], architecture.unit_options
    shortcut = SHORTCUTS[architecture.shortcut]
    first = unit(in_channels, channels, stride, shortcut, **options)
    rest = [unit(channels * unit.expansion, channels, 1, shortcut, **options) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)
