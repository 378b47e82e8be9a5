"""An exponential moving average of the weights, which often validates better than the weights themselves."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """`average = decay * average + (1 - decay) * weights` after every step; a decay of 0 is the network itself.

    Parameters and floating-point buffers (the batch-norm statistics) are averaged, integer buffers are copied.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.source = model
        self.model: Network = copy.deepcopy(model).requires_grad_(False) if decay else model

    @torch.no_grad()
    def update(self) -> None:
        if not self.decay:
            return
        mine, theirs = self.model.state_dict(), self.source.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - self.decay)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])
