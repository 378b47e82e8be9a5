"""Pretrained weights: read safely from a file, an address or torchvision, and loaded completely or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from resnetlab.download import download
from resnetlab.errors import BadInput, printable
from resnetlab.files import cache_folder
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import ARCHITECTURES

TORCHVISION = ("torchvision", "imagenet")  # both name its weights for ImageNet
SUFFIXES = (".pth", ".pt", ".safetensors")
NAME_WITH_DIGEST = re.compile(r"[\w.+-]+-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)", re.ASCII)
WRAPPERS = ("state_dict", "model")  # the keys under which training scripts store the weights in a checkpoint
PREFIXES = ("module.", "_orig_mod.")  # left in the keys by DataParallel and torch.compile
HEAD = ("fc.weight", "fc.bias")


def load_pretrained(model: ResNet, source: str | Path, *, cache: Path | None = None) -> list[str]:
    """Load weights into `model`, and return notes about what had to be adapted.

    `source` is one of

    - "torchvision" or "imagenet": torchvision's default ImageNet weights for `model.name`;
    - the path of a .pth, .pt or .safetensors file;
    - an http(s) address whose file name ends in the SHA-256 digest of the file. It is downloaded once and kept in
      `cache` (default: the folder that torchvision uses).

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
    weights, notes = read_weights(source, model.name, cache)
    weights, stripped = strip_prefixes(weights)
    own = model.state_dict()
    notes += stripped
    notes += adapt_head(weights, own)
    notes += adapt_input(weights, own)
    notes += add_batch_counters(weights, own)
    refuse_differences(weights, own, "torchvision's weights" if source in TORCHVISION else printable(source))
    model.load_state_dict(weights)
    return notes


def read_weights(source: str | Path, model_name: str, cache: Path | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict that `source` (see `load_pretrained`) contains, and notes about the download.

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
    return state_dict_in(read_file(path), path), notes


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


def read_file(path: Path) -> object:
    """Return the content of a .pth, .pt or .safetensors file; no code in it is ever run.

    Raises BadInput if the file is missing, damaged, or contains Python objects beside tensors and plain containers.
    """
    shown = printable(path)
    if path.is_dir():
        raise BadInput(
            f"{shown} is a folder; give the path of a file with weights. `resnetlab.load_model` reads the network of a "
            "run's folder, `resnetlab.load` also its classes and preprocessing"
        )
    if not path.is_file():
        raise BadInput(
            f"file not found: {shown}; give 'imagenet' or 'torchvision', the path of a file or an http(s) address"
        )
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{shown} does not end in {', '.join(SUFFIXES)}; weights are read from these files only")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file can raise anything; none of it is a bug here
        raise BadInput(
            f"{shown} cannot be read as weights: it is damaged, not a file of this kind, or contains Python objects "
            "beside tensors, which are never run. Save the weights alone: torch.save(model.state_dict(), path)"
        ) from error


def state_dict_in(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a file, or in the checkpoint of a training script.

    >>> state_dict_in({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, Path("a.pth"))
    {'fc.bias': tensor([0., 0.])}
    """
    wrapper = next((name for name in WRAPPERS if isinstance(content, Mapping) and name in content), None)
    state = content[wrapper] if isinstance(content, Mapping) and wrapper else content
    if not isinstance(state, Mapping) or not state:
        raise BadInput(f"{printable(path)} contains no state dict but {type(state).__name__}; give a state dict")
    foreign = [
        f"{printable(key)} ({type(value).__name__})" for key, value in state.items() if not _is_plain(key, value)
    ]
    if foreign:
        raise BadInput(f"{printable(path)} contains more than plain tensors: {', '.join(foreign)}; give a state dict")
    return dict(state)


def _is_plain(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def strip_prefixes(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the prefixes that DataParallel and torch.compile put before every key.

    >>> strip_prefixes({"module._orig_mod.fc.bias": torch.zeros(1)})
    ({'fc.bias': tensor([0.])}, ["stripped 'module.' from the keys", "stripped '_orig_mod.' from the keys"])
    """
    notes = []
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        notes.append(f"stripped {prefix!r} from the keys")
    return weights, notes


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


def add_batch_counters(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Add the batch counters of the batch norms, which files from before torch 0.4.1 do not contain."""
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    if not counters or any(key in weights for key in counters):
        return []
    weights.update({key: torch.zeros_like(own[key]) for key in counters})
    return ["the weights contain no batch counters of the batch norms: they start at 0"]


def refuse_differences(weights: dict[str, Tensor], own: dict[str, Tensor], shown: str) -> None:
    """Raise BadInput with every key that is missing, unexpected, or of another shape or kind of number."""
    missing = [key for key in own if key not in weights]
    unexpected = [printable(key) for key in weights if key not in own]
    shared = [key for key in own if key in weights]
    shapes = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in shared
        if weights[key].shape != own[key].shape
    ]
    kinds = [
        f"{key} {weights[key].dtype} for {own[key].dtype}"
        for key in shared
        if weights[key].is_floating_point() != own[key].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another kind": kinds}
    lists = [f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in found.items() if keys]
    if lists:
        other_stem = any(line.startswith("conv1.weight") for line in shapes)
        hint = " (conv1 differs: are they for the other stem?)" if other_stem else ""
        raise BadInput(f"{shown} do not fit this model, and nothing was loaded{hint}; {'; '.join(lists)}")
