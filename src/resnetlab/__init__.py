"""Build, understand, train, judge and use residual networks.

The names below are fetched when they are asked for: `import resnetlab` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.data.datasets import open_dataset
    from resnetlab.inference.predict import load
    from resnetlab.kernels.accelerate import accelerate, count_accelerated, restore
    from resnetlab.models.architectures import (
        fast_resnet8,
        list_models,
        plain18,
        plain20,
        plain32,
        plain34,
        plain44,
        plain56,
        preact_resnet18,
        preact_resnet20,
        preact_resnet32,
        preact_resnet44,
        preact_resnet56,
        preact_resnet110,
        resnet18,
        resnet20,
        resnet32,
        resnet34,
        resnet44,
        resnet50,
        resnet56,
        resnet101,
        resnet110,
        resnet152,
        resnext50_32x4d,
        resnext101_32x8d,
        wide_resnet50_2,
        wide_resnet101_2,
    )
    from resnetlab.models.build import build_model
    from resnetlab.models.pretrained import load_pretrained
    from resnetlab.runs import recipes
    from resnetlab.runs.config import RunConfig
    from resnetlab.runs.experiment import train
    from resnetlab.runs.score import evaluate

__version__ = "0.1.0"

__all__ = [
    "RunConfig",
    "accelerate",
    "build_model",
    "count_accelerated",
    "evaluate",
    "fast_resnet8",
    "list_models",
    "load",
    "load_pretrained",
    "open_dataset",
    "plain18",
    "plain20",
    "plain32",
    "plain34",
    "plain44",
    "plain56",
    "preact_resnet18",
    "preact_resnet20",
    "preact_resnet32",
    "preact_resnet44",
    "preact_resnet56",
    "preact_resnet110",
    "recipes",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "restore",
    "train",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

HOMES = {
    "kernels.accelerate": ("accelerate", "count_accelerated", "restore"),
    "runs.config": ("RunConfig",),
    "data.datasets": ("open_dataset",),
    "runs.experiment": ("train",),
    "inference.predict": ("load",),
    "models.architectures": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("plain18", "plain34", "plain20", "plain32", "plain44", "plain56"),
        *("preact_resnet18", "preact_resnet20", "preact_resnet32"),
        *("preact_resnet44", "preact_resnet56", "preact_resnet110"),
        *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2", "fast_resnet8"),
        "list_models",
    ),
    "models.build": ("build_model",),
    "models.pretrained": ("load_pretrained",),
    "runs.score": ("evaluate",),
}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("resnetlab.runs.recipes")
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"resnetlab.{home}"), name)
    raise AttributeError(f"module 'resnetlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
