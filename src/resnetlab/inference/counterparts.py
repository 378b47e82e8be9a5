"""Weights of a model as torchvision and timm read them, for the networks that these libraries have, too."""

from __future__ import annotations

import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from resnetlab.errors import BadInput, printable
from resnetlab.files import apart
from resnetlab.inference.model_file import Model
from resnetlab.inference.onnx_file import Predict
from resnetlab.models.pretrained import import_torchvision_models
from resnetlab.models.zoo import IMAGENET, WIDER, Architecture

SHARED = IMAGENET | WIDER
"""The networks that both libraries have under the same name and with the same keys."""

CROPS = {"crop": "center", "squash": "squash", "pad": "border"}
"""timm's names for the ways to make an image square."""


def shared_name(architecture: Architecture, library: str) -> str:
    """Return the name of a network in torchvision and timm. Raises BadInput, with the difference, if there is none.

    >>> shared_name(Architecture("basic", (2, 2, 2, 2)), "timm")
    'resnet18'
    """
    name = next((name for name, shared in SHARED.items() if shared == architecture), None)
    if name is None:
        raise BadInput(
            f"{library} has no such network: {difference(architecture)}; it has {', '.join(SHARED)}, with the "
            "imagenet stem. Export to onnx or pt2, which need no counterpart"
        )
    return name


def difference(architecture: Architecture) -> str:
    """Return, in a few words, the reason why torchvision and timm have no such network."""
    if architecture.unit not in ("basic", "bottleneck"):
        return f"its units are {architecture.unit}"
    if architecture.stem != "imagenet":
        return f"its stem is {architecture.stem}"
    if architecture.shortcut != "B":
        return f"its shortcuts are those of option {architecture.shortcut}"
    return "the number or the width of its units is another"


def to_torchvision(model: Model) -> tuple[bytes, dict[str, Any], Predict]:
    """Return a .pth file with the state dict, the facts to use it, and a function that runs torchvision's network."""
    name = shared_name(model.network.architecture, "torchvision")
    channels = model.preprocessing.channels
    if channels != 3:
        raise BadInput(f"torchvision's {name} reads 3 channels, and this model {channels}; export to onnx, pt2 or timm")
    network = import_torchvision_models().get_model(name, weights=None, num_classes=len(model.classes))
    weights = apart(model.network.state_dict())
    network.load_state_dict(weights)
    file = io.BytesIO()
    torch.save(weights, file)
    facts = {"torchvision_model": name, "arguments": {"num_classes": len(model.classes)}}
    return file.getvalue(), facts, predictor(network, model)


def to_timm(model: Model) -> tuple[dict[str, bytes], dict[str, Any], Predict]:
    """Return the files of a folder that timm loads, the facts to use it, and a function that runs timm's network."""
    name = shared_name(model.network.architecture, "timm")
    try:
        import timm
    except ImportError as error:
        raise BadInput(
            f"timm verifies the export and cannot be imported ({printable(error)}): pip install timm"
        ) from error
    files = {
        "config.json": (json.dumps(timm_config(model, name), indent=2, ensure_ascii=False) + "\n").encode(),
        "model.safetensors": save(apart(model.network.state_dict()), {"format": "pt"}),
    }
    with tempfile.TemporaryDirectory(prefix="resnetlab-") as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes(content)
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return (
        files,
        {"timm_model": name, "load": "timm.create_model('local-dir:FOLDER', pretrained=True)"},
        predictor(network, model),
    )


def timm_config(model: Model, name: str) -> dict[str, Any]:
    """Return the content of timm's config.json."""
    settings = model.preprocessing
    size = [settings.channels, settings.image_size, settings.image_size]
    return {
        "architecture": name,
        "num_classes": len(model.classes),
        "num_features": model.network.fc.in_features,
        "label_names": list(model.classes),
        "model_args": {"in_chans": settings.channels},
        "pretrained_cfg": {
            "input_size": size,
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": crop_share(settings.image_size, settings.resize_to),
            "crop_mode": CROPS[settings.fit],
            "mean": list(settings.mean),
            "std": list(settings.std),
            "num_classes": len(model.classes),
            "pool_size": [-(-settings.image_size // 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def crop_share(image_size: int, resize_to: int) -> float:
    """Return image_size / resize_to, rounded so that floor(image_size / share), as timm computes it, is resize_to."""
    share = image_size / resize_to
    return share if math.floor(image_size / share) == resize_to else math.nextafter(share, 0)


def predictor(network: nn.Module, model: Model) -> Predict:
    """Return a function from pixels to probabilities that applies the model's preprocessing and temperature."""
    network.eval()

    @torch.inference_mode()
    def predict(pixels: np.ndarray) -> np.ndarray:
        logits = network(model.preprocessing.normalize(torch.from_numpy(pixels)))
        return np.asarray((logits.double() / model.temperature).softmax(1))

    return predict
