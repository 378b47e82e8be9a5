"""An exponential moving average of the weights, which often scores better on validation than the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """An average of the weights: `average = decay * average + (1 - decay) * weights` after every step.

    Parameters and floating-point buffers (the batch-norm statistics) are averaged, other buffers are copied. With a
    decay of 0, `model` is the network itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model: nn.Module = copy.deepcopy(model).requires_grad_(False) if decay else model
        # Listed once, because finding the tensors takes as long as averaging them. Loading weights keeps the tensors.
        pairs = list(zip(tensors_of(self.model), tensors_of(model), strict=True)) if decay else []
        self.averaged = [pair for pair in pairs if is_averaged(pair[0])]
        self.copied = [pair for pair in pairs if not is_averaged(pair[0])]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights by one step."""
        if self.averaged:
            averages, weights = map(list, zip(*self.averaged, strict=True))
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for counter, current in self.copied:
            counter.copy_(current)


def is_averaged(tensor: Tensor) -> bool:
    """Return True for floating-point tensors, unless they hold infinities (an attention mask): inf - inf is NaN."""
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
