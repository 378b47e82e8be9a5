"""What a ResNet is: blocks and stems, the network, the table of architectures, weights from elsewhere.

Names are fetched when they are asked for, so that reading the table costs no import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.models.build import build_model, resnet18, resnet34, resnet50
    from resnetlab.models.pretrained import load_pretrained
    from resnetlab.models.resnet import ResNet
    from resnetlab.models.zoo import ARCHITECTURES, Architecture, resolve

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ResNet",
    "build_model",
    "load_pretrained",
    "resnet18",
    "resnet34",
    "resnet50",
    "resolve",
]

HOMES = {
    "build": ("build_model", "resnet18", "resnet34", "resnet50"),
    "resnet": ("ResNet",),
    "pretrained": ("load_pretrained",),
    "zoo": ("ARCHITECTURES", "Architecture", "resolve"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
