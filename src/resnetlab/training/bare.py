"""Optimisers without the compiler that torch imports for them."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer


class Bare:
    """Goes before an optimiser among a class's bases: its methods as they were written, undecorated.

    torch shields these methods from its compiler, and imports the compiler to do so, whether or not anything is ever
    compiled: a second, and a hundred megabytes of memory, before the first step.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.step = torch.no_grad()(inspect.unwrap(cls.step))  # type: ignore[attr-defined]
