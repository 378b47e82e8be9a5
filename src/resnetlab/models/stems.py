"""Stems: how a network first looks at its pixels.

A stem is two modules, named after their keys in torchvision's checkpoints: `conv1` and `maxpool`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnetlab.kernels.calls import LANES, address, is_bare, kernels, laid_out
from resnetlab.kernels.convolution import conv3x3
from resnetlab.kernels.library import library

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
    """3x3 filters that `whiten` takes from the data and that are not trained, each beside its negative.

    Sixteen directions of a patch in colour, eight of one in grey: of 27 and 9 those with the most variance, and as many
    as a processor multiplies at once.

    >>> whitened(3, 64)[0].weight.shape
    torch.Size([32, 3, 3, 3])
    """
    conv1 = nn.Conv2d(in_channels, 32 if in_channels > 1 else 16, 3, bias=False)
    conv1.weight.requires_grad_(False)
    return conv1, nn.Identity()


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor, floor: float = 5e-4) -> None:
    """Let the filters be the principal directions of 3x3 patches of images (N, C, H, W), scaled to a variance of 1.

    `floor` is added to the variances, so that directions without any do not drown in noise (Page 2019).
    """
    patches = images.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    variances, directions = torch.linalg.eigh(patches.t() @ patches / len(patches))  # the largest ones last
    filters = (directions.t() / (variances + floor).sqrt()[:, None])[-len(conv.weight) // 2 :]
    filters = filters.view(-1, *conv.weight.shape[1:]).to(conv.weight)
    conv.weight.copy_(torch.cat((filters, -filters)))


def convolve_and_rectify(conv: nn.Module, relu: nn.Module, images: Tensor) -> Tensor:
    """ReLU of a whitened stem's maps, (N, C, H, W) to (N, O, H - 2, W - 2), in one go where nothing of it is trained.

    What comes out takes twenty times the memory of the images: it is written once instead of read and written again.
    """
    if not (isinstance(conv, nn.Conv2d) and is_bare(conv) and is_bare(relu) and is_for_kernel(conv, images)):
        return relu(conv(images))  # type: ignore[no-any-return]
    count, channels, height, width = images.shape
    images, out = laid_out(images.to(torch.bfloat16)), len(conv.weight)
    kept = conv.weight.bfloat16().float().permute(2, 3, 1, 0).contiguous()
    y = images.new_empty(count, height - 2, width - 2, out).permute(0, 3, 1, 2)
    kernels().stem_convolve(address(images), address(kept), address(y), count, height, width, channels, out)
    return y


def is_for_kernel(conv: nn.Conv2d, images: Tensor) -> bool:
    """Whether bfloat16 is wanted, on the CPU, and no gradient."""
    return (
        isinstance(images, Tensor)  # and not what stands for one while a graph is traced
        and images.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and len(conv.weight) % LANES == 0
        and min(images.shape[2:]) >= 3
        and not (torch.is_grad_enabled() and (images.requires_grad or conv.weight.requires_grad))
        and not torch.compiler.is_compiling()
        and library() is not None
    )


STEMS: dict[str, Stem] = {"imagenet": imagenet, "cifar": cifar, "whitened": whitened}
