"""Network "auto" and stem "quick": the network and the first layers that images of a size need, by their cost."""

from __future__ import annotations

from resnetlab.models.zoo import ARCHITECTURES, LARGEST_FOR_CIFAR_STEM
from resnetlab.runs.config import ModelConfig, RunConfig

NETWORKS = ("fast_resnet8", "resnet18")
"""The networks that "auto" chooses from."""
LEAST_FOR_FAST, LARGEST_FOR_FAST, ENLARGED = 10, 40, 16
"""Pixels. The images that fast_resnet8 takes, those for which "auto" chooses it, and the size to which smaller images
are enlarged for it, if no size is given.

Measured on images that no test split has, with shifts of a tenth, one run each; CPU time of one thread on an AMD EPYC
without AMX, on which other programs ran. 3,861 letters of 28 px: resnet18 with the 7x7 stem 99.1 % of 2,080 after 6
epochs and 55 s, fast_resnet8 99.9 % after 3 epochs and 28 s. 966 digits of 8 px: resnet18 98.1 % of 319 after 15 epochs
and 41 s; enlarged to 16 px, fast_resnet8 97.8 % after 30 epochs and 37 s. 4,554 images of CIFAR-10, 12 epochs:
resnet18 57.9 % of 2,000 in 155 s; fast_resnet8 with batches of 64 71.5 % in 174 s."""

LEAST_FOR_IMAGENET_STEM = 28
"""Pixels. The smallest images for which the 7x7 stem was compared with the 3x3 stem and found worth its loss.

Trained for 30 epochs on 3,900 letters of 28 px, with mirroring, on two cores: 245 s and 87.2 % with the 7x7 stem,
1,448 s and 89.6 % with the 3x3 stem. Without mirroring, the 7x7 stem gave 91.1 % in 251 s; the 3x3 stem was not tried.
One run each."""


def chosen_network(model: ModelConfig, smallest: int, image_size: int) -> str:
    """Return the name of the network: "auto" becomes one of NETWORKS, any other name is returned.

    A setting that only resnet18 can follow chooses it: a stem by its name, the shortcuts, or given weights. `smallest`
    is the image size of the first phase of training, if images grow during it.

    >>> [chosen_network(ModelConfig(name="auto", stem="quick"), size, size) for size in (16, 28, 32, 64, 224)]
    ['fast_resnet8', 'fast_resnet8', 'fast_resnet8', 'resnet18', 'resnet18']
    >>> chosen_network(ModelConfig(name="auto", stem="cifar"), 28, 28)
    'resnet18'
    """
    if model.name != "auto":
        return model.name
    is_of_resnet = model.stem in ("imagenet", "cifar") or model.shortcut or model.pretrained
    is_small = smallest >= LEAST_FOR_FAST and image_size <= LARGEST_FOR_FAST
    return "fast_resnet8" if is_small and not is_of_resnet else "resnet18"


def same_network(wanted: RunConfig, had: RunConfig) -> RunConfig:
    """Return the wanted settings, with the network of a run that has begun in the place of "auto".

    >>> begun = RunConfig(epochs=1, model=ModelConfig(name="fast_resnet8"))
    >>> same_network(begun.changed({"model": {"name": "auto"}}), begun) == begun
    True
    """
    if wanted.model.name != "auto" or had.model.name not in NETWORKS:
        return wanted
    size = wanted.data.image_size
    if size is None and had.data.image_size == ENLARGED:
        size = ENLARGED
    return wanted.changed({"model": {"name": had.model.name}, "data": {"image_size": size}})


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
