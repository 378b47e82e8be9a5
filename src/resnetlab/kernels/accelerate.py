"""`accelerate` makes a network faster on a CPU by swapping the classes of its modules in place; `restore` undoes it."""

from __future__ import annotations

import logging
from typing import TypeVar

from torch import nn

from resnetlab.errors import BadInput
from resnetlab.kernels.convolution import FastConv1x1, FastConv3x3, is_standard
from resnetlab.kernels.swap import Fast, is_fast
from resnetlab.kernels.units import FastProjection, FastStage, fast_classes

Network = TypeVar("Network", bound=nn.Module)
log = logging.getLogger(__name__)
QUANTIZED = ("torchvision.models.quantization", "torch.ao.")  # quantisation looks for torch's exact classes


def accelerate(model: Network) -> Network:
    """Swap the classes of the modules of `model` for faster ones, in place, and return it.

    Supports the networks of resnetlab, `torchvision.models.resnet18` and its eight siblings, and any network that
    contains their units, or 3x3 and 1x1 convolutions. Modules are matched by their exact class; sub-classes stay as
    they are. Only classes change: parameters, buffers, keys, hooks, `isinstance`, copies and pickles stay the same.

    The fast classes speed up training steps in bfloat16 (under `torch.autocast("cpu", torch.bfloat16)`) with C kernels,
    which are compiled at first use. In all other cases (fp32, another device, tracing, an unusual convolution, a hook
    on a module that would be skipped) they run torch's implementation; every call decides again.

    Move the network to its device first. `model.to(memory_format=torch.channels_last)` before training saves a copy
    per step.

    Raises BadInput if `model` is no module.

    >>> from resnetlab.models import build_model
    >>> model = accelerate(build_model("resnet20", num_classes=10))
    >>> count_accelerated(model), count_accelerated(restore(model))
    (34, 0)
    """
    modules = modules_of(model)
    if not any(type(module).__module__.startswith(QUANTIZED) for module in modules):
        for module, fast in [(module, fast_class(module)) for module in modules]:
            if fast is not None:
                module.__class__ = fast  # type: ignore[assignment]
    swapped = count_accelerated(model)
    log.log(logging.INFO if swapped else logging.DEBUG, "accelerated %d of %d modules", swapped, len(modules))
    return model


def restore(model: Network) -> Network:
    """Undo `accelerate`: restore the classes of the modules of `model`, in place, and return it.

    >>> count_accelerated(restore(accelerate(nn.Conv2d(16, 16, 3, padding=1, bias=False))))
    0
    """
    for module in modules_of(model):
        if is_fast(module):
            assert isinstance(module, Fast)
            module.__class__ = module.plain  # type: ignore[assignment]
    return model


def count_accelerated(model: nn.Module) -> int:
    """The number of modules of `model` that `accelerate` has swapped.

    >>> count_accelerated(accelerate(nn.Conv2d(16, 16, 3, padding=1, bias=False)))
    1
    """
    return sum(map(is_fast, modules_of(model)))


def modules_of(model: object) -> list[nn.Module]:
    """The modules of a network. Raises BadInput for anything else."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"model is a {type(model).__name__}, but must be a torch.nn.Module")
    return list(model.modules())


def fast_class(module: nn.Module) -> type[Fast] | None:
    """The fast class for a module, by its exact class and those of its children; None if there is none."""
    kind, known = type(module), fast_classes()
    if kind is nn.Conv2d:
        assert isinstance(module, nn.Conv2d)
        if is_standard(module, 3):
            return FastConv3x3
        return FastConv1x1 if is_standard(module, 1) and module.stride == (2, 2) else None
    if kind is nn.Sequential and list(module.children()):
        kinds = [type(child) for child in module.children()]
        if kinds == [nn.Conv2d, nn.BatchNorm2d]:
            return FastProjection
        return FastStage if all(child in known for child in kinds) else None
    return known.get(kind)
