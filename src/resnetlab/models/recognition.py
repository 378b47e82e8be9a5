"""Recognise the architecture that weights belong to, from the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from resnetlab.errors import BadInput, unknown
from resnetlab.models.resnet import ResNet
from resnetlab.models.weight_files import add_batch_counters, differences
from resnetlab.models.zoo import ARCHITECTURES, SHORTCUTS, STEMS, Architecture

STEM_OF_KERNEL = {7: "imagenet", 3: "cifar"}


def recognize(weights: Mapping[str, Tensor], name: str = "auto") -> tuple[str, Architecture]:
    """Return the name and the architecture whose network has exactly these weights, whatever its number of classes.

    The kernel of conv1 decides on the stem, the projections on the kind of shortcut. With `name` only that network is
    considered. If none fits, the one with the fewest differences is returned, for `refuse_differences` to name them.

    Raises BadInput for an unknown name and, with "auto", if several networks fit or none is similar.

    >>> from resnetlab.models import build_model
    >>> recognize(build_model("resnet32", 10, shortcut="B").state_dict())[1].shortcut
    'B'
    """
    if name != "auto" and name not in tuple(ARCHITECTURES):
        raise unknown("model", name, ("auto", *ARCHITECTURES))
    units = units_per_stage(weights)
    alike = [key for key, shape in ARCHITECTURES.items() if shape.units_per_stage == units]
    shapes = [(key, shape) for key in ([name] if name != "auto" else alike) for shape in variants(key, weights)]
    found = [(count_differences(shape, weights), key, shape) for key, shape in shapes]
    fitting = dict.fromkeys(key for count, key, _ in found if not count)
    if len(fitting) > 1:
        several = " or ".join(fitting)
        raise BadInput(f"the weights are those of {several}, which have the same shapes; name one of them as the model")
    if not found:
        raise BadInput("the weights fit no network of `resnetlab models`: none has as many stages and units")
    _, key, shape = min(found, key=lambda one: one[0])
    return key, shape


def variants(name: str, weights: Mapping[str, Tensor]) -> Iterator[Architecture]:
    """Yield the architecture of this name, with the stem of the weights, and then with the other kinds of shortcut."""
    architecture, conv1 = ARCHITECTURES[name], weights.get("conv1.weight")
    kernel = conv1.shape[-1] if conv1 is not None and conv1.ndim == 4 else 0
    stem = architecture.stem if architecture.stem == "whitened" else STEM_OF_KERNEL.get(kernel, architecture.stem)
    kinds = SHORTCUTS if architecture.unit in ("basic", "bottleneck", "preact") else ()
    yield from (
        replace(architecture, stem=stem, shortcut=kind) for kind in dict.fromkeys((architecture.shortcut, *kinds))
    )


def resolve_stem(architecture: Architecture, stem: str) -> Architecture:
    """Return the architecture with the stem that is asked for; "auto" leaves it as recognised."""
    if stem not in ("auto", *STEMS):
        raise unknown("stem", stem, ("auto", *STEMS))
    return architecture if stem == "auto" else replace(architecture, stem=stem)


def units_per_stage(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the numbers of units in the keys.

    >>> units_per_stage({"layer1.0.bn1.weight": torch.ones(1), "layer1.1.bn1.weight": torch.ones(1)})
    (2,)
    """
    units = {(int(key[1]), int(key[2])) for name in weights if (key := re.match(r"layer(\d{1,3})\.(\d{1,4})\.", name))}
    counts = Counter(stage for stage, _ in units)
    return tuple(counts[stage] for stage in sorted(counts))


def count_differences(architecture: Architecture, weights: Mapping[str, Tensor]) -> int:
    """Return the number of tensors that differ from those of a network with these classes and channels."""
    own, given = expected(architecture, weights), dict(weights)
    add_batch_counters(given, own)
    return sum(map(len, differences(given, own).values()))


def expected(architecture: Architecture, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict, on the meta device, of the network with the classes and channels of the weights."""
    conv1, head = weights.get("conv1.weight"), weights.get("fc.bias")
    channels = conv1.shape[1] if conv1 is not None and conv1.ndim == 4 else 3
    classes = head.shape[0] if head is not None and head.ndim == 1 else 1
    if not 0 < channels < 2**16 or not 0 < classes < 2**24:  # of a hostile file
        channels, classes = 3, 1
    with torch.device("meta"):  # shapes only
        return ResNet(architecture, classes, channels).state_dict()


def move_padding(weights: dict[str, Tensor], architecture: Architecture, head: str) -> list[str]:
    """Reorder channels so that option A shortcuts that pad on both sides become ours, which pad at the end.

    The paper does not say where its shortcuts add the channels of zeros (He et al. 2015, 3.3). akamaster's, and their
    many copies, add half of them before and half after the old ones; their weights have the same keys and shapes as
    ours, and would give wrong logits. They are recognised by the name of their head, `linear`. The permuted network
    computes the same function. Returns a note, or nothing if nothing was moved.
    """
    if head != "linear" or (architecture.unit, architecture.shortcut) != ("basic", "A"):
        return []
    order = incoming = torch.arange(architecture.channels(0))
    for index, units in enumerate(architecture.units_per_stage):
        channels = architecture.channels(index)
        before = (channels - len(order)) // 2
        rest = torch.cat((torch.arange(before), torch.arange(before + len(order), channels)))
        incoming, order = order, torch.cat((order + before, rest))
        for unit in range(units):
            prefix = f"layer{index + 1}.{unit}"
            weights[f"{prefix}.conv1.weight"] = weights[f"{prefix}.conv1.weight"][:, incoming if unit == 0 else order]
            for name in ("conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var"):
                weights[f"{prefix}.{name}"] = weights[f"{prefix}.{name}"][order]
    weights["fc.weight"] = weights["fc.weight"][:, order]
    return [
        "reordered the channels: shortcuts without weights add zeros on both sides in networks whose head is linear"
    ]
