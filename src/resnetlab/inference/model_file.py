"""Model files: weights, architecture, classes, preprocessing, provenance and validation, sealed in one file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput, Damaged, printable
from resnetlab.evaluation.selective import Rejection
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.foreign import explain
from resnetlab.inference.validation import Validation
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture

FORMAT, VERSION = "resnetlab-model", 1
CHECKPOINT_FORMAT = "resnetlab-checkpoint"
WEIGHTS_FORMAT = "resnetlab-weights"  # as `fit` writes the weights of any other module


@dataclass(frozen=True)
class Model:
    """The content of a model file. `network` is in evaluation mode, on the CPU, in fp32."""

    network: ResNet
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]  # run, recipe, epoch, scores, data, versions
    weights_digest: str  # of the weights alone, whatever else is in the file
    validation: Validation | None = None  # None for older files, and where no run has ended with these weights

    @property
    def temperature(self) -> float:
        """The number that divides the logits before the softmax; 1 if none was fitted."""
        return 1.0 if self.validation is None else self.validation.temperature

    def rejection(self, risk: float) -> Rejection:
        """Return the threshold for a stated risk, the largest share of accepted predictions that may be wrong.

        Raises BadInput, with the risks that the file has thresholds for, if this is not one of them.
        """
        if self.validation is None:
            raise BadInput(
                "this model has no rejection thresholds: they are fitted on validation images at the end of a run; "
                "for a run of an older version, resume the run to add them"
            )
        stored = self.validation.rejections
        if isinstance(risk, int | float):
            for rejection in stored:
                if math.isclose(rejection.risk, risk):
                    return rejection
        risks = ", ".join(f"{rejection.risk:g}" for rejection in stored)
        raise BadInput(
            f"this model has no rejection threshold for a risk of {printable(risk)}; "
            + (f"choose from {risks}" if stored else f"its {self.validation.images:,} validation images support none")
        )


def save_model(
    path: Path,
    network: ResNet,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    provenance: Mapping[str, Any],
    *,
    validation: Validation | None = None,
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
        **({} if validation is None else {"validation": validation.to_json()}),
    }
    write_sealed(path, weights, facts)
    return digest


def network_name(value: object) -> str:
    """Return the name of a network in a model file. Raises TypeError unless it is a text."""
    if not isinstance(value, str):
        raise TypeError(f"the name of the network is {printable(value)[:40]}, not a text")
    return value


def read_model(path: Path) -> Model:
    """Read a model file.

    Raises BadInput for a file that is missing, damaged, of another kind or from a later version.
    """
    try:
        weights, facts = read_sealed(path)
    except Damaged as error:
        raise Damaged(explain(path) or str(error)) from error
    if facts.get("format") == WEIGHTS_FORMAT:
        raise BadInput(
            f"{printable(path)} holds the weights of a module of your own, trained by `fit`, not a network of "
            "resnetlab; read them with your_module.load_state_dict(safetensors.torch.load_file(path))"
        )
    if facts.get("format") == CHECKPOINT_FORMAT:
        raise BadInput(
            f"{printable(path)} is a checkpoint, from which training continues, not a model file; the model file of a "
            "run is best.safetensors in its folder"
        )
    if facts.get("format") != FORMAT:
        kind = f"a file of the kind {printable(repr(facts['format']))[:60]}" if "format" in facts else "of no kind"
        wrote = "give the file or the folder that `resnetlab train` wrote"
        raise BadInput(f"{printable(path)} is not a model file: it is {kind}; {wrote}")
    given = facts.get("format_version")
    if type(given) is not int or given != VERSION:
        later = "; it was written by a later version: update with pip install --upgrade resnetlab"
        next_step = later if type(given) is int and given > VERSION else ""
        has = f"{printable(path)} has model format {printable(repr(given))[:40]}"
        raise BadInput(f"{has}; this version of resnetlab reads {VERSION}{next_step}")
    try:
        classes, in_channels = facts["classes"], facts["in_channels"]
        architecture = Architecture.from_json(facts["architecture"])
        preprocessing = Preprocessing.from_json(facts["preprocessing"])
        name, provenance = network_name(facts["model"]), dict(facts["provenance"])
        digest = str(facts["weights_digest"])
        validation = Validation.from_json(facts["validation"]) if "validation" in facts else None
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
        network = ResNet(architecture, len(classes), in_channels).float()  # whatever torch's default dtype is
    if shapes(network.state_dict()) != shapes(weights):
        raise BadInput(f"{printable(path)} has weights that do not fit its architecture")
    if digest != weights_digest(weights):
        raise BadInput(f"{printable(path)} holds other weights than those of its digest")
    network.load_state_dict(weights, assign=True)
    network.name = name
    return Model(network.eval(), tuple(classes), preprocessing, provenance, digest, validation)


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
