"""Weights from elsewhere into a network: all of them, or none and the exact reason."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from resnetlab.errors import BadInput, printable
from resnetlab.models.resnet import ResNet
from resnetlab.models.weight_files import open_weights

PREFIXES = ("module.", "_orig_mod.")  # left in the keys by DataParallel and torch.compile
HEAD = ("fc.weight", "fc.bias")


def load_pretrained(model: ResNet, source: str | Path, *, cache: Path | None = None) -> list[str]:
    """Load weights into `model`, and return notes for a person: what had to be adapted.

    `source` is "torchvision" (its default ImageNet weights for `model.name`), the path of a .pth, .pt or .safetensors
    file, or an http(s) address whose file name ends in its digest, kept in `cache` (torch.hub's folder by default).
    Another number of classes keeps the model's own fresh head; RGB weights are adapted to other input channels.
    Raises `BadInput`, with the model unchanged, for anything else that is missing, unexpected or of another shape.

    >>> import tempfile
    >>> from resnetlab.models import build_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "thousand.pth")
    ...     torch.save(build_model("resnet20", 1000).state_dict(), path)
    ...     print(*load_pretrained(build_model("resnet20", 10), path))
    the head is new: 1000 classes in the weights, 10 here
    """
    given, notes = open_weights(source, model.name, cache)
    given, stripped = without_prefixes(given)
    own = model.state_dict()
    notes += stripped
    notes += adapt_head(given, own)
    notes += adapt_input(given, own)
    notes += add_counters(given, own)
    refuse_differences(given, own, "torchvision's weights" if str(source) == "torchvision" else printable(source))
    model.load_state_dict(given)
    return notes


def without_prefixes(given: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Strip what every key begins with and no network of ours has, innermost last.

    >>> without_prefixes({"module._orig_mod.fc.bias": torch.zeros(1)})
    ({'fc.bias': tensor([0.])}, ["stripped 'module.' from the keys", "stripped '_orig_mod.' from the keys"])
    """
    notes = []
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in given)), None):
        given = {key.removeprefix(prefix): tensor for key, tensor in given.items()}
        notes.append(f"stripped {prefix!r} from the keys")
    return given, notes


def adapt_head(given: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Where the number of classes differs, put the model's own head among the given weights."""
    if not all(key in given for key in HEAD):
        return []
    weight, bias = (given[key] for key in HEAD)
    same_kind = weight.shape[1:] == own["fc.weight"].shape[1:] and bias.shape == weight.shape[:1]
    if not same_kind or len(weight) == len(own["fc.weight"]):
        return []
    given.update({key: own[key] for key in HEAD})
    return [f"the head is new: {len(weight)} classes in the weights, {len(own['fc.weight'])} here"]


def adapt_input(given: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Where the input is not RGB, make a first convolution that answers to grey images as the RGB one does."""
    weight = given.get("conv1.weight")
    maps, channels, *kernel = own["conv1.weight"].shape
    # The whole shape first: a few bytes can claim to be a tensor of terabytes, and summing would write it out.
    if weight is None or weight.shape != (maps, 3, *kernel) or channels == 3:
        return []
    if channels == 1:
        given["conv1.weight"] = weight.sum(1, keepdim=True)
        return ["the input has 1 channel: summed the RGB weights of conv1"]
    given["conv1.weight"] = weight[:, torch.arange(channels) % 3] * (3 / channels)
    return [f"the input has {channels} channels: repeated the RGB weights of conv1, scaled by 3/{channels}"]


def add_counters(given: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Files from before torch 0.4.1, some of torchvision's among them, lack the norms' batch counters."""
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    if not counters or any(key in given for key in counters):
        return []
    given.update({key: torch.zeros_like(own[key]) for key in counters})
    return ["the weights are without the norms' batch counters: these start at 0"]


def refuse_differences(given: dict[str, Tensor], own: dict[str, Tensor], shown: str) -> None:
    """Raise `BadInput` with every key that is missing, unexpected, or of another shape or kind."""
    missing = [key for key in own if key not in given]
    unexpected = [printable(key) for key in given if key not in own]
    shared = [key for key in own if key in given]
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}"
        for key in shared
        if given[key].shape != own[key].shape
    ]
    kinds = [
        f"{key} {given[key].dtype} for {own[key].dtype}"
        for key in shared
        if given[key].is_floating_point() != own[key].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another kind": kinds}
    lists = [f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in found.items() if keys]
    if lists:
        stem = (
            " (conv1 differs: are they for the other stem?)"
            if any(line.startswith("conv1.weight") for line in shapes)
            else ""
        )
        raise BadInput(f"{shown} do not fit this model, and nothing was loaded{stem}; {'; '.join(lists)}")
