"""Residual units, y = F(x) + x (He et al. 2015, Fig. 5; 2016, Fig. 4e), and the shortcuts around them.

Every unit maps x (N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride).
Every ReLU of a unit is a module of its own, because a shared module breaks quantisation of a traced graph. A ReLU works
in place if it overwrites a new tensor that no gradient needs.
"""

# torch types a module's call as Any
# mypy: no-warn-return-any

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
Shortcut = Callable[[int, int, int, Norm], nn.Module]  # (in_channels, out_channels, stride, norm) -> module


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with padding 1 and no bias: the batch norm that follows would cancel a bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without a bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class ZeroPad(nn.Module):
    """Subsample, then add channels of zeros: (N, C, H, W) to (N, C + new_channels, H / stride, W / stride).

    >>> ZeroPad(16, 32, stride=2)
    ZeroPad(new_channels=16, stride=2)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Store the number of new channels and the stride; there are no parameters."""
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return every `stride`-th pixel of each row and column, with zeros in the new channels."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


def zero_pad(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:  # noqa: ARG001
    """Option A (He et al. 2015, 3.3): the identity, padded with zeros where the shape changes; no parameters."""
    same_shape = stride == 1 and in_channels == out_channels
    return nn.Identity() if same_shape else ZeroPad(in_channels, out_channels, stride)


def projection(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """Option B: the identity where the shape allows it, a 1x1 convolution elsewhere."""
    same_shape = stride == 1 and in_channels == out_channels
    return nn.Identity() if same_shape else projection_everywhere(in_channels, out_channels, stride, norm)


def projection_everywhere(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """Option C: a 1x1 convolution and a norm, even where the identity would fit."""
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), norm(out_channels))


SHORTCUTS: dict[str, Shortcut] = {"A": zero_pad, "B": projection, "C": projection_everywhere}


class Unit(nn.Module):
    """The base class of all units.

    The constructor of a unit takes `in_channels`, `channels` (before the expansion), `stride` (1 or 2), and `shortcut`,
    one of the functions in `SHORTCUTS`.
    """

    depth: ClassVar[int]  # weighted layers of the residual branch; the shortcut does not count
    expansion: ClassVar[int] = 1  # output channels / `channels`
    pre_activation: ClassVar[bool] = False  # norm and ReLU come before the convolutions, and none after the addition
    halves_at_once: ClassVar[bool] = False  # the first stage halves the resolution, too
    last: ClassVar[str | None]  # the last module of the residual branch: with its weight at 0, F(x) = 0


class BasicBlock(Unit):
    """3x3 -> 3x3: the unit of ResNet-18 and ResNet-34 (He et al. 2015, Fig. 5, left).

    >>> [name for name, _ in BasicBlock(64, 64, 1).named_children()]
    ['conv1', 'bn1', 'relu1', 'conv2', 'bn2', 'relu2', 'downsample']
    """

    depth = 2
    last = "bn2"

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut = projection) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, channels, stride, nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu2(residual + self.downsample(x))


class Bottleneck(Unit):
    """1x1 -> 3x3 -> 1x1: the unit of ResNet-50 and deeper networks (He et al. 2015, Fig. 5, right).

    The 3x3 convolution has the stride ("v1.5"), as in torchvision; in the paper the first 1x1 has it. With `groups`
    groups of `group_width` channels it is also the unit of ResNeXt and Wide ResNet.

    >>> Bottleneck(256, 64, 1, groups=32, group_width=4).conv2.weight.shape
    torch.Size([128, 4, 3, 3])
    """

    depth = 3
    expansion = 4
    last = "bn3"

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: Shortcut = projection,
        *,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        inner = channels * group_width // 64 * groups  # ResNeXt and Wide ResNet only widen the 3x3 convolution
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu3(residual + self.downsample(x))


class PlainBlock(Unit):
    """The two convolutions of `BasicBlock` without the addition: the paper's baseline (Fig. 3, middle).

    `shortcut` is accepted and ignored.
    """

    depth = 2
    last = None

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut = projection) -> None:  # noqa: ARG002
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)))


class PooledBlock(Unit):
    """3x3 -> max pooling -> 3x3, with an identity shortcut around the second convolution.

    Every stage halves its maps by pooling, including the first one. Designed for time to accuracy, after the layers of
    Jordan (2024), which have no shortcut. `shortcut` is accepted and ignored.
    """

    depth = 2
    last = "bn2"
    halves_at_once = True

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut = projection) -> None:  # noqa: ARG002
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels)
        self.pool = nn.MaxPool2d(2) if stride == 2 else nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.pool(self.conv1(x))))
        residual = self.bn2(self.conv2(x))
        return self.relu2(residual + x)


class PreActBlock(Unit):
    """norm -> ReLU -> 3x3, twice, then the addition without a ReLU (He et al. 2016, "Identity mappings", Fig. 4e).

    An identity shortcut adds x itself, before the norm. Where the shape changes, the shortcut is applied to the
    activated input, and its projection has no norm, as in the authors' published code.
    """

    depth = 2
    pre_activation = True
    last = "conv2"

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut = projection) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()  # not in place: with an identity as bn1 it would overwrite x, which the shortcut adds
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.downsample = shortcut(in_channels, channels, stride, nn.Identity)
        self.carries_x = isinstance(self.downsample, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return residual + self.downsample(x if self.carries_x else activated)


UNITS: dict[str, type[BasicBlock | Bottleneck | PlainBlock | PreActBlock | PooledBlock]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "plain": PlainBlock,
    "preact": PreActBlock,
    "pooled": PooledBlock,
}
