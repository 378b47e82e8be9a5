"""Residual units, stages and networks that call fused kernels, for our networks and for torchvision's.

Each class repeats its parent's `forward` with `norm`, `+` and `relu` fused. A unit can return its output as a pair, the
same values twice, so that the next convolution and the shortcut each have their own gradient (see `batch_norm.py`). A
pair is only passed to unchanged modules of torch or resnetlab without hooks. All other modules receive one tensor,
whose gradient is complete.
"""

# torch types a module's call as Any
# mypy: no-warn-return-any

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels.batch_norm import Pair, bn, bn_add_relu, bn_relu
from resnetlab.kernels.calls import (
    LANES,
    address,
    channels_last,
    has_kernels,
    has_no_hooks,
    is_autocast,
    is_bfloat16,
    is_eager,
    is_exactly,
    is_original,
    kernels,
)
from resnetlab.kernels.convolution import FastConv1x1, FastConv3x3, convolve_and_pool
from resnetlab.kernels.swap import Fast
from resnetlab.models.blocks import BasicBlock, Bottleneck, PlainBlock, PooledBlock, PreActBlock, ZeroPad
from resnetlab.models.resnet import ResNet


class FastZeroPad(Fast, ZeroPad):
    """The shortcut of option A, padded as (N, H, W, C), so that its gradient is channels_last like the maps."""

    plain = ZeroPad

    def forward(self, x: Tensor) -> Tensor:
        if not is_bfloat16(x) or not self.is_original():
            return super().forward(x)
        kept = x.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        return F.pad(kept, (0, self.new_channels)).permute(0, 3, 1, 2)


class FastProjection(Fast, nn.Sequential):
    """A convolution, then a batch norm: the projection of a shortcut."""

    plain = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        if len(self) != 2 or not is_original():
            return super().forward(x)  # type: ignore[no-untyped-call]
        return bn(self[1], self[0](x))


CONVOLUTIONS = (nn.Conv2d, FastConv3x3, FastConv1x1)
RECEIVERS = (*CONVOLUTIONS, nn.Identity, ZeroPad, FastZeroPad)


def can_receive(*modules: nn.Module | None) -> bool:
    """True for modules that only use their input: they do not store, change or expose it. None is the identity."""
    found: list[nn.Module] = []
    for module in modules:
        if type(module) in (nn.Sequential, FastProjection):  # an identity would hand its input on to the next module
            first = next(iter(module.children()), None)  # type: ignore[union-attr]
            if type(first) not in CONVOLUTIONS:
                return False
            found += module, first  # type: ignore[arg-type]
        elif type(module) in RECEIVERS:
            found.append(module)  # type: ignore[arg-type]
        elif module is not None:
            return False
    return has_no_hooks(*found) and FastZeroPad.is_original()


