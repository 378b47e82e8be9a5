"""Every architecture of the zoo as a function, from `resnet18` to `fast_resnet8`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import ARCHITECTURES

log = logging.getLogger(__name__)


class Constructor(Protocol):
    """The signature that all architectures share."""

    def __call__(
        self,
        num_classes: int = ...,
        *,
        weights: str | Path | None = None,
        in_channels: int = 3,
        stem: str = "auto",
        image_size: int | None = None,
        shortcut: str | None = None,
        zero_init: bool = False,
        seed: int = 0,
    ) -> ResNet: ...


def constructor(name: str) -> Constructor:
    """Return the function that builds the architecture called `name`."""
    architecture = ARCHITECTURES[name]
    papers_classes = 1000 if architecture.stem == "imagenet" else 10

    def build(
        num_classes: int = papers_classes,
        *,
        weights: str | Path | None = None,
        in_channels: int = 3,
        stem: str = "auto",
        image_size: int | None = None,
        shortcut: str | None = None,
        zero_init: bool = False,
        seed: int = 0,
    ) -> ResNet:
        model = build_model(
            name,
            num_classes,
            in_channels=in_channels,
            stem=stem,
            image_size=image_size,
            shortcut=shortcut,
            zero_init=zero_init,
            seed=seed,
        )
        if weights is not None:
            for note in load_pretrained(model, weights):
                log.info(note)
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""Build {name} ({architecture.source}) on the CPU, in fp32 and training mode.

    The network maps images (N, in_channels, H, W) to logits (N, num_classes).

    `weights` is None (drawn from `seed`), "imagenet" (torchvision's weights, downloaded once) or a path (see
    `load_pretrained`). With stem "auto", `image_size` in pixels selects the stem: cifar up to 64, imagenet above, and
    the paper's if there is no `image_size`. `shortcut` is A, B or C (He et al. 2015, 3.3). `zero_init` starts every
    residual branch at zero.

    Raises `BadInput` if the network cannot be built or the weights do not fit.

    >>> from resnetlab.models import architectures
    >>> type(architectures.{name}(num_classes=7)).__name__
    'ResNet'
    """
    return build


resnet18 = constructor("resnet18")
resnet34 = constructor("resnet34")
resnet50 = constructor("resnet50")
resnet101 = constructor("resnet101")
resnet152 = constructor("resnet152")

resnet20 = constructor("resnet20")
resnet32 = constructor("resnet32")
resnet44 = constructor("resnet44")
resnet56 = constructor("resnet56")
resnet110 = constructor("resnet110")

plain18 = constructor("plain18")
plain34 = constructor("plain34")
plain20 = constructor("plain20")
plain32 = constructor("plain32")
plain44 = constructor("plain44")
plain56 = constructor("plain56")

preact_resnet18 = constructor("preact_resnet18")
preact_resnet20 = constructor("preact_resnet20")
preact_resnet32 = constructor("preact_resnet32")
preact_resnet44 = constructor("preact_resnet44")
preact_resnet56 = constructor("preact_resnet56")
preact_resnet110 = constructor("preact_resnet110")

resnext50_32x4d = constructor("resnext50_32x4d")
resnext101_32x8d = constructor("resnext101_32x8d")
wide_resnet50_2 = constructor("wide_resnet50_2")
wide_resnet101_2 = constructor("wide_resnet101_2")

fast_resnet8 = constructor("fast_resnet8")


def list_models() -> list[str]:
    """The names of all architectures.

    >>> list_models()[:5]
    ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']
    """
    return list(ARCHITECTURES)
