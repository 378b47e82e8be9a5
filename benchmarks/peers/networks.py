"""The compared networks in plain PyTorch, for packages that do not have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNITS = {"resnet20": 3, "resnet56": 9}  # per stage


class Block(nn.Module):
    """Two 3x3 convolutions around option A: subsample and pad with zero channels where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.padding = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.padding:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """Section 4.2 of He et al. (2015): three stages of `units` blocks at 16, 32 and 64 channels."""

    def __init__(self, units: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, before = [], 16
        for after in (16, 32, 64):
            for unit in range(units):
                blocks.append(Block(before, after, 2 if unit == 0 and after > 16 else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def with_small_stem(model: nn.Module) -> nn.Module:
    """Replace the stem of a ResNet by the usual one for small images: a 3x3 convolution without pooling."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def plain_network(name: str, stem: str, classes: int) -> nn.Module:
    """torchvision's network of that name, or the paper's CIFAR net as above."""
    if name in UNITS:
        return CifarResNet(UNITS[name], classes)
    from torchvision import models

    model = models.get_model(name, num_classes=classes)
    return with_small_stem(model) if stem == "cifar" else model
