"""Stems: how a network first looks at its pixels.

A stem is two modules, named after their keys in torchvision's checkpoints: `conv1` and `maxpool`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from resnetlab.models.convolutions import conv3x3

Stem = Callable[[int, int], tuple[nn.Module, nn.Module]]  # (in_channels, out_channels) -> (conv1, maxpool)


def imagenet(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    """7x7/2, then a 3x3/2 max pool: 224x224 becomes 56x56 (He et al. 2015, Table 1).

    >>> imagenet(3, 64)[0].weight.shape
    torch.Size([64, 3, 7, 7])
    """
    conv1 = nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3, bias=False)
    return conv1, nn.MaxPool2d(3, stride=2, padding=1)


def cifar(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    """One 3x3 and no pooling: 32x32 stays 32x32 (He et al. 2015, Section 4.2).

    >>> cifar(3, 16)[0].weight.shape
    torch.Size([16, 3, 3, 3])
    """
    return conv3x3(in_channels, out_channels), nn.Identity()


STEMS: dict[str, Stem] = {"imagenet": imagenet, "cifar": cifar}