class FastUnit(Fast, nn.Module):
    """A unit that can receive its input, and return its output, as a pair."""

    def receivers(self) -> Sequence[nn.Module | None]:
        """The modules that receive the unit's input."""
        raise NotImplementedError

    def can_receive_pair(self) -> bool:
        """True if no hook observes the unit, and all `receivers` can receive one tensor of a pair."""
        return self.is_original() and has_no_hooks(self) and can_receive(*self.receivers())

    def pair(self, x: Tensor, second: Tensor) -> Pair:
        """The output, as a pair, for an input that is given as a pair."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_original():
            return self.plain.forward(self, x)
        return self.pair(x, x)[0]


class FastBasicBlock(FastUnit, BasicBlock):
    plain = BasicBlock

    def receivers(self) -> Sequence[nn.Module | None]:
        return self.conv1, self.downsample

    def pair(self, x: Tensor, second: Tensor) -> Pair:
        residual, _ = bn_relu(self.bn1, self.relu1, self.conv1(x))
        return bn_add_relu(self.bn2, self.relu2, self.conv2(residual), self.downsample(second))


class FastBottleneck(FastUnit, Bottleneck):
    plain = Bottleneck

    def receivers(self) -> Sequence[nn.Module | None]:
        return self.conv1, self.downsample

    def pair(self, x: Tensor, second: Tensor) -> Pair:
        residual, _ = bn_relu(self.bn1, self.relu1, self.conv1(x))
        residual, _ = bn_relu(self.bn2, self.relu2, self.conv2(residual))
        return bn_add_relu(self.bn3, self.relu3, self.conv3(residual), self.downsample(second))


class FastPlainBlock(FastUnit, PlainBlock):
    plain = PlainBlock

    def receivers(self) -> Sequence[nn.Module | None]:
        return (self.conv1,)

    def pair(self, x: Tensor, second: Tensor) -> Pair:  # noqa: ARG002 - a plain unit has no second use
        x, _ = bn_relu(self.bn1, self.relu1, self.conv1(x))
        return bn_relu(self.bn2, self.relu2, self.conv2(x))


class FastPooledBlock(FastUnit, PooledBlock):
    plain = PooledBlock

    def receivers(self) -> Sequence[nn.Module | None]:
        return (self.conv1,)

    def pair(self, x: Tensor, second: Tensor) -> Pair:
        x, second = bn_relu(self.bn1, self.relu1, convolve_and_pool(self.conv1, self.pool, x))
        second = second if can_receive(self.conv2) else x
        return bn_add_relu(self.bn2, self.relu2, self.conv2(x), second)


class FastPreActBlock(FastUnit, PreActBlock):
    plain = PreActBlock

    def receivers(self) -> Sequence[nn.Module | None]:
        if not is_exactly(nn.BatchNorm2d, self.bn1):
            return (self.bn1,)
        return self.conv1, self.downsample

    def pair(self, x: Tensor, second: Tensor) -> Pair:
        activated, again = bn_relu(self.bn1, self.relu1, x)
        again = again if can_receive(self.conv1, self.downsample) else activated
        residual, _ = bn_relu(self.bn2, self.relu2, self.conv1(activated))
        y = self.conv2(residual) + self.downsample(second if self.carries_x else again)
        return y, y


class FastStage(Fast, nn.Sequential):
    """Units one after another, with pairs between those that can receive one."""

    plain = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        if not is_original():
            return super().forward(x)  # type: ignore[no-untyped-call]
        return self.chain(x, x)[0]

    def chain(self, x: Tensor, second: Tensor) -> Pair:
        """The output of the last unit, as a pair, for an input that is given as a pair."""
        for unit in self:
            if isinstance(unit, FastUnit) and unit.can_receive_pair():
                x, second = unit.pair(x, second)
            else:
                x = second = unit(x)
        return x, second


def through_stages(stages: Sequence[nn.Module], x: Tensor, second: Tensor) -> Tensor:
    """The output of the last stage, for the output of the stem as a pair."""
    for stage in stages:
        if type(stage) is FastStage and has_no_hooks(stage):
            x, second = stage.chain(x, second)
        else:
            x = second = stage(x)
    return x


class FastResNet(Fast, ResNet):
    plain = ResNet

    def features(self, images: Tensor) -> Tensor:
        if not self.is_original():
            return super().features(images)
        if is_exactly(nn.Identity, self.bn1) and is_frozen_stem(self.conv1, self.relu, images):
            x = second = convolve_and_rectify(self.conv1.weight, images)
        else:
            x, second = bn_relu(self.bn1, self.relu, self.conv1(images))
        if not is_exactly(nn.Identity, self.maxpool):
            x = second = self.maxpool(x)
        x = through_stages(self.stages, x, second)
        x, _ = bn_relu(self.last_bn, self.last_relu, x)
        return self.avgpool(x).flatten(1)


def is_frozen_stem(conv: nn.Module, relu: nn.Module, images: Tensor) -> bool:
    """True for a 3x3 convolution without padding and its ReLU, in bfloat16, through which no gradient flows."""
    if not (is_exactly(nn.Conv2d, conv) and is_exactly(nn.ReLU, relu)):
        return False
    assert isinstance(conv, nn.Conv2d)
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias)
    return (
        shape == ((3, 3), (1, 1), (0, 0), (1, 1), 1, None)
        and type(images) is Tensor
        and images.device.type == conv.weight.device.type == "cpu"
        and images.dtype in (torch.float32, torch.bfloat16)
        and images.layout == torch.strided
        and images.ndim == 4
        and images.numel() > 0
        and images.shape[1] == conv.weight.shape[1]
        and min(images.shape[2:]) >= 3
        and len(conv.weight) % LANES == 0
        and type(conv.weight) in (Tensor, nn.Parameter)
        and conv.weight.dtype == torch.float32
        and not (torch.is_grad_enabled() and (images.requires_grad or conv.weight.requires_grad))
        and is_autocast()
        and is_eager()
        and has_kernels()
    )


def convolve_and_rectify(weight: Tensor, images: Tensor) -> Tensor:
    """relu(convolution) of images (N, C, H, W) with filters (O, C, 3, 3): maps (N, O, H - 2, W - 2) in bfloat16.

    The maps take twenty times the memory of the images. A separate ReLU would read and write them again.
    """
    count, channels, height, width = images.shape
    images, out = channels_last(images.to(torch.bfloat16)), len(weight)
    kept = weight.detach().bfloat16().float().permute(2, 3, 1, 0).contiguous()
    y = images.new_empty(count, height - 2, width - 2, out).permute(0, 3, 1, 2)
    kernels().stem_convolve(address(images), address(kept), address(y), count, height, width, channels, out)
    return y


FAST: dict[type[nn.Module], type[Fast]] = {
    kind.plain: kind
    for kind in (
        *(FastBasicBlock, FastBottleneck, FastPlainBlock, FastPooledBlock, FastPreActBlock),
        *(FastZeroPad, FastResNet),
    )
}


def fast_classes() -> dict[type[nn.Module], type[Fast]]:
    """The fast classes by exact class: for resnetlab, and for torchvision once it is imported."""
    known = FAST | (torchvision_classes() if "torchvision.models.resnet" in sys.modules else {})
    return {plain: fast for plain, fast in known.items() if fast.is_original()}


@cache
def torchvision_classes() -> dict[type[nn.Module], type[Fast]]:
    """The fast classes for torchvision, whose units have one ReLU module, and no module for an identity shortcut."""
    from torchvision.models import resnet

    class FastTorchvisionBasicBlock(FastUnit, resnet.BasicBlock):  # type: ignore[misc]
        plain = resnet.BasicBlock

        def receivers(self: Any) -> Sequence[nn.Module | None]:
            return self.conv1, self.downsample

        def pair(self: Any, x: Tensor, second: Tensor) -> Pair:
            residual, _ = bn_relu(self.bn1, self.relu, self.conv1(x))
            shortcut = second if self.downsample is None else self.downsample(second)
            return bn_add_relu(self.bn2, self.relu, self.conv2(residual), shortcut, in_place=True)

    class FastTorchvisionBottleneck(FastUnit, resnet.Bottleneck):  # type: ignore[misc]
        plain = resnet.Bottleneck

        def receivers(self: Any) -> Sequence[nn.Module | None]:
            return self.conv1, self.downsample

        def pair(self: Any, x: Tensor, second: Tensor) -> Pair:
            residual, _ = bn_relu(self.bn1, self.relu, self.conv1(x))
            residual, _ = bn_relu(self.bn2, self.relu, self.conv2(residual))
            shortcut = second if self.downsample is None else self.downsample(second)
            return bn_add_relu(self.bn3, self.relu, self.conv3(residual), shortcut, in_place=True)

    class FastTorchvisionResNet(Fast, resnet.ResNet):  # type: ignore[misc]
        plain = resnet.ResNet

        def _forward_impl(self: Any, x: Tensor) -> Tensor:
            if not self.is_original():
                return super()._forward_impl(x)
            x, _ = bn_relu(self.bn1, self.relu, self.conv1(x))
            x = self.maxpool(x)
            x = through_stages((self.layer1, self.layer2, self.layer3, self.layer4), x, x)
            return self.fc(torch.flatten(self.avgpool(x), 1))

    kinds = (FastTorchvisionBasicBlock, FastTorchvisionBottleneck, FastTorchvisionResNet)
    return {kind.plain: kind for kind in kinds}
