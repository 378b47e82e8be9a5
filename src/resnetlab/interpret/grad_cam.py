"""Grad-CAM: maps of the evidence for a class in an image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnetlab.evaluation.evaluate import evaluating
from resnetlab.models.resnet import ResNet

Maps = NDArray[np.float32]  # (N, H, W), in [0, 1]


def grad_cam(network: ResNet, images: Tensor, classes: Tensor) -> Maps:
    """Maps (N, H, W) of the evidence for `classes` (N,) in `images` (N, C, H, W), normalised.

    Selvaraju et al. (2017), equations 1 and 2: with A the output of the last stage and y the logit of the class, a map
    is relu(sum_c a_c A_c), where a_c is the mean of dy/dA_c over positions. It is resized to the image (bilinear) and
    scaled to a maximum of 1. A map is zero if there is no evidence for the class.

    captum's `LayerGradCam` is not used: it adds a dependency, runs the backward pass through the whole network, and
    leaves the scaling to the caller.
    """
    kept: list[Tensor] = []

    def keep(_stage: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())  # the graph begins here: earlier layers are not differentiated
        return kept[-1]

    hook = network.stages[-1].register_forward_hook(keep)
    try:
        with evaluating(network), torch.enable_grad():
            chosen = network(images).gather(1, classes[:, None]).sum()  # images are independent: one gradient for all
        (gradient,) = torch.autograd.grad(chosen, kept)
    finally:
        hook.remove()
    maps = (gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()
    maps = nn.functional.interpolate(maps, images.shape[2:], mode="bilinear")
    highest = maps.amax((2, 3), keepdim=True)
    return np.asarray((maps / torch.where(highest > 0, highest, 1)).squeeze(1).float().cpu())
