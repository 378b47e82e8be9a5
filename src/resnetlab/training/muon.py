"""Muon (Jordan et al. 2024): an optimiser for convolution kernels with steps of equal length in every direction.

The momentum of a kernel, as a matrix (out_channels, in_channels * height * width), is replaced by a matrix with the
same singular vectors and singular values near 1, computed by a few Newton-Schulz iterations. Before each step the
kernel is scaled to the norm of such a matrix, so the learning rate is the step's length relative to the kernel. Weight
decay would only scale the kernel as well, and is not applied. All other parameters are updated by Adam with decoupled
weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim

# Coefficients of a x + b x^3 + c x^5: the steepest polynomial whose iterations end between 0.7 and 1.2, not at 1.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, iterations: int = 3) -> Tensor:
    """Return a matrix (m, n) with the same singular vectors and singular values near 1, in the same dtype.

    >>> values = torch.linalg.svdvals(orthogonalized(torch.randn(8, 20), 5))
    >>> bool(((0.5 < values) & (values < 1.5)).all())
    True
    """
    a, b, c = QUINTIC
    x = matrix / (matrix.norm() + 1e-7)
    if tall := len(matrix) > matrix.shape[1]:
        x = x.t()
    for _ in range(iterations):
        square = x @ x.t()
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        x = torch.addmm(x, factor, x, beta=a)
    return x.t() if tall else x  # type: ignore[no-any-return]


class Muon(optim.Optimizer):
    """Muon for parameters of four dimensions; Adam, at `lr_share` of the learning rate, for the others.

    `weight_decay` only applies to the others. `precision` is the dtype of the Newton-Schulz iterations. A step with
    `found_inf` set changes nothing.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        *,
        momentum: float = 0.6,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        lr_share: float = 0.05,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.precision = precision
        defaults = {"momentum": momentum, "betas": betas, "weight_decay": weight_decay, "lr_share": lr_share}
        super().__init__(params, {"lr": lr, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        if self.found_inf is not None and bool(self.found_inf):
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim == 4:
                    self.muon(parameter, group)
                else:
                    self.adam(parameter, group)

    def muon(self, kernel: nn.Parameter, group: dict[str, Any]) -> None:
        """Update a kernel (out_channels, in_channels, height, width)."""
        assert kernel.grad is not None
        state = self.state[kernel]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(kernel)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(kernel.grad)
        ahead = kernel.grad.add(momentum, alpha=group["momentum"])
        # As (O, H, W, C) a channels_last kernel is a matrix without a copy; the order of the columns has no effect.
        flat = ahead.permute(0, 2, 3, 1)
        direction = orthogonalized(flat.flatten(1).to(self.precision)).to(kernel.dtype).view(flat.shape)
        # Bounded from below: a kernel of zeros, as `zero_init` makes one, would become NaN.
        kernel.mul_(math.sqrt(len(kernel)) / kernel.norm().clamp_min(1e-12))
        kernel.add_(direction.permute(0, 3, 1, 2), alpha=-group["lr"])

    def adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Update any other parameter."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        lr, (beta1, beta2) = group["lr"] * group["lr_share"], group["betas"]
        count, mean, square = state["step"].add_(1), state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(parameter.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        scale = (square / (1 - beta2**count)).sqrt_().add_(1e-8)
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.sub_(mean / (1 - beta1**count) / scale * lr)
