"""Import weights that other programs saved: make a model file of them, with class names and preprocessing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.data.class_files import FORMS, distinct, read_class_names
from resnetlab.data.classes import counted
from resnetlab.data.preprocess import Preprocessing, for_size
from resnetlab.errors import BadInput, printable
from resnetlab.files import as_path, open_regular, read_regular, read_sealed
from resnetlab.inference.foreign import HEAD, is_ours
from resnetlab.inference.model_file import WEIGHTS_FORMAT, Model, read_model, save_model
from resnetlab.models.pretrained import NAME_WITH_DIGEST, import_torchvision_models
from resnetlab.models.recognition import count_differences, expected, move_padding, recognize, resolve_stem
from resnetlab.models.resnet import ResNet
from resnetlab.models.weight_files import add_batch_counters, listed, read_weights_file, refuse_differences
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import isolated

IMAGENET = "imagenet"
CONFIG_FOR = ("model.safetensors", "pytorch_model.bin")  # the weights that a config.json beside them describes


@dataclass(frozen=True)
class Imported:
    """The result of an import: the model file, its content, and sentences about what was taken, renamed and assumed."""

    path: Path
    model: Model
    notes: tuple[str, ...]


@isolated()
def import_model(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    classes: str | os.PathLike[str] | Sequence[str],
    model: str = "auto",
    stem: str = "auto",
    image_size: int | None = None,
    resize_to: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fit: str | None = None,
) -> Imported:
    """Make a model file of weights that another program saved, and return it with notes about what was done.

    `file` is one that torch.save or safetensors wrote: a state dict, or the checkpoint of a training script. Wrappers,
    prefixes and the names of published networks are recognised; no code in the file is run. `out` must be new; default:
    the name of the network, in the working directory.

    `classes` are the names in the order of the network's outputs, or a file with them (see `read_class_names`), or
    "imagenet" for the 1,000 names of torchvision.

    `model` is a name of `list_models`, or "auto" to find the network with these shapes. `stem` is "auto" (by the
    kernel of the first convolution), "cifar" or "imagenet".

    `image_size` and `resize_to` in pixels, `mean` and `std` of pixels in [0, 1], and `fit` ("crop", "squash" or "pad")
    are the preprocessing of the training. Missing ones are read from a config.json of timm beside model.safetensors, or
    from torchvision's record of its official weights, recognised by their digest. Without `resize_to`, images above
    64 px are resized to 256/224 of `image_size`, then cropped.

    Raises BadInput, and writes nothing, if the file cannot be read, does not fit the network, or the class names or the
    preprocessing are missing or do not fit.

    >>> import tempfile
    >>> from resnetlab.models import build_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights, out = Path(folder, "a.pth"), Path(folder, "a.safetensors")
    ...     torch.save({"net": build_model("resnet20", 2, shortcut="B").state_dict()}, weights)
    ...     pixels = {"image_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    ...     import_model(weights, out, classes=["cat", "dog"], **pixels).model.network.name
    'resnet20'
    """
    path, target = as_path(file, "file"), None if out is None else as_path(out, "out")
    require_foreign(path)
    names = class_names(classes)
    weights, notes, head = read_weights_file(path)
    name, architecture = recognize(weights, model)
    architecture = resolve_stem(architecture, stem)
    own = expected(architecture, weights)
    notes = [*notes, *add_batch_counters(weights, own)]
    nearest = f" (nearest: {name})" if model == "auto" else hint(weights, name)
    refuse_differences(weights, own, f"the weights in {printable(path)}", nearest)
    if len(names) != len(weights["fc.bias"]):
        have = f"the network has {counted(len(weights['fc.bias']), 'output')}"
        raise BadInput(f"{have}, but there are {len(names):,} class names; give one name for each output, in its order")
    channels = weights["conv1.weight"].shape[1]
    stated = {"image_size": image_size, "resize_to": resize_to, "mean": mean, "std": std, "fit": fit}
    preprocessing, sources = preprocessing_of(path, channels, stated)
    target = Path(f"{name}.safetensors") if target is None else target
    if target.exists() or not target.parent.is_dir():
        wrong = "exists" if target.exists() else "is in a folder that does not exist"
        raise BadInput(f"{printable(target)} {wrong}; give another `out`")
    notes += move_padding(weights, architecture, head)
    network, converted = network_of(architecture, name, weights)
    notes += [*converted, *sources, *assumptions(architecture)]
    check_forward(network, preprocessing)
    origin = {
        "imported": {"file": path.name, "sha256": sha256(path), "notes": notes},
        "versions": {package: importlib.metadata.version(package) for package in ("resnetlab", "torch")},
    }
    save_model(target, network, names, preprocessing, origin)
    return Imported(target, read_model(target), tuple(notes))


def require_foreign(path: Path) -> None:
    """Raise BadInput for a file that does not exist, or that resnetlab wrote: it is a model file, or damaged.

    The weights of other modules that `fit` wrote may be imported.
    """
    if not path.exists():
        raise BadInput(f"file not found: {printable(path)}; give the path of a file with weights")
    if not path.is_file():
        return
    with open_regular(path) as file:
        if not is_ours(file.read(HEAD)):
            return
    if read_sealed(path)[1].get("format") == WEIGHTS_FORMAT:
        return
    read_model(path)
    raise BadInput(f"{printable(path)} is a model file of resnetlab already, and needs no import")


def class_names(classes: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes, read from a file, given, or those of ImageNet."""
    if classes == IMAGENET and not Path(IMAGENET).exists():
        weights = import_torchvision_models().ResNet18_Weights.DEFAULT
        return tuple(weights.meta["categories"])
    if isinstance(classes, str | os.PathLike):
        return read_class_names(as_path(classes, "classes"))
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise BadInput(f"the class names are {printable(repr(classes)[:60])}; give a list of names, or a file: {FORMS}")
    return distinct(classes, "the list of classes")


def hint(weights: Mapping[str, Tensor], name: str) -> str:
    """Return the network that the weights do fit, for the message that they do not fit the one that was asked for."""
    try:
        other, shape = recognize(weights)
    except BadInput:
        return ""
    return f" (they fit {other})" if other != name and not count_differences(shape, weights) else ""


def preprocessing_of(path: Path, channels: int, stated: Mapping[str, Any]) -> tuple[Preprocessing, list[str]]:
    """Return the preprocessing, as stated or known, with sentences about what was not stated."""
    values = {name: value for name, value in stated.items() if value is not None}
    found, source = known_preprocessing(path) if {"image_size", "mean", "std"} - values.keys() else ({}, "")
    taken = {name: value for name, value in found.items() if name not in values}
    if "image_size" in values:
        taken.pop("resize_to", None)
    values |= taken
    missing = ["the image size"] if "image_size" not in values else []
    missing += [f"`{name}`" for name in ("mean", "std") if name not in values]
    if missing:
        raise BadInput(
            f"the preprocessing of {printable(path.name)} is not known; give {', '.join(missing)}, as in its training "
            "(the mean and std of ImageNet are 0.485 0.456 0.406 and 0.229 0.224 0.225, of pixels in [0, 1])"
        )
    size, fit = values["image_size"], values.get("fit", "crop")
    usual = for_size(size, channels, fit)
    mean, std = (tuple(given) if isinstance(given := values[name], Sequence) else given for name in ("mean", "std"))
    resize_to = values.get("resize_to", usual.resize_to)
    notes = [f"{', '.join(taken)}: {source}"] if taken else []
    if "fit" not in values:
        notes.append("fit: crop, the short side is resized and the centre taken; it was not stated")
    if "resize_to" not in values and resize_to != size:
        notes.append(f"resize_to: {resize_to} px, 256/224 of the image size; it was not stated")
    return replace(usual, resize_to=resize_to, mean=mean, std=std), notes


def known_preprocessing(path: Path) -> tuple[dict[str, Any], str]:
    """Return what is known about the preprocessing of a file, with its source; empty if nothing is."""
    config = path.with_name("config.json")
    if path.name in CONFIG_FOR and config.is_file():
        return timm_preprocessing(config)
    match = NAME_WITH_DIGEST.fullmatch(path.name)
    if match is None or not sha256(path).startswith(match[1]):
        return {}, ""
    models = import_torchvision_models()
    for name in models.list_models():
        for weights in models.get_model_weights(name):
            if weights.url.endswith(f"/{path.name}"):
                used = weights.transforms()
                size, resize_to = used.crop_size[0], used.resize_size[0]
                known = {"image_size": size, "resize_to": resize_to, "mean": used.mean, "std": used.std, "fit": "crop"}
                return known, f"torchvision's, for its official weights {weights}"
    return {}, ""


def timm_preprocessing(config: Path) -> tuple[dict[str, Any], str]:
    """Return the preprocessing in the config.json of timm, with its source; empty if it has none."""
    try:
        cfg = json.loads(read_regular(config).decode())["pretrained_cfg"]
        size, resampling = cfg["input_size"][1], cfg.get("interpolation", "bilinear")
        known = {
            "image_size": size,
            "resize_to": math.floor(size / cfg.get("crop_pct", 0.875)),
            "mean": [float(value) for value in cfg["mean"]],
            "std": [float(value) for value in cfg["std"]],
            "fit": {"center": "crop", "squash": "squash", "border": "pad"}[cfg.get("crop_mode", "center")],
        }
    except (OSError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError):
        return {}, ""
    other = "" if resampling == "bilinear" else f"; images are resized bilinearly here, not {printable(resampling)}"
    other += "; borders are black here, those of timm have the mean colour" if known["fit"] == "pad" else ""
    return known, f"from {config.name} beside the file{other}"


def network_of(architecture: Architecture, name: str, weights: Mapping[str, Tensor]) -> tuple[ResNet, list[str]]:
    """Return the network with these weights in fp32, on the CPU in evaluation mode, and a note if they were converted.

    Raises BadInput for weights that are not finite.
    """
    kinds = sorted({str(tensor.dtype) for tensor in weights.values() if tensor.is_floating_point()} - {"torch.float32"})
    plain = {key: tensor.float() if tensor.is_floating_point() else tensor.long() for key, tensor in weights.items()}
    plain = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in plain.items()}
    if wrong := [key for key, tensor in plain.items() if not tensor.isfinite().all()]:
        raise BadInput(f"these weights are NaN or infinite: {listed(wrong)}; the network cannot compute with them")
    if wrong := [key for key, tensor in plain.items() if key.endswith("running_var") and (tensor < 0).any()]:
        raise BadInput(f"these variances are negative: {listed(wrong)}; the network cannot compute with them")
    with torch.device("meta"):
        network = ResNet(architecture, len(plain["fc.bias"]), plain["conv1.weight"].shape[1])
    network.load_state_dict(plain, assign=True)
    network.name = name
    return network.eval(), [f"converted {', '.join(kinds)} to torch.float32"] if kinds else []


