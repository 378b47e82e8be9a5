"""Stem "quick": the first layers that a network needs for images of a size, by their cost."""

from __future__ import annotations

from resnetlab.models.zoo import ARCHITECTURES, LARGEST_FOR_CIFAR_STEM

LEAST_FOR_IMAGENET_STEM = 28
"""Pixels. The smallest images for which the 7x7 stem was compared with the 3x3 stem and found worth its loss.

Trained for 30 epochs on 3,900 letters of 28 px, with mirroring, on two cores: 245 s and 87.2 % with the 7x7 stem,
1,448 s and 89.6 % with the 3x3 stem. Without mirroring, the 7x7 stem gave 91.1 % in 251 s; the 3x3 stem was not tried.
One run each."""


def chosen_stem(stem: str, model: str, image_size: int) -> str:
    """Return the stem for `build_model`: "quick" becomes "imagenet" or "auto", any other stem is returned.

    Networks that are not made for the ImageNet stem, such as resnet20, keep their own.

    >>> chosen_stem("quick", "resnet18", 28), chosen_stem("quick", "resnet18", 8), chosen_stem("cifar", "resnet18", 28)
    ('imagenet', 'auto', 'cifar')
    """
    if stem != "quick":
        return stem
    is_large = image_size >= LEAST_FOR_IMAGENET_STEM
    return "imagenet" if is_large and ARCHITECTURES[model].stem == "imagenet" else "auto"


def notes_on_stem(stem: str, model: str, image_size: int) -> list[str]:
    """Return a sentence about the stem if it was chosen by the image size and another one could be better.

    >>> notes_on_stem("quick", "resnet18", 224)
    []
    """
    if stem != "quick" or ARCHITECTURES[model].stem != "imagenet" or image_size > LARGEST_FOR_CIFAR_STEM:
        return []
    size = f"{image_size}x{image_size} px"
    if image_size >= LEAST_FOR_IMAGENET_STEM:
        return [
            f"small images ({size}): the 7x7 stem (imagenet), because with the 3x3 stem (cifar) every layer has "
            "16 times as many pixels to compute; `model.stem='cifar'` chooses that"
        ]
    return [
        f"tiny images ({size}): the 3x3 stem (cifar), because the 7x7 stem (imagenet) leaves less than "
        f"{LEAST_FOR_IMAGENET_STEM // 4} px of them for the first unit; `model.stem='imagenet'` chooses that"
    ]
