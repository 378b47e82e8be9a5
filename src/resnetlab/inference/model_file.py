"""Model files: weights, architecture, classes, preprocessing and provenance, sealed in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_sealed, write_sealed
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture

FORMAT, VERSION = "resnetlab-model", 1
WEIGHTS_FORMAT = "resnetlab-weights"  # as `fit` writes the weights of any other module


@dataclass(frozen=True)
class Model:
    """The content of a model file. `network` is in evaluation mode, on the CPU, in fp32."""

    network: ResNet
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]  # run, recipe, epoch, scores, data, versions
    weights_digest: str  # of the weights alone, whatever else is in the file


def save_model(
    path: Path,
    network: ResNet,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    provenance: Mapping[str, Any],
) -> str:
    """Write a model file whole or not at all, and return the digest of its weights. Raises DiskTrouble."""
    weights = network.state_dict()
    digest = weights_digest(weights)
    facts = {
        "format": FORMAT,
        "format_version": VERSION,
        "model": network.name,
        "architecture": network.architecture.to_json(),
        "in_channels": network.in_channels,
        "classes": list(classes),
        "preprocessing": preprocessing.to_json(),
        "provenance": dict(provenance),
        "weights_digest": digest,
    }
    write_sealed(path, weights, facts)
    return digest


def read_model(path: Path) -> Model:
    """Read a model file.

    Raises BadInput for a file that is missing, damaged, of another kind or from a later version.
    """
    weights, facts = read_sealed(path)
    if facts.get("format") == WEIGHTS_FORMAT:
        raise BadInput(
            f"{printable(path)} holds the weights of a module of your own, trained by `fit`, not a network of "
            "resnetlab; read them with your_module.load_state_dict(safetensors.torch.load_file(path))"
        )
    if facts.get("format") != FORMAT:
        raise BadInput(f"{printable(path)} is not a model file but a {printable(facts.get('format'))}")
    if facts.get("format_version") != VERSION:
        raise BadInput(
            f"{printable(path)} has model format {printable(facts.get('format_version'))}; this version of resnetlab "
            f"reads {VERSION}"
        )
    try:
        classes, in_channels = facts["classes"], facts["in_channels"]
        architecture = Architecture.from_json(facts["architecture"])
        preprocessing = Preprocessing.from_json(facts["preprocessing"])
        name, provenance, digest = str(facts["model"]), dict(facts["provenance"]), str(facts["weights_digest"])
    except BadInput as error:
        raise BadInput(f"{printable(path)}: {printable(error)[:300]}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{printable(path)} is incomplete: {printable(error)[:300]}") from error
    words = isinstance(classes, list) and all(isinstance(word, str) for word in classes)
    if not words or not classes or len(set(classes)) != len(classes):
        raise BadInput(f"{printable(path)} has class names that are not distinct words")
    if in_channels != preprocessing.channels:
        raise BadInput(f"{printable(path)} is inconsistent: network and preprocessing differ in channels")

    if sum(architecture.units_per_stage) > len(weights):  # building thousands of units takes long, even without weights
        raise BadInput(f"{printable(path)} has weights that do not fit its architecture")
    with torch.device("meta"):  # shapes only: a hostile description must not allocate more than the file holds
        network = ResNet(architecture, len(classes), in_channels)
    if shapes(network.state_dict()) != shapes(weights):
        raise BadInput(f"{printable(path)} has weights that do not fit its architecture")
    if digest != weights_digest(weights):
        raise BadInput(f"{printable(path)} holds other weights than those of its digest")
    network.load_state_dict(weights, assign=True)
    network.name = name
    return Model(network.eval(), tuple(classes), preprocessing, provenance, digest)


def shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Return the type and the shape of each tensor, by name."""
    return {name: (value.dtype, value.shape) for name, value in weights.items()}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in the order of the names.

    >>> import torch
    >>> weights_digest({"a": torch.zeros(2)}) == weights_digest({"a": torch.zeros(2, 1)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).numpy().data)
    return digest.hexdigest()
