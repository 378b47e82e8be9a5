"""`fold` makes a network for inference: norms are folded into convolutions, whose bias, addition and ReLU are fused.

On a CPU with AVX-512, convolutions of 3x3 use Winograd's algorithm: F(4x4, 3x3) in float32 (`csrc/floats.c`) and
F(2x2, 3x3) in bfloat16 (`csrc/blocks.c`). Torch computes all others. The pooled features and the head are float32 in
every precision, so logits are not rounded to bfloat16.
"""

# torch types a module's call as Any
# mypy: no-warn-return-any

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnetlab.kernels.calls import (
    LANES,
    address,
    channels_last,
    check,
    has_float_products,
    has_pair_products,
    is_eager,
    kernels,
)
from resnetlab.models.blocks import BasicBlock, Bottleneck, PlainBlock, PooledBlock, PreActBlock
from resnetlab.models.resnet import ResNet

Join: TypeAlias = Callable[[Any, nn.Module], nn.Module]  # a convolution and its norm -> one module
CPU = torch.device("cpu")
SMALLEST = {torch.float32: 4, torch.bfloat16: 3}  # pixels a side; on smaller maps most of a tile is padding
NARROWEST = {torch.float32: LANES, torch.bfloat16: 2 * LANES}  # channels in or out


def fold(network: ResNet, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> FoldedResNet:
    """Return a copy of `network` for inference on `device`, without gradients; `network` stays as it is.

    It maps normalised images (N, C, H, W), float32, to logits (N, classes), float32, and computes the convolutions in
    `dtype`. In float32, the probabilities of a trained network stay the same to 1e-4.

    >>> from resnetlab.models import build_model
    >>> network, images = build_model("resnet20", num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    >>> torch.allclose(fold(network)(images), network(images), atol=1e-4)
    True
    """
    join = partial(FoldedConv, dtype=dtype, use_kernels=device.type == "cpu")
    return FoldedResNet(network, join, dtype).eval().requires_grad_(False).to(device)


class FoldedResNet(nn.Module):
    """A stem, units, and a head, as in `ResNet`, of `FoldedConv`s."""

    def __init__(self, network: ResNet, join: Join, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.stem = join(network.conv1, network.bn1)
        self.relu, self.maxpool = isinstance(network.relu, nn.ReLU), network.maxpool
        self.units = nn.Sequential(*(UNITS[type(unit)](unit, join) for stage in network.stages for unit in stage))
        self.last_bn, self.last_relu = copy.deepcopy(network.last_bn), network.last_relu
        self.fc = copy.deepcopy(network.fc)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.stem(channels_last(images.to(self.dtype)), relu=self.relu))
        x = self.last_relu(self.last_bn(self.units(x)))
        return self.fc(x.mean((2, 3), dtype=torch.float32))


class FoldedConv(nn.Module):
    """A convolution and the batch norm after it, or an identity, as one convolution with a bias."""

    bias: Tensor
    weight: Tensor
    packed: Tensor | None

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, *, dtype: torch.dtype, use_kernels: bool) -> None:
        super().__init__()
        conv = copy.deepcopy(conv).double()
        if isinstance(norm, nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(conv.eval(), copy.deepcopy(norm).double().eval())
        weight = conv.weight.detach().float()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().float()
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.register_buffer("weight", channels_last(weight.to(dtype)))
        self.register_buffer("bias", bias)
        self.register_buffer("packed", pack(conv, channels_last(weight), dtype) if use_kernels else None)

    def forward(self, x: Tensor, add: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """Compute maps (N, O, H', W') from x (N, C, H, W): the convolution, plus `add` of its shape, then a ReLU."""
        if self.packed is not None and self.supports(x, add):
            return convolve(x, self.packed, self.bias, add, relu=relu)
        y = F.conv2d(x, self.weight, self.bias.to(x.dtype), self.stride, self.padding, 1, self.groups)
        y = y if add is None else y.add_(add)
        return y.relu_() if relu else y

    def supports(self, x: Tensor, add: Tensor | None) -> bool:
        """True for maps that the kernels may read: of the CPU, square, not too small, without gradients."""
        return (
            all(type(maps) is Tensor and maps.dtype == self.weight.dtype for maps in (x, add) if maps is not None)
            and x.device.type == self.weight.device.type == "cpu"
            and x.ndim == 4
            and len(x) > 0
            and x.shape[1] == self.weight.shape[1]
            and x.shape[2] == x.shape[3] >= SMALLEST[x.dtype]
            and not (torch.is_grad_enabled() and any(maps.requires_grad for maps in (x, add) if maps is not None))
            and is_eager()
            and has_kernel(x.dtype)
        )


def has_kernel(dtype: torch.dtype) -> bool:
    """True if this processor has a fast 3x3 convolution for inference in this precision."""
    return has_float_products() if dtype == torch.float32 else dtype == torch.bfloat16 and has_pair_products()


def pack(conv: nn.Conv2d, weight: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Transform the weights (O, C, 3, 3), float32, for the kernel; None for a convolution that torch computes.

    The result takes four times the memory of the weights in float32, twice in bfloat16.
    """
    out, channels = weight.shape[:2]
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") or not has_kernel(dtype):
        return None
    if out % LANES or channels % LANES or min(out, channels) < NARROWEST[dtype]:
        return None
    is_float = dtype == torch.float32
    packed = weight.new_empty((36 if is_float else 16) * out * channels, dtype=dtype)
    places = address(weight), address(packed), out, channels
    if is_float:
        kernels().floats_pack(*places)
    else:
        kernels().blocks_pack(*places, False)
    return packed


def convolve(x: Tensor, packed: Tensor, bias: Tensor, add: Tensor | None, *, relu: bool) -> Tensor:
    """Compute maps (N, O, H, H), channels_last, from x (N, C, H, H): a 3x3 convolution with a padding of 1."""
    (images, channels, size, _), out = x.shape, len(bias)
    x, add = channels_last(x), None if add is None else channels_last(add)
    y = x.new_empty(images, size, size, out).permute(0, 3, 1, 2)
    places, shape = map(address, (x, packed, bias, add, y)), (images, size, channels, out)
    if x.dtype == torch.float32:
        check(kernels().floats_convolve(*places, *shape, relu, torch.get_num_threads()))
    else:
        check(kernels().blocks_convolve(*places, *shape, relu))
    return y


def fold_shortcut(shortcut: nn.Module, join: Join) -> nn.Module:
    """Return a shortcut for inference: a projection, with or without a norm, becomes one convolution."""
    return join(shortcut[0], shortcut[1]) if isinstance(shortcut, nn.Sequential) else shortcut


class FoldedBasicBlock(nn.Module):
    def __init__(self, unit: BasicBlock, join: Join) -> None:
        super().__init__()
        self.conv1 = join(unit.conv1, unit.bn1)
        self.conv2 = join(unit.conv2, unit.bn2)
        self.shortcut = fold_shortcut(unit.downsample, join)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, relu=True), self.shortcut(x), relu=True)


class FoldedBottleneck(nn.Module):
    def __init__(self, unit: Bottleneck, join: Join) -> None:
        super().__init__()
        self.conv1 = join(unit.conv1, unit.bn1)
        self.conv2 = join(unit.conv2, unit.bn2)
        self.conv3 = join(unit.conv3, unit.bn3)
        self.shortcut = fold_shortcut(unit.downsample, join)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.conv1(x, relu=True), relu=True)
        return self.conv3(residual, self.shortcut(x), relu=True)


class FoldedPlainBlock(nn.Module):
    def __init__(self, unit: PlainBlock, join: Join) -> None:
        super().__init__()
        self.conv1 = join(unit.conv1, unit.bn1)
        self.conv2 = join(unit.conv2, unit.bn2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, relu=True), relu=True)


class FoldedPooledBlock(nn.Module):
    """The first norm stays: it follows a max pool, with which a negative factor cannot change places."""

    def __init__(self, unit: PooledBlock, join: Join) -> None:
        super().__init__()
        self.conv1 = join(unit.conv1, nn.Identity())
        self.pool, self.bn1 = unit.pool, copy.deepcopy(unit.bn1)
        self.conv2 = join(unit.conv2, unit.bn2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.pool(self.conv1(x))).relu_()
        return self.conv2(x, x, relu=True)


class FoldedPreActBlock(nn.Module):
    """The first norm stays: it follows an addition."""

    def __init__(self, unit: PreActBlock, join: Join) -> None:
        super().__init__()
        self.bn1 = copy.deepcopy(unit.bn1)
        self.conv1 = join(unit.conv1, unit.bn2)
        self.conv2 = join(unit.conv2, nn.Identity())
        self.carries_x = unit.carries_x
        self.shortcut = fold_shortcut(unit.downsample, join)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn1(x).relu()
        return self.conv2(self.conv1(activated, relu=True), self.shortcut(x if self.carries_x else activated))


UNITS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    BasicBlock: FoldedBasicBlock,
    Bottleneck: FoldedBottleneck,
    PlainBlock: FoldedPlainBlock,
    PooledBlock: FoldedPooledBlock,
    PreActBlock: FoldedPreActBlock,
}
