"""An exponential moving average of the weights, which often validates better than the weights themselves."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """`average = decay * average + (1 - decay) * weights` after every step; a decay of 0 is the network itself.

    Parameters and floating-point buffers (the batch-norm statistics) are averaged, integer buffers are copied.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.model: Network = copy.deepcopy(model).requires_grad_(False) if decay else model
        # Whoever loads weights copies them into these tensors; looking them up takes as long as averaging them.
        pairs = list(zip(tensors_of(self.model), tensors_of(model), strict=True)) if decay else []
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        if self.averaged:
            mine, theirs = map(list, zip(*self.averaged, strict=True))
            torch._foreach_lerp_(mine, theirs, 1 - self.decay)
        for counter, its in self.copied:
            counter.copy_(its)


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
