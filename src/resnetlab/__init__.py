"""Build, understand, train, evaluate and use residual networks.

>>> import resnetlab
>>> model = resnetlab.resnet18(num_classes=10)
>>> config = resnetlab.recipes.quickstart()
>>> data = resnetlab.open_dataset("digits")

`train`, `resume` and `fit` log what they do under the name "resnetlab" and print nothing; to see it:
`logging.basicConfig(level=logging.INFO)`. Names are imported at first use, so `import resnetlab` does not import torch.
"""

from __future__ import annotations

# torch and scikit-learn import both, which is impossible once the main thread has ended and others go on
import concurrent.futures.process
import concurrent.futures.thread  # noqa: F401
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.data.datasets import open_dataset
    from resnetlab.inference.importing import import_model
    from resnetlab.inference.predict import load, load_model
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
    from resnetlab.report.card import card, push
    from resnetlab.report.write import write_report as report
    from resnetlab.runs import recipes
    from resnetlab.runs.compare import compare
    from resnetlab.runs.config import RunConfig
    from resnetlab.runs.experiment import train
    from resnetlab.runs.explain import explain
    from resnetlab.runs.export import export
    from resnetlab.runs.find_lr import find_lr
    from resnetlab.runs.fit import fit
    from resnetlab.runs.resume import resume
    from resnetlab.runs.score import evaluate
    from resnetlab.runs.stop import StopRequest

__version__ = "0.1.0"

IMPORTED_IN = os.getpid()  # another number in a process that was forked since

logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "RunConfig",
    "StopRequest",
    "accelerate",
    "build_model",
    "card",
    "compare",
    "count_accelerated",
    "evaluate",
    "explain",
    "export",
    "fast_resnet8",
    "find_lr",
    "fit",
    "import_model",
    "list_models",
    "load",
    "load_model",
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
    "push",
    "recipes",
    "report",
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
    "resume",
    "train",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

HOMES = {
    "data.datasets": ("open_dataset",),
    "kernels.accelerate": ("accelerate", "count_accelerated", "restore"),
    "inference.importing": ("import_model",),
    "inference.predict": ("load", "load_model"),
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
    "report.card": ("card", "push"),
    "runs.compare": ("compare",),
    "runs.config": ("RunConfig",),
    "runs.experiment": ("train",),
    "runs.explain": ("explain",),
    "runs.export": ("export",),
    "runs.find_lr": ("find_lr",),
    "runs.fit": ("fit",),
    "runs.resume": ("resume",),
    "runs.score": ("evaluate",),
    "runs.stop": ("StopRequest",),
}


def __getattr__(name: str) -> Any:
    if name in ("data", "recipes", "report"):
        return importlib.import_module(f"resnetlab.{'runs.recipes' if name == 'recipes' else name}")
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"resnetlab.{home}"), name)
    raise AttributeError(f"module 'resnetlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
