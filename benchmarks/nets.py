"""The timed training tasks: network, images, batch and optimiser. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """One task of the training benchmark; `steps` are timed after `warmup` untimed steps."""

    title: str
    model: str
    stem: str  # imagenet: 7x7/2 and max pool; cifar: 3x3/1
    image_size: int
    batch: int
    optimizer: str
    augment: bool  # crop and flip at 32 px, resized crop and flip at 224 px
    steps: int
    warmup: int = 4


NETS = {
    "resnet18": Net("ResNet-18, 3×3 stem, 32 px, batch 128, SGD", "resnet18", "cifar", 32, 128, "sgd", True, 12),
    "resnet18-256": Net("ResNet-18, 3×3 stem, 32 px, batch 256, SGD", "resnet18", "cifar", 32, 256, "sgd", True, 8),
    "notebook-resnet34": Net(
        "ResNet-34, 7×7 stem, 32 px, batch 128, Adam", "resnet34", "imagenet", 32, 128, "adam", False, 30
    ),
    "resnet20": Net("ResNet-20 of the paper, 32 px, batch 128, SGD", "resnet20", "cifar", 32, 128, "sgd", True, 60),
    "resnet56": Net("ResNet-56 of the paper, 32 px, batch 128, SGD", "resnet56", "cifar", 32, 128, "sgd", True, 30),
    "resnet50": Net("ResNet-50, 224 px, batch 32, SGD", "resnet50", "imagenet", 224, 32, "sgd", True, 6, warmup=3),
}
