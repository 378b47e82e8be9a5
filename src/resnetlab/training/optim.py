"""Optimisers by name, with or without weight decay on norms and biases."""

from __future__ import annotations

import torch
from torch import nn, optim

from resnetlab.errors import unknown
from resnetlab.training.bare import Bare
from resnetlab.training.muon import Muon

OPTIMIZERS = ("sgd", "adam", "adamw", "muon")


class SGD(Bare, optim.SGD): ...


class Adam(Bare, optim.Adam): ...


class AdamW(Bare, optim.AdamW): ...


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
    """An optimiser over the parameters that are not frozen, its update fused into one pass over them.

    With `decay_norms=False` only matrices and kernels decay: a norm's scale or a bias at zero regularises nothing.
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
                # Otherwise taken from uninitialised memory, if the first step of all has to be left out.
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case "adam":
            return Adam(groups, lr=lr, betas=betas, fused=fused)
        case "adamw":
            return AdamW(groups, lr=lr, betas=betas, fused=fused)
        case "muon":
            return Muon(groups, lr=lr, momentum=momentum, betas=betas, lr_share=lr_share, precision=precision)
    raise unknown("optimiser", name, OPTIMIZERS)
