"""Pretrained weights: read safely from a file, an address or torchvision, and loaded completely or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from resnetlab.download import download
from resnetlab.errors import BadInput, printable
from resnetlab.files import cache_folder
from resnetlab.models.recognition import move_padding
from resnetlab.models.resnet import ResNet
from resnetlab.models.weight_files import FoundWeights, add_batch_counters, read_weights_file, refuse_differences
from resnetlab.models.zoo import ARCHITECTURES

TORCHVISION = ("torchvision", "imagenet")  # both name its weights for ImageNet
NAME_WITH_DIGEST = re.compile(r"[\w.+-]+-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)", re.ASCII)
HEAD = ("fc.weight", "fc.bias")


def load_pretrained(model: ResNet, source: str | Path, *, cache: Path | None = None) -> list[str]:
    """Load weights into `model`, and return notes about what had to be adapted.

    `source` is one of

    - "torchvision" or "imagenet": torchvision's default ImageNet weights for `model.name`;
    - the path of a file that torch.save (.pth, .pt, .th, .pth.tar, .ckpt, .bin) or safetensors wrote;
    - an http(s) address whose file name ends in the SHA-256 digest of the file. It is downloaded once and kept in
      `cache` (default: the folder that torchvision uses).

    Wrappers such as `state_dict`, prefixes such as `module.`, and the names that published networks have for our keys
    (`linear` for `fc`, `shortcut` for `downsample`) are recognised; the notes list what was renamed.

    If the number of classes differs, the model keeps its own new head. If the number of input channels differs, the
    first convolution is derived from the RGB weights.

    Raises BadInput, and leaves the model unchanged, if any other key is missing, unexpected, or of another shape.

    >>> import tempfile
    >>> from resnetlab.models import build_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "thousand.pth")
    ...     torch.save(build_model("resnet20", 1000).state_dict(), path)
    ...     print(*load_pretrained(build_model("resnet20", 10), path))
    new head: the weights have 1000 classes, the model has 10
    """
    if not isinstance(model, ResNet):
        raise BadInput(
            f"model is a {type(model).__name__}, but must be a network of resnetlab; another one loads weights by its "
            "own load_state_dict"
        )
    weights, notes, head = read_weights(source, model.name, cache)
    own = model.state_dict()
    notes += adapt_head(weights, own)
    notes += adapt_input(weights, own)
    notes += add_batch_counters(weights, own)
    stem = weights.get("conv1.weight")
    is_other_stem = stem is not None and stem.shape != own["conv1.weight"].shape
    hint = " (conv1 differs: are they for the other stem?)" if is_other_stem else ""
    refuse_differences(weights, own, "torchvision's weights" if source in TORCHVISION else printable(source), hint)
    notes += move_padding(weights, model.architecture, head)
    model.load_state_dict(weights)
    return notes


def read_weights(source: str | Path, model_name: str, cache: Path | None = None) -> FoundWeights:
    """Return the weights that `source` (see `load_pretrained`) contains, under our names, with notes.

    Raises BadInput if it cannot be downloaded or read, or contains anything but tensors.
    """
    if not isinstance(source, str | os.PathLike):
        raise BadInput(
            f"the weights are {source!r}; give 'imagenet' or 'torchvision', the path of a file or an http(s) address"
        )
    address = torchvision_address(model_name) if source in TORCHVISION else str(source)
    if address.startswith(("http://", "https://")):
        path, notes = download_weights(address, cache)
    else:
        path, notes = Path(source), []
    found = read_weights_file(path)
    return found._replace(notes=notes + found.notes)


def download_weights(address: str, cache: Path | None = None) -> tuple[Path, list[str]]:
    """Download the file at `address` unless the cache has it; return its path, and a note if it was damaged there."""
    name = PurePosixPath(urlsplit(address).path).name
    match = NAME_WITH_DIGEST.fullmatch(name)
    if match is None:
        raise BadInput(
            f"{printable(address)} contains no digest to check the file with: the file name must end in the first 8 or "
            "more hex digits of its SHA-256, like resnet18-f37072fd.pth. Download it yourself and give the path instead"
        )
    path = (torchvision_cache(name) if cache is None else Path(cache)) / name
    existed = path.is_file()
    downloaded = download(address, path, algorithm="sha256", digest=match[1])
    return path, [f"{printable(path)} was damaged; downloaded it again"] if existed and downloaded else []


def torchvision_cache(name: str) -> Path:
    """Return the folder where torchvision keeps its weights, created if missing, if the file `name` can be used there.

    Otherwise (no home folder, or a read-only one) return `cache_folder()`.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if folder.parts[0] != "~":  # torch returns ~ if there is no home folder; it would become a folder called ~
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder / name, os.R_OK) or os.access(folder, os.W_OK | os.X_OK):
                return folder
    return cache_folder()


def torchvision_address(model_name: str) -> str:
    """Return the address of torchvision's default weights for a model.

    >>> torchvision_address("resnet34")
    'https://download.pytorch.org/models/resnet34-b627a593.pth'
    """
    models = import_torchvision_models()
    offered = [name for name in ARCHITECTURES if name in models.list_models()]
    if model_name not in offered:
        wanted = f"for {model_name}" if model_name else "for a network without an architecture's name"
        raise BadInput(f"torchvision has no weights {wanted}; it has weights for {', '.join(offered)}")
    return str(models.get_model_weights(model_name).DEFAULT.url)


def import_torchvision_models() -> Any:
    """Import torchvision.models, or raise BadInput with the command that repairs the installation."""
    try:
        import torchvision.models
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # raised by a build for another torch
        raise BadInput(
            f"torchvision cannot be imported beside torch {torch.__version__} ({printable(error)}). Install both from "
            "one index, e.g. pip install --force-reinstall torch torchvision --index-url "
            "https://download.pytorch.org/whl/cpu, or give a file or an address with the weights"
        ) from error
    return torchvision.models


def adapt_head(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Replace the head in `weights` by the model's `own` one if the number of classes differs."""
    if not all(key in weights for key in HEAD):
        return []
    weight, bias = (weights[key] for key in HEAD)
    is_a_head = weight.shape[1:] == own["fc.weight"].shape[1:] and bias.shape == weight.shape[:1]
    if not is_a_head or len(weight) == len(own["fc.weight"]):
        return []
    weights.update({key: own[key] for key in HEAD})
    return [f"new head: the weights have {len(weight)} classes, the model has {len(own['fc.weight'])}"]


def adapt_input(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Derive the first convolution from the RGB weights if the model has another number of input channels.

    A grey image then gives the same activations as the same image in RGB.
    """
    weight = weights.get("conv1.weight")
    out_channels, channels, *kernel = own["conv1.weight"].shape
    # The whole shape is checked first: a small file can contain a tensor that expands to terabytes when it is summed.
    if weight is None or weight.shape != (out_channels, 3, *kernel) or channels == 3:
        return []
    if channels == 1:
        weights["conv1.weight"] = weight.sum(1, keepdim=True)
        return ["1 input channel: summed the RGB weights of conv1"]
    weights["conv1.weight"] = weight[:, torch.arange(channels) % 3] * (3 / channels)
    return [f"{channels} input channels: repeated the RGB weights of conv1, scaled by 3/{channels}"]
