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
    from resnetlab.models.build import build_model, resnet18, resnet34, resnet50
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
    "load",
    "load_pretrained",
    "open_dataset",
    "recipes",
    "resnet18",
    "resnet34",
    "resnet50",
    "restore",
    "train",
]

HOMES = {
    "kernels.accelerate": ("accelerate", "count_accelerated", "restore"),
    "runs.config": ("RunConfig",),
    "data.datasets": ("open_dataset",),
    "runs.experiment": ("train",),
    "inference.predict": ("load",),
    "models.build": ("build_model", "resnet18", "resnet34", "resnet50"),
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
