"""Data sets: splits in memory as uint8, decoding, preprocessing, augmentation and batches.

Public names are imported when they are first used, so `import resnetlab.data` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.data.datasets import ImageData, open_dataset
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.data.splits import Split

DATASETS = (
    *("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "svhn", "stl10"),
    *("eurosat", "flowers102", "oxford-pets", "food101", "imagenette"),
)
"""The data sets with a name; others of torchvision are named as in "torchvision:DTD". The rest are paths."""

SPLITS = ("train", "val", "test")

__all__ = ["DATASETS", "SPLITS", "ImageData", "Preprocessing", "Split", "open_dataset"]

_MODULES = {"ImageData": "datasets", "open_dataset": "datasets", "Preprocessing": "preprocess", "Split": "splits"}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
