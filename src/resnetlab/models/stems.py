"""Stems: the first layers of a network, from pixels to feature maps.

A stem is two modules with the names that they have in torchvision's checkpoints: `conv1` and `maxpool`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnetlab.models.blocks import conv3x3

Stem = Callable[[int, int], tuple[nn.Conv2d, nn.Module]]  # (in_channels, out_channels) -> (conv1, maxpool)


def imagenet(in_channels: int, out_channels: int) -> tuple[nn.Conv2d, nn.Module]:
    """7x7/2, then a 3x3/2 max pool: 224x224 becomes 56x56 (He et al. 2015, Table 1).

    >>> imagenet(3, 64)[0].weight.shape
    torch.Size([64, 3, 7, 7])
    """
    conv1 = nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3, bias=False)
    return conv1, nn.MaxPool2d(3, stride=2, padding=1)


def cifar(in_channels: int, out_channels: int) -> tuple[nn.Conv2d, nn.Module]:
    """One 3x3 and no pooling: 32x32 stays 32x32 (He et al. 2015, Section 4.2).

    >>> cifar(3, 16)[0].weight.shape
    torch.Size([16, 3, 3, 3])
    """
    return conv3x3(in_channels, out_channels), nn.Identity()


def whitened(in_channels: int, out_channels: int) -> tuple[nn.Conv2d, nn.Module]:  # noqa: ARG001
    """3x3 filters and their negatives, computed from the data by `whiten` and not trained.

    A colour patch has 27 principal directions, of which the 16 with the most variance are used; a grey patch has 9, of
    which 8 are used. With their negatives these are 32 and 16 channels, multiples of the 16 of a vector register.
    `out_channels` is accepted and ignored.

    >>> whitened(3, 64)[0].weight.shape
    torch.Size([32, 3, 3, 3])
    """
    conv1 = nn.Conv2d(in_channels, 32 if in_channels > 1 else 16, 3, bias=False)
    conv1.weight.requires_grad_(False)
    return conv1, nn.Identity()


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor, floor: float = 5e-4) -> None:
    """Set the filters to the principal directions of the 3x3 patches of `images`, scaled to a variance of 1.

    `images` (N, C, H, W) are float and normalised. `floor` is added to the variances, so that directions without
    variance are not amplified to noise (Page 2019).
    """
    patches = images.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    variances, directions = torch.linalg.eigh(patches.t() @ patches / len(patches))  # the largest ones last
    filters = (directions.t() / (variances + floor).sqrt()[:, None])[-len(conv.weight) // 2 :]
    filters = filters.view(-1, *conv.weight.shape[1:]).to(conv.weight)
    conv.weight.copy_(torch.cat((filters, -filters)))


def is_whitened(conv: nn.Conv2d) -> bool:
    """True for filters that `whiten` has set: the second half are the negatives of the first."""
    first, second = conv.weight.chunk(2)
    return torch.equal(first, -second)


STEMS: dict[str, Stem] = {"imagenet": imagenet, "cifar": cifar, "whitened": whitened}
