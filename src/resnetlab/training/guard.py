"""Keeping NaN and infinity away from the weights, without waiting for the device at every step.

A step whose loss or gradient is not finite changes nothing: the fused optimisers leave weights and their own memory
alone where they are told of an infinity, and the norms' statistics are put back. Such steps are counted on the device;
the host looks at the count now and then, and before every checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn, optim


class Guard:
    """Watches over a network's weights and statistics; `allowed` steps may be left out before it is an error."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, allowed: int, device: torch.device) -> None:
        self.allowed = allowed
        self.optimizer = optimizer
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.counts = torch.tensor([0, -1], device=device)  # steps left out; the one that was one too many

    def remember(self) -> list[Tensor]:
        """The norms' statistics before a forward pass."""
        return [buffer.clone() for buffer in self.statistics]

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, a scalar on the device."""
        return nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None)

    @torch.no_grad()
    def judge(self, step: int, before: list[Tensor], *numbers: Tensor) -> Tensor:
        """Whether one of `numbers` is not finite, a scalar on the device; if so, the coming update will do nothing."""
        bad = ~torch.isfinite(torch.stack(numbers)).all()
        for buffer, old in zip(self.statistics, before, strict=True):
            buffer.copy_(torch.where(bad, old, buffer))
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        left_out, culprit = self.counts
        self.counts = torch.stack((left_out + bad, torch.where(bad & (left_out == self.allowed), step, culprit)))
        return bad

    def left_out(self) -> int:
        """How many steps changed nothing so far. Waits for the device."""
        return int(self.counts[0])

    def culprit(self) -> int | None:
        """The step that was one too many, if there was one. Waits for the device."""
        step = int(self.counts[1])
        return None if step < 0 else step