def assumptions(architecture: Architecture) -> list[str]:
    """Return sentences about what weights do not show, and other programs may have otherwise."""
    found = []
    if architecture.stem == "cifar":
        found.append("assumed: a 3x3 stem of stride 1, without pooling; weights do not show strides")
    if architecture.stem == "imagenet":
        found.append("assumed: a 7x7 stem of stride 2 with 3x3 max pooling; weights do not show strides")
    if architecture.unit == "bottleneck":
        found.append("assumed: the stride of a bottleneck is in its 3x3 convolution, as in torchvision and timm")
    if architecture.shortcut == "A":
        found.append("assumed: shortcuts subsample and add channels of zeros; weights do not show them")
    return found


@torch.inference_mode()
def check_forward(network: ResNet, preprocessing: Preprocessing) -> None:
    """Compute the logits of two images of noise. Raises BadInput if the network cannot, or they are not finite."""
    side = preprocessing.resize_to
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side, preprocessing.channels), dtype=np.uint8)
    try:
        logits = network(preprocessing.normalize(torch.from_numpy(noise)))
    except RuntimeError as error:
        size = preprocessing.image_size
        raise BadInput(f"{network.name} cannot compute with images of {size} px: {printable(error)[:200]}") from error
    if not logits.isfinite().all():
        raise BadInput(f"{network.name} with these weights and this preprocessing has an output that is not finite")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
