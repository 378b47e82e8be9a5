"""Activations of one image: the outputs of a network's stem, stages, units and head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnetlab.evaluation.evaluate import evaluating
from resnetlab.interpret.diagram import sections
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import stage_of

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Activation:
    """The output of one module for one image.

    `name` is "image" or a module: conv1, relu, maxpool, layer1 and so on, last_relu, avgpool, fc, or a unit such as
    layer1.0. `values` are (C, H, W); those of avgpool and fc are (C,).
    """

    name: str
    values: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def stage(self) -> str:
        """The row of Table 1 that the module belongs to."""
        return self.name if self.name == "image" else stage_of(self.name)

    @property
    def mean(self) -> float:
        return float(self.values.mean(dtype=np.float64))

    @property
    def std(self) -> float:
        """Standard deviation of all values, divided by N."""
        return float(self.values.std(dtype=np.float64))

    @property
    def zero_share(self) -> float:
        """Share of values that are exactly zero, such as those that a ReLU has cut off."""
        return float(np.mean(self.values == 0))


def collect_activations(network: ResNet, image: Tensor, *, units: bool = False) -> list[Activation]:
    """Run one image through the network, in evaluation mode and fp32, and return the activations in their order.

    `image` is (C, H, W) or (1, C, H, W), normalised. The first activation is the image; one for each of the network's
    `sections` follows, and with `units` one for each residual unit. Hooks are removed and the training mode is restored
    afterwards. Raises ValueError for more than one image.

    >>> from resnetlab.models import build_model
    >>> found = collect_activations(build_model("resnet20", 10), torch.zeros(3, 32, 32))
    >>> [(activation.name, activation.shape) for activation in found][-3:]
    [('layer3', (64, 8, 8)), ('avgpool', (64,)), ('fc', (10,))]
    """
    batch = image if image.ndim == 4 else image[None]
    if batch.ndim != 4 or len(batch) != 1:
        raise ValueError(f"expected one image (C, H, W), got {tuple(image.shape)}")
    names = ["image", *(section.name for section in sections(network))]
    if units:
        names = [name for section in names for name in (*unit_names(network, section), section)]
    values: dict[str, Floats] = {"image": batch[0].float().cpu().numpy()}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        one = output[0].flatten() if name == "avgpool" else output[0]  # its maps are 1×1
        values[name] = one.float().cpu().numpy().copy()  # a ReLU in place would overwrite it

    hooks = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names[1:]]
    device = next(network.parameters()).device
    try:
        with evaluating(network), torch.inference_mode(), torch.autocast(device.type, enabled=False):
            network(batch.to(device, torch.float32))
    finally:
        for hook in hooks:
            hook.remove()
    return [Activation(name, values[name]) for name in names]


def unit_names(network: ResNet, section: str) -> list[str]:
    """Names of the residual units of a section, such as layer1.0; empty outside the stages."""
    if not section.startswith("layer"):
        return []
    return [f"{section}.{unit}" for unit, _ in network.get_submodule(section).named_children()]
