"""Grad-CAM: maps of the evidence for a class in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnetlab.evaluation.evaluate import evaluating
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import stage_rows
from resnetlab.models.zoo import Architecture

Maps = NDArray[np.float32]  # (N, H, W) or (N, K, H, W), in [0, 1]

SMALLEST_MAP = 4  # positions a side; a map of 1×1 covers the whole image, and one of 2×2 tells only its quarters apart


@dataclass(frozen=True)
class CamStage:
    """The stage whose output Grad-CAM uses: its `index` from 0, and the side of its maps and of the last stage's."""

    index: int
    size: int
    last_size: int

    @property
    def name(self) -> str:
        """The name of the module, such as layer4."""
        return f"layer{self.index + 1}"


def cam_stage(network: ResNet, image_size: int) -> CamStage:
    """Return the stage that `grad_cam` uses for images of `image_size` × `image_size` pixels. No weight is read.

    It is the last stage whose maps have at least 4×4 positions, or, if there is none, the last one with the largest.

    >>> from resnetlab.models import build_model
    >>> cam_stage(build_model("resnet20", 10), 32).name, cam_stage(build_model("resnet20", 10), 8).name
    ('layer3', 'layer2')
    """
    sizes = map_sizes(network.architecture, image_size)
    index = choose_stage(sizes)
    return CamStage(index, sizes[index], sizes[-1])


@cache
def map_sizes(architecture: Architecture, image_size: int) -> tuple[int, ...]:
    """Return the side of each stage's maps, in positions, for square images of `image_size` pixels."""
    with torch.device("meta"):  # a network of its own, so that hooks and threads of the real one do not matter
        network = ResNet(architecture, num_classes=1)
    rows = stage_rows(network.eval(), image_size)
    return tuple(row.shape[-1] for row in rows if row.stage.startswith("layer"))


def choose_stage(sizes: Sequence[int]) -> int:
    """Return the index of the last stage whose maps have the smallest allowed side, or else the largest one there is.

    >>> choose_stage([56, 28, 14, 7]), choose_stage([8, 4, 2]), choose_stage([2, 2, 1])
    (3, 1, 1)
    """
    enough = min(SMALLEST_MAP, max(sizes))
    return max(index for index, size in enumerate(sizes) if size >= enough)


def grad_cam(network: ResNet, images: Tensor, classes: Tensor) -> Maps:
    """Maps (N, H, W) of the evidence for `classes` (N,) in `images` (N, C, H, W), normalised.

    With K classes for each image, `classes` (N, K), the maps are (N, K, H, W).

    Selvaraju et al. (2017), equations 1 and 2: with A the output of a stage and y the logit of the class, a map is
    relu(sum_c a_c A_c), where a_c is the mean of dy/dA_c over positions. It is resized to the image (bilinear) and
    scaled to a maximum of 1. A map is zero if there is no evidence for the class. The stage is the last one; where its
    maps have fewer than 4×4 positions, it is the one that `cam_stage` names.

    The network's modules are called without hooks, so several threads may explain images with one network at once, as
    long as it is in evaluation mode.

    captum's `LayerGradCam` is not used: it adds a dependency, runs the backward pass through the whole network, and
    leaves the scaling to the caller.
    """
    columns = classes if classes.ndim == 2 else classes[:, None]
    with evaluating(network), torch.inference_mode(False):
        with torch.no_grad():
            outputs = stage_outputs(network, images)
            stage = choose_stage([min(output.shape[2:]) for output in outputs])
            maps = outputs[stage].repeat_interleave(columns.shape[1], 0)
        with torch.enable_grad():
            maps.requires_grad_()  # the graph begins here: earlier layers are not differentiated
            logits = logits_from_stage(network, maps, stage)
            chosen = logits.gather(1, columns.reshape(-1, 1)).sum()  # images are independent: one gradient for all
            (gradient,) = torch.autograd.grad(chosen, maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
    heat = nn.functional.interpolate(heat, images.shape[2:], mode="bilinear")
    highest = heat.amax((2, 3), keepdim=True)
    heat = heat / torch.where(highest > 0, highest, 1)
    return np.asarray(heat.view(*classes.shape, *images.shape[2:]).float().cpu())


def stage_outputs(network: ResNet, images: Tensor) -> list[Tensor]:
    """Return the output (N, C, H, W) of each stage."""
    stem = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    return list(accumulate(network.stages, lambda maps, stage: stage(maps), initial=stem))[1:]


def logits_from_stage(network: ResNet, maps: Tensor, stage: int) -> Tensor:
    """Return the logits (N, classes) that follow from the output of the stage with that index."""
    for later in network.stages[stage + 1 :]:
        maps = later(maps)
    logits: Tensor = network.fc(network.avgpool(network.last_relu(network.last_bn(maps))).flatten(1))
    return logits
