"""Keep NaN and infinity out of the weights and the running statistics, without waiting for the device at every step.

A step is skipped if its loss, its gradient or a running statistic (of batch norm) is not finite: the fused optimisers
change neither weights nor their own state if `found_inf` is set, and all buffers are restored. A loss can be finite
where a statistic is not: a norm divides by an infinite variance, and its output is zero. Skipped steps are counted on
the device; the host reads the count every few steps and before every checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn, optim


class Guard:
    """Skips steps that are not finite; more than `allowed` of them are an error, which the training loop raises."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, allowed: int, device: torch.device) -> None:
        self.allowed = allowed
        self.optimizer = optimizer
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.buffers = list(model.buffers())
        # A buffer that is not finite from the beginning (an attention mask, say) is meant to be so.
        self.statistics = [b for b in self.buffers if b.is_floating_point() and b.numel() and bool(b.isfinite().all())]
        self.counts = torch.tensor([0, -1], device=device)  # skipped steps; the step that was one too many, or -1

    @torch.no_grad()
    def snapshot(self) -> list[Tensor]:
        """Copy all buffers before a forward pass, to restore them if the step is skipped."""
        return [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the norm of the whole gradient, a scalar on the device."""
        return nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None)

    @torch.no_grad()
    def check_finite(self, step: int, before: list[Tensor], *numbers: Tensor) -> Tensor:
        """Return a scalar on the device, true if one of `numbers` or of the running statistics is not finite.

        If it is, the buffers are what they were in the snapshot `before`, and the coming optimiser step does nothing.
        """
        largest = torch._foreach_norm(self.statistics, torch.inf) if self.statistics else ()
        bad = ~torch.isfinite(torch.stack((*numbers, *(value.to(numbers[0].dtype) for value in largest)))).all()
        for buffer, old in zip(self.buffers, before, strict=True):
            buffer.copy_(torch.where(bad, old, buffer))
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        skipped, failed = self.counts
        self.counts = torch.stack((skipped + bad, torch.where(bad & (skipped == self.allowed), step, failed)))
        return bad

    def skipped_steps(self) -> int:
        """Return the number of steps skipped so far. Waits for the device."""
        return int(self.counts[0])

    def failed_step(self) -> int | None:
        """Return the step that was one too many to skip, or None. Waits for the device."""
        step = int(self.counts[1])
        return None if step < 0 else step
