"""Optimisers by name, with optional weight decay on norms and biases."""

from __future__ import annotations

import inspect
import logging

import torch
from torch import nn, optim

from resnetlab.errors import unknown
from resnetlab.training import muon

OPTIMIZERS = ("sgd", "adam", "adamw", "muon")

MUON_DECAY = "weight decay is not applied to convolution kernels: Muon keeps their norm fixed"
_log = logging.getLogger(__name__)


class Undecorated:
    """The first base class of optimisers; it removes torch's decorators from their methods.

    The decorators exclude the methods from torch's compiler and import the compiler for it, even if nothing is
    compiled: a second and a hundred megabytes of memory before the first step.
    """

    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.step = torch.no_grad()(inspect.unwrap(cls.step))  # type: ignore[attr-defined]


class SGD(Undecorated, optim.SGD): ...


class Adam(Undecorated, optim.Adam): ...


class AdamW(Undecorated, optim.AdamW): ...


class Muon(Undecorated, muon.Muon): ...


def make_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float = 0.0,
    decay_norms: bool = True,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
    lr_share: float = 0.05,
    precision: torch.dtype = torch.float32,
) -> optim.Optimizer:
    """Return an optimiser over the parameters that are not frozen, with a fused update.

    With `decay_norms=False`, weight decay is not applied to norms and biases. Muon keeps the norm of convolution
    kernels fixed and applies no weight decay to them. Raises BadInput for an unknown name.

    >>> type(make_optimizer(nn.Linear(2, 2), "adamw", lr=1e-3, weight_decay=0.05)).__name__
    'AdamW'
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_norms:
        groups = [{"params": trained, "weight_decay": weight_decay}]
    else:
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    fused = all(p.device.type in ("cpu", "cuda", "mps") for p in trained)
    match name:
        case "sgd":
            sgd = SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=fused)
            for parameter in trained if momentum else ():
                # Otherwise it is uninitialised memory if the very first step is skipped.
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case "adam":
            return Adam(groups, lr=lr, betas=betas, fused=fused)
        case "adamw":
            return AdamW(groups, lr=lr, betas=betas, fused=fused)
        case "muon":
            if weight_decay:
                _log.warning(MUON_DECAY)
            return Muon(groups, lr=lr, momentum=momentum, betas=betas, lr_share=lr_share, precision=precision)
    raise unknown("optimiser", name, OPTIMIZERS)
