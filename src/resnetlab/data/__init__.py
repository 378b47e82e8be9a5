"""What the network sees: data sets in memory as uint8, their splits, and how a picture becomes pixels.

Nothing is imported until it is asked for, so that `import resnetlab.data` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.data.datasets import ImageData, open_dataset
    from resnetlab.data.decode import read_image, to_image
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.data.splits import Split, stratified

DATASETS = ("digits", "cifar10", "cifar100")
"""The data sets that have a name; every other data set is the path of a folder."""

_HOMES = {
    "ImageData": "datasets",
    "open_dataset": "datasets",
    "read_image": "decode",
    "to_image": "decode",
    "Preprocessing": "preprocess",
    "Split": "splits",
    "stratified": "splits",
}

__all__ = [
    "DATASETS",
    "ImageData",
    "Preprocessing",
    "Split",
    "open_dataset",
    "read_image",
    "stratified",
    "to_image",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
