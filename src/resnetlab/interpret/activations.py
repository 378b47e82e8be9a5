"""One image on its way through a network: what leaves its stem, each of its stages, and its head."""

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

# A norm and a ReLU may be computed together and are then never asked, so their output is taken where the next module,
# which is always asked, receives it; and what is pooled where it has lost its 1×1 positions.
RECEIVERS = {"image": "conv1", "relu": "maxpool", "last_relu": "avgpool", "avgpool": "fc"}


@dataclass(frozen=True, eq=False)
class Stop:
    """What the signal is at one place.

    `name` is "image" or the module that it leaves: conv1, relu, maxpool, layer1 and so on, last_relu, avgpool, fc, or a
    unit such as layer1.0. `values` are (C, H, W); of avgpool and fc they are (C,).
    """

    name: str
    values: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def stage(self) -> str:
        """The row of Table 1 that it belongs to."""
        return self.name if self.name == "image" else stage_of(self.name)

    @property
    def mean(self) -> float:
        return float(self.values.mean(dtype=np.float64))

    @property
    def std(self) -> float:
        """Of all values around their mean (divided by their number)."""
        return float(self.values.std(dtype=np.float64))

    @property
    def silent(self) -> float:
        """The share of values that are exactly zero: what a ReLU has cut off."""
        return float(np.mean(self.values == 0))


def journey(network: ResNet, image: Tensor, *, units: bool = False) -> list[Stop]:
    """Send one image through the network, in evaluation mode and fp32, and keep what it is at each stop.

    `image` is (C, H, W) or (1, C, H, W), normalised. The stops are the image, then the `sections` of the network in
    their order; with `units` also every unit of every stage. The network is left as it was.

    >>> from resnetlab.models import build_model
    >>> stops = journey(build_model("resnet20", 10), torch.zeros(3, 32, 32))
    >>> [(stop.name, stop.shape) for stop in stops][-3:]
    [('layer3', (64, 8, 8)), ('avgpool', (64,)), ('fc', (10,))]
    """
    batch = image if image.ndim == 4 else image[None]
    if batch.ndim != 4 or len(batch) != 1:
        raise ValueError(f"one image (C, H, W) is needed, not {tuple(image.shape)}")
    names = ["image", *(section.name for section in sections(network))]
    if units:
        names = [name for stop in names for name in (*units_of(network, stop), stop)]
    seen: dict[str, Floats] = {}

    def keep(name: str, output: Tensor) -> None:
        seen[name] = output[0].float().cpu().numpy().copy()  # for a ReLU may work in place

    def after(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        keep(name, output)

    def before(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(name, inputs[0])

    handles = []
    for name in names:
        if name in RECEIVERS:
            receiver = network.get_submodule(RECEIVERS[name])
            handles.append(receiver.register_forward_pre_hook(partial(before, name)))
        else:
            handles.append(network.get_submodule(name).register_forward_hook(partial(after, name)))
    place = next(network.parameters()).device
    try:
        with evaluating(network), torch.inference_mode(), torch.autocast(place.type, enabled=False):
            network(batch.to(place, torch.float32))
    finally:
        for handle in handles:
            handle.remove()
    return [Stop(name, seen[name]) for name in names]


def units_of(network: ResNet, name: str) -> list[str]:
    if not name.startswith("layer"):
        return []
    return [f"{name}.{unit}" for unit, _ in network.get_submodule(name).named_children()]
