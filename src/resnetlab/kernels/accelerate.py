"""`accelerate` makes a network faster on a CPU by swapping the classes of its modules in place; `restore` undoes it."""

from __future__ import annotations

import logging
from typing import TypeVar

from torch import nn

from resnetlab.kernels.convolution import FastConv1x1, FastConv3x3, is_standard
from resnetlab.kernels.swap import Fast
from resnetlab.kernels.units import FastConvNorm, FastStage, fast_classes

Network = TypeVar("Network", bound=nn.Module)
log = logging.getLogger(__name__)


def accelerate(model: Network) -> Network:
    """Swap the classes of the modules of `model` for faster ones, in place, and return it.

    It takes our networks, `torchvision.models.resnet18` and its eight siblings, and whatever else is made of their
    units or of 3x3 and 1x1 convolutions, by exact class: sub-classes stay as they are. Only the classes change:
    parameters, buffers, keys, hooks, `isinstance`, copies and pickles are what they were.

    The fast classes compute a training step in bfloat16 (under `torch.autocast("cpu", torch.bfloat16)`) with kernels in
    C, which are compiled when they are first needed. Everything else (fp32, another device, a hook on a module that
    would be skipped, tracing, an unusual convolution, …) runs what torch would run, decided at every call. Call it once
    the network is on its device; `model.to(memory_format=torch.channels_last)` first saves a copy per step.

    >>> from resnetlab.models import build_model
    >>> model = accelerate(build_model("resnet20", num_classes=10))
    >>> count_accelerated(model), count_accelerated(restore(model))
    (34, 0)
    """
    swaps = [(module, fast_class(module)) for module in model.modules()]
    for module, fast in swaps:
        if fast is not None:
            module.__class__ = fast
    log.info("%d of %d modules compute with fast kernels", count_accelerated(model), len(swaps))
    return model


def restore(model: Network) -> Network:
    """Undo `accelerate`: give the modules of `model` their own classes back, in place, and return it."""
    for module in model.modules():
        if isinstance(module, Fast):
            module.__class__ = module.plain  # type: ignore[assignment]
    return model


def count_accelerated(model: nn.Module) -> int:
    """The number of modules of `model` that `accelerate` has swapped."""
    return sum(isinstance(module, Fast) for module in model.modules())


def fast_class(module: nn.Module) -> type[nn.Module] | None:
    """The class to swap in for a module, found by its exact class and what it is made of; None to leave it."""
    kind, known = type(module), fast_classes()
    if kind is nn.Conv2d:
        assert isinstance(module, nn.Conv2d)
        if is_standard(module, 3):
            return FastConv3x3
        return FastConv1x1 if is_standard(module, 1) and module.stride == (2, 2) else None
    if kind is nn.Sequential and list(module.children()):
        kinds = [type(child) for child in module.children()]
        if kinds == [nn.Conv2d, nn.BatchNorm2d]:
            return FastConvNorm
        return FastStage if all(child in known for child in kinds) else None
    return known.get(kind)
