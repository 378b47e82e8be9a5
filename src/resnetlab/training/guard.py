"""Keep NaN and infinity out of the weights and the running statistics, without waiting for the device at every step.

A step is skipped if its loss, its gradient or a running statistic (of batch norm) is not finite. If `found_inf` is set,
the fused optimisers change neither weights nor their own state; all buffers are restored. The statistics are checked
too, because a norm that divides by an infinite variance returns zeros, and the loss stays finite. Skipped steps are
counted on the device. The host reads the count every few steps and before every checkpoint.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn, optim
from torch._utils import _unflatten_dense_tensors


class Guard:
    """Skips steps that are not finite. If there are more than `allowed`, the training loop raises NonFinite.

    Buffers of one dtype are copied and checked as one vector: a network has a hundred of a few numbers each.
    """

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, allowed: int, device: torch.device) -> None:
        self.allowed = allowed
        self.optimizer = optimizer
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups: defaultdict[tuple[object, ...], list[Tensor]] = defaultdict(list)
        for buffer in filter(Tensor.numel, model.buffers()):
            # Buffers that are not finite from the beginning, such as an attention mask, are intended.
            is_statistic = buffer.is_floating_point() and bool(buffer.isfinite().all())
            groups[is_statistic, buffer.dtype, buffer.device].append(buffer)
        self.statistics = [group for (is_statistic, *_), group in groups.items() if is_statistic]
        self.others = [group for (is_statistic, *_), group in groups.items() if not is_statistic]
        self.counts = torch.tensor([0, -1], device=device)  # skipped steps; the first step above `allowed`, or -1

    @torch.no_grad()
    def snapshot(self) -> list[Tensor]:
        """Copy all buffers before a forward pass, to restore them if the step is skipped."""
        return [torch.cat([b.reshape(-1) for b in group]) for group in (*self.statistics, *self.others)]

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the norm of the whole gradient, a scalar on the device."""
        return nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None)

    @torch.no_grad()
    def check_finite(self, step: int, before: list[Tensor], *numbers: Tensor) -> Tensor:
        """Return a scalar on the device, true if one of `numbers` or of the running statistics is not finite.

        If it is true, the buffers are restored from the snapshot `before`, and the next optimiser step does nothing.
        """
        after = self.snapshot()
        checked = torch.stack(numbers), *after[: len(self.statistics)]
        bad = ~torch.stack([values.isfinite().all() for values in checked]).all()
        for group, old, new in zip((*self.statistics, *self.others), before, after, strict=True):
            torch._foreach_copy_(group, _unflatten_dense_tensors(torch.where(bad, old, new), group))  # type: ignore[no-untyped-call]
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        skipped, failed = self.counts
        self.counts = torch.stack((skipped + bad, torch.where(bad & (skipped == self.allowed), step, failed)))
        return bad

    def skipped_steps(self) -> int:
        """Return the number of steps skipped so far. Waits for the device."""
        return int(self.counts[0])

    def failed_step(self) -> int | None:
        """Return the first step above the allowed number of skipped steps, or None. Waits for the device."""
        step = int(self.counts[1])
        return None if step < 0 else step
