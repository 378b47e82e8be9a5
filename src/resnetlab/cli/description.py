"""The content of a model file, as `resnetlab info` shows it: as JSON, and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetlab.data.classes import counted, shortened
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.model_file import VERSION, Model, read_model
from resnetlab.inference.sources import model_path
from resnetlab.inference.validation import SplitScore, Validation
from resnetlab.runs.config import RunConfig, value_text
from resnetlab.runs.messages import settings_line

LONGEST = 200  # characters of a value that this version does not know
LAYOUT = {1: "grey", 3: "RGB"}
FITS = {
    "crop": "scale the short side to {size} px, take the central square",
    "squash": "scale both sides to {size} px",
    "pad": "scale the long side to {size} px, add black borders to a square",
}
KNOWN = (
    *("recipe", "settings", "license", "seed", "data", "class_order", "data_settings", "split_digests"),
    *("contents_digests", "epoch", "step", "val", "averaged_weights", "versions", "trained", "imported"),
)
"""The keys of the provenance that are shown in words; others are shown as they are."""


@dataclass(frozen=True)
class ModelDescription:
    """The content of a model file apart from the weights."""

    path: Path
    size: int  # bytes
    model: Model

    @classmethod
    def of(cls, source: str) -> ModelDescription:
        """Read a model file, or that of a run. Raises BadInput."""
        path = model_path(source)
        model = read_model(path)
        return cls(path, path.stat().st_size, model)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.network.parameters())

    def to_json(self) -> dict[str, Any]:
        model = self.model
        return {
            "file": str(self.path),
            "bytes": self.size,
            "format_version": VERSION,
            "model": model.network.name,
            "architecture": model.network.architecture.to_json(),
            "parameters": self.parameters,
            "in_channels": model.network.in_channels,
            "classes": list(model.classes),
            "preprocessing": model.preprocessing.to_json(),
            "weights_digest": model.weights_digest,
            "validation": None if model.validation is None else model.validation.to_json(),
            "provenance": dict(model.provenance),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Names and values, in words, of everything but the scores and the rejection thresholds."""
        model, network = self.model, self.model.network
        architecture = network.architecture
        source = f" ({architecture.source})" if architecture.source else ""
        return [
            ("file", f"{self.path}, {self.size / 1e6:,.2f} MB, model format {VERSION}"),
            (
                "network",
                f"{network.name or 'without a name'}{source}, {architecture.stem} stem, shortcuts "
                f"{architecture.shortcut}, {self.parameters:,} parameters, fp32",
            ),
            ("weights", f"SHA-256 {model.weights_digest}"),
            ("classes", f"{len(model.classes):,}: {shortened(model.classes)}"),
            ("image", in_words(model.preprocessing)),
            *of_validation(model.validation),
            *of_provenance(model.provenance),
        ]

    def scores(self) -> tuple[SplitScore, ...]:
        return () if self.model.validation is None else self.model.validation.scores


def in_words(preprocessing: Preprocessing) -> str:
    """Return the steps from an image to the input of the network.

    >>> in_words(Preprocessing(28, 32, 1, (0.5,), (0.25,), fit="squash"))
    'scale both sides to 32 px, crop the centre to 28×28 px, grey, subtract 0.5, divide by 0.25 (of pixels in 0 … 1)'
    """
    size, channels = preprocessing.image_size, preprocessing.channels
    crop = f", crop the centre to {size}×{size} px" if size < preprocessing.resize_to else ""
    bits = preprocessing.range
    mapped = "" if bits is None else f", pixel values {bits[0]:g} … {bits[1]:g} of images of more than 8 bits"
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    layout = LAYOUT.get(channels, f"{channels} bands")
    fit = FITS[preprocessing.fit].format(size=preprocessing.resize_to)
    return f"{fit}{crop}, {layout}{mapped}, subtract {mean}, divide by {std} (of pixels in 0 … 1)"


def of_validation(validation: Validation | None) -> list[tuple[str, str]]:
    if validation is None:
        return [("validation", "none: temperature 1, no rejection thresholds, predictions in fp32")]
    images = counted(validation.images, "validation image")
    agreement = [f"{name} gives the class of fp32 for {share:.2%}" for name, share in validation.agreement.items()]
    return [
        ("temperature", f"{validation.temperature:.4g}, fitted on {images}"),
        ("precision", f"{', '.join(agreement)} of {images}" if agreement else "fp32; no other one was measured"),
    ]


def of_provenance(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the origin of the weights, as far as it is known; the values in a file may be anything."""
    data, settings = origin.get("data_settings"), origin.get("settings")
    rows: list[tuple[str, str]] = []
    if "imported" in origin:
        rows.append(("imported", plain(origin["imported"])))
    if "recipe" in origin:
        epoch = f", best epoch {plain(origin['epoch'])}" if "epoch" in origin else ""
        averaged = ", averaged weights" if origin.get("averaged_weights") is True else ""
        length = f": {training(settings)}" if settings else f", seed {plain(origin.get('seed'))}"
        rows.append(("recipe", f"{plain(origin['recipe'])}{length}{epoch}{averaged}"))
    if "trained" in origin:
        rows.append(("trained", plain(origin["trained"])))
    if "data" in origin:
        splits = ""
        if isinstance(data, Mapping):
            named = ("split_seed", "val_fraction", "test_fraction", "fold", "folds", "group_by")
            splits = "".join(
                f", {name.replace('_', ' ')} {plain(data[name])}" for name in named if data.get(name) is not None
            )
        rows.append(("data", f"{plain(origin['data'])}{splits}"))
    for name, label in (("split_digests", "splits"), ("contents_digests", "contents")):
        digests = origin.get(name)
        if isinstance(digests, Mapping) and any(digests.values()):
            rows.append((label, ", ".join(f"{plain(key)} {plain(value)[:16]}" for key, value in digests.items())))
    if isinstance(origin.get("versions"), Mapping):
        rows.append(("versions", ", ".join(f"{plain(k)} {plain(v)}" for k, v in origin["versions"].items() if v)))
    rows.append(("licence", plain(origin.get("license", "unstated"))))
    return rows + [(name, plain(value)) for name, value in origin.items() if name not in KNOWN]


def training(settings: object) -> str:
    """Return the settings of a training in words; those of a later version as they are."""
    try:
        config = RunConfig.model_validate(settings)
    except BadInput:
        return plain(settings)
    weights = f", from {config.model.pretrained}" if config.model.pretrained else ""
    return settings_line(config) + weights


def plain(value: object) -> str:
    """Return any JSON value on one line, shortened."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    elif isinstance(value, list):
        text = "; ".join(map(plain, value))
    else:
        text = value_text(value) if isinstance(value, bool) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
