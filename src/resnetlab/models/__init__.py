"""The ResNet family as in the papers: units, stems, networks, the table of architectures, pretrained weights.

Names are imported at first use, so that reading the table does not import torch. Every architecture is a function of
`resnetlab.models.architectures`, and of `resnetlab` itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.models.architectures import list_models
    from resnetlab.models.build import build_model
    from resnetlab.models.pretrained import load_pretrained
    from resnetlab.models.resnet import ResNet
    from resnetlab.models.zoo import ARCHITECTURES, Architecture, resolve

__all__ = ["ARCHITECTURES", "Architecture", "ResNet", "build_model", "list_models", "load_pretrained", "resolve"]

HOMES = {
    "architectures": ("list_models",),
    "build": ("build_model",),
    "resnet": ("ResNet",),
    "pretrained": ("load_pretrained",),
    "zoo": ("ARCHITECTURES", "Architecture", "resolve"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
