"""Where weights come from: a file, an address or torchvision, opened without trusting it."""

from __future__ import annotations

import hashlib
import http.client
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from resnetlab.errors import BadInput, printable
from resnetlab.models.zoo import ARCHITECTURES

ENDINGS = (".pth", ".pt", ".safetensors")
NAMED_BY_DIGEST = re.compile(r"[\w.+-]+-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)", re.ASCII)
WRAPPERS = ("state_dict", "model")  # what training scripts call the weights inside their checkpoints


def open_weights(source: str | Path, model_name: str, cache: Path | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors behind `source` by key, and notes for a person.

    `source` is "torchvision" (its default weights for `model_name`), an http(s) address whose file name ends in its
    SHA-256 digest, or a path. Raises `BadInput` for whatever cannot be had or is not plain tensors.
    """
    address = str(source)
    if address == "torchvision":
        address = torchvision_address(model_name)
    if address.startswith(("http://", "https://")):
        path, notes = download(address, cache)
    else:
        path, notes = Path(source), []
    return tensors_of(read(path), path), notes


def read(path: Path) -> object:
    """What a .pth, .pt or .safetensors file holds; a pickle may hold tensors and plain containers, never code."""
    shown = printable(path)
    if not path.is_file():
        raise BadInput(f"{shown!r} is no file; give 'torchvision', the path of a file or an http(s) address")
    if path.suffix not in ENDINGS:
        raise BadInput(f"{shown} does not end in {', '.join(ENDINGS)}; weights are read from these alone")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file fails in any way it likes, and none of them is a bug here
        raise BadInput(
            f"{shown} cannot be read as weights: it is damaged, not a file of this kind, or holds Python objects "
            "beside tensors, which are never run. Save the weights alone: torch.save(model.state_dict(), path)"
        ) from error


def tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds, out of the wrapper that training scripts put around it.

    >>> tensors_of({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, Path("a.pth"))
    {'fc.bias': tensor([0., 0.])}
    """
    wrapper = next((name for name in WRAPPERS if isinstance(content, Mapping) and name in content), None)
    state = content[wrapper] if isinstance(content, Mapping) and wrapper else content
    if not isinstance(state, Mapping) or not state:
        raise BadInput(f"{printable(path)} holds no weights by name but {type(state).__name__}; give a state dict")
    foreign = [
        f"{printable(key)} ({type(value).__name__})" for key, value in state.items() if not _is_plain(key, value)
    ]
    if foreign:
        raise BadInput(f"{printable(path)} holds more than plain tensors: {', '.join(foreign)}; give a state dict")
    return dict(state)


def _is_plain(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def download(address: str, cache: Path | None = None) -> tuple[Path, list[str]]:
    """The file behind `address` in the cache that torchvision shares; fetched unless it is there and whole."""
    name = PurePosixPath(urlsplit(address).path).name
    match = NAMED_BY_DIGEST.fullmatch(name)
    if match is None:
        raise BadInput(
            f"{printable(address)} does not say what it should hold: its file name must end in the first 8 or more hex "
            "digits of its SHA-256, like resnet18-f37072fd.pth. Download it yourself and give the path instead"
        )
    folder = Path(torch.hub.get_dir()) / "checkpoints" if cache is None else Path(cache)
    path, digest, notes = folder / name, match[1], list[str]()
    try:
        if path.is_file():
            if sha256_of(path).startswith(digest):
                return path, notes
            notes.append(f"{printable(path)} was damaged; fetched it again")
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:  # RuntimeError: another digest
        raise BadInput(
            f"cannot fetch {printable(address)} ({printable(error)}). Download it by other means, check that its "
            f"SHA-256 begins with {digest}, and put it at {printable(path)}, or give its path in place of the address"
        ) from error
    return path, notes


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def torchvision_address(model_name: str) -> str:
    """Where torchvision keeps its default weights for the model of that name.

    >>> torchvision_address("resnet34")
    'https://download.pytorch.org/models/resnet34-b627a593.pth'
    """
    models = import_torchvision_models()
    offered = [name for name in ARCHITECTURES if name in models.list_models()]
    if model_name not in offered:
        given = f"for {model_name}" if model_name else "for a network that was not built by name"
        raise BadInput(f"torchvision has no weights {given}; it has them for {', '.join(offered)}")
    return str(models.get_model_weights(model_name).DEFAULT.url)


def import_torchvision_models() -> Any:
    try:
        import torchvision.models
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # what a build for another torch raises
        raise BadInput(
            f"torchvision cannot be imported beside torch {torch.__version__} ({printable(error)}). Install both from "
            "one index, e.g. pip install --force-reinstall torch torchvision --index-url "
            "https://download.pytorch.org/whl/cpu, or give a file or an address with the weights"
        ) from error
    return torchvision.models
