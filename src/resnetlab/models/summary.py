"""Shapes, parameters and multiply-adds of a network, stage by stage, without any computation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import ARCHITECTURES, resolve

# Image side in pixels and classes in the papers, by stem: ImageNet, CIFAR-10.
PAPER_SETTING = {"imagenet": (224, 1000), "cifar": (32, 10), "whitened": (32, 10)}


@dataclass(frozen=True)
class StageRow:
    """One row of Table 1 for one network: `shape` is (C, H, W) of the output, `macs` are for one image."""

    stage: str
    shape: tuple[int, ...]
    params: int
    macs: int
    idle: int = 0  # weights of 3x3 kernels that are only multiplied with padding


@dataclass(frozen=True)
class ZooRow:
    """One network of the zoo at one image size; `macs` are for one image."""

    name: str
    depth: int
    image_size: int
    num_classes: int
    params: int
    macs: int
    source: str


def stage_of(module_name: str) -> str:
    """The stage that a module or parameter belongs to.

    >>> stage_of("bn1.weight"), stage_of("layer2.0.conv1"), stage_of("last_bn.bias")
    ('stem', 'layer2', 'head')
    """
    first = module_name.split(".", maxsplit=1)[0]
    if first in ("conv1", "bn1", "relu", "maxpool"):
        return "stem"
    return first if first.startswith("layer") else "head"


def idle_weights(conv: nn.Conv2d, height: int, width: int) -> int:
    """The number of weights of a convolution that are only multiplied with padding, for inputs of that size.

    >>> idle_weights(nn.Conv2d(1, 1, 3, padding=1), 1, 1)
    8
    """
    taps, used = conv.weight[0, 0].numel(), 1
    for axis, size in enumerate((height, width)):
        kernel, stride, padding = conv.kernel_size[axis], conv.stride[axis], int(conv.padding[axis])
        starts = range(-padding, size + padding - kernel + 1, stride)
        used *= sum(any(0 <= start + tap < size for start in starts) for tap in range(kernel))
    return conv.weight.numel() // taps * (taps - used)


def stage_rows(model: ResNet, image_size: int) -> list[StageRow]:
    """The rows of a network for images of `image_size` x `image_size` pixels.

    The network may be on any device: its weights are neither read nor changed.
    """
    stages = ["stem", *(f"layer{index + 1}" for index in range(len(model.stages))), "head"]
    shapes, macs, idle = {}, dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
    params = dict.fromkeys(stages, 0)
    for name, parameter in model.named_parameters():
        params[stage_of(name)] += parameter.numel()

    def add(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        stage = stage_of(name)
        shapes[stage] = tuple(output.shape[1:])  # overwritten until the stage's last module
        if isinstance(module, nn.Conv2d):
            macs[stage] += module.weight[0].numel() * output[0].numel()
            if module.kernel_size == (3, 3):
                idle[stage] += idle_weights(module, *inputs[0].shape[-2:])
        elif isinstance(module, nn.Linear):
            macs[stage] += module.weight.numel()

    handles = [module.register_forward_hook(partial(add, name)) for name, module in model.named_modules() if name]
    weightless = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    size = (2, model.in_channels, image_size, image_size)  # 2: a norm cannot train on one value
    images = torch.empty(size, dtype=model.fc.weight.dtype, device="meta")
    try:
        with torch.no_grad():
            torch.func.functional_call(model, weightless, (images,))
    finally:
        for handle in handles:
            handle.remove()
    return [StageRow(stage, shapes[stage], params[stage], macs[stage], idle[stage]) for stage in stages]


def count_macs(model: ResNet, image_size: int) -> int:
    """Multiply-adds of the convolutions and the head for one image (the paper's "FLOPs").

    >>> from resnetlab.models import build_model
    >>> count_macs(build_model("resnet20", 10), 32)
    40551040
    """
    return sum(row.macs for row in stage_rows(model, image_size))


def describe(
    name: str,
    image_size: int,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "auto",
    shortcut: str | None = None,
) -> list[StageRow]:
    """The rows of the architecture called `name`, for images of `image_size` x `image_size` pixels.

    >>> [(row.stage, row.shape) for row in describe("resnet34", 224)][-2:]
    [('layer4', (512, 7, 7)), ('head', (1000,))]
    """
    architecture = resolve(name, stem=stem, image_size=image_size, shortcut=shortcut)
    with torch.device("meta"):
        model = ResNet(architecture, num_classes, in_channels)
    return stage_rows(model.eval(), image_size)  # in training mode shapes take twice as long


def table(image_size: int | None = None, *, stem: str = "auto") -> list[ZooRow]:
    """The rows of the zoo at `image_size` in pixels; by default each network at the image size of its paper."""
    rows = []
    for name, architecture in ARCHITECTURES.items():
        papers_size, num_classes = PAPER_SETTING[architecture.stem]
        size = papers_size if image_size is None else image_size
        with torch.device("meta"):
            model = ResNet(resolve(name, stem=stem, image_size=size), num_classes)
        stages = stage_rows(model.eval(), size)
        params, macs = sum(row.params for row in stages), sum(row.macs for row in stages)
        rows.append(ZooRow(name, model.depth, size, num_classes, params, macs, architecture.source))
    return rows


def warnings_for(name: str, image_size: int, *, stem: str = "auto") -> list[str]:
    """Warnings about training this network on images of `image_size` pixels; usually none.

    >>> warnings_for("resnet34", 224)
    []
    """
    rows = describe(name, image_size, stem=stem)
    starved = [row for row in rows if row.idle]
    if not starved:
        return []
    chosen = resolve(name, stem=stem, image_size=image_size).stem
    with_cifar_stem = describe(name, image_size, stem="cifar")
    if any(row.idle for row in with_cifar_stem):
        advice = f"use images of {2 ** (len(rows) - 2)} px or more and the cifar stem"
    else:
        advice = f"use the cifar stem, whose last stage has {'×'.join(map(str, with_cifar_stem[-2].shape[1:]))} maps"
    idle, params = sum(row.idle for row in starved), sum(row.params for row in rows)
    stages = " and ".join(row.stage for row in starved)
    return [
        f"at {image_size} px with the {chosen} stem, the maps in {stages} of {name} are 1×1: there only the centre of "
        "a 3×3 kernel is multiplied with a pixel (four weights where the map was 2×2), the rest with padding, so "
        f"{idle / 1e6:.3g} of the network's {params / 1e6:.3g} million weights ({idle / params:.0%}) are never used; "
        f"{advice}"
    ]
