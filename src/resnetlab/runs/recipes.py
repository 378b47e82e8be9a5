"""Recipes: functions that return the config of a run; the docstring has the accuracy, where it was measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from resnetlab.errors import unknown
from resnetlab.runs.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig


def quickstart() -> RunConfig:
    """ResNet-18 on handwritten digits, in about a minute.

    The digits are scikit-learn's, and need no download; the time is that of two cores.

    Measured (seeds 0 to 4, 359 test images): 99.4, 100, 99.7, 99.7 and 98.9 %.
    """
    return RunConfig(
        recipe="quickstart",
        augment=AugmentConfig(crop=1),
        optim=OptimConfig(lr=0.03, weight_decay=5e-4, decay_norms=False),
        schedule=ScheduleConfig(name="one_cycle"),
        label_smoothing=0.1,
        epochs=30,
        batch_size=64,
    )


def folder() -> RunConfig:
    """A network from scratch on a folder of images.

    One sub-folder per class; network, image size, stem and splits depend on the data. Images of up to 40 px are
    shifted, larger ones are cropped. Probes on training images choose whether images are mirrored and, for the larger
    ones, whether shifts take the place of crops.
    """
    return RunConfig(
        recipe="folder",
        model=ModelConfig(name="auto", stem="quick"),
        augment=AugmentConfig(policy="auto", resized_crop=0.35, flip=True),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.05, decay_norms=False),
        schedule=ScheduleConfig(name="one_cycle"),
        label_smoothing=0.1,
        epochs=30,
        batch_size=32,
    )


def mnist() -> RunConfig:
    """ResNet-18 on MNIST and sets like it, 4 epochs.

    3x3 stem; for digits, letters and clothes of 28 or 32 pixels: shifted, never mirrored. Not measured yet.
    """
    base = cifar10_resnet18()
    return base.changed(
        {"recipe": "mnist", "data": {"name": "mnist"}, "augment": {"flip": False, "crop": 2}, "epochs": 4}
    )


def finetune() -> RunConfig:
    """ResNet-34 from ImageNet's weights, on a folder.

    The weights are torchvision's; every layer is trained. Not measured yet.
    """
    return RunConfig(
        recipe="finetune",
        data=DataConfig(image_size=224, normalize="imagenet"),
        model=ModelConfig(name="resnet34", stem="imagenet", pretrained="torchvision"),
        augment=AugmentConfig(resized_crop=0.35, flip=True),
        optim=OptimConfig(name="adamw", lr=3e-4, weight_decay=0.05, decay_norms=False),
        schedule=ScheduleConfig(name="one_cycle"),
        label_smoothing=0.1,
        epochs=10,
        batch_size=32,
    )


def notebook_resnet34() -> RunConfig:
    """ResNet-34 of the classic tutorial on CIFAR-10.

    7x7 stem on images of 32 px, Adam, no augmentation, constant learning rate.

    Measured (seed 0, CIFAR-10 as JPEG, 45k/5k): 74.24 % of 5,000 test images.
    """
    return RunConfig(
        recipe="notebook-resnet34",
        data=DataConfig(name="cifar10"),
        model=ModelConfig(name="resnet34", stem="imagenet"),
        optim=OptimConfig(name="adam", lr=1e-3),
        epochs=10,
    )


def notebook_resnet18() -> RunConfig:
    """ResNet-18 of the classic tutorial on CIFAR-10.

    Crop and flip, Adam, learning rate reduced on a plateau.

    Not measured yet.
    """
    return RunConfig(
        recipe="notebook-resnet18",
        data=DataConfig(name="cifar10"),
        augment=AugmentConfig(crop=4, flip=True),
        optim=OptimConfig(name="adam", lr=1e-3),
        schedule=ScheduleConfig(name="plateau", patience=1),
        epochs=10,
    )


def cifar10_resnet18() -> RunConfig:
    """ResNet-18 with the 3x3 stem on CIFAR-10, 8 epochs.

    SGD with Nesterov momentum, one-cycle schedule, progressive resizing.

    Measured (seed 0, CIFAR-10 as JPEG, 45k/5k): 85.80 % of 5,000 test images after 16.8 minutes of training on two
    cores of an Intel Xeon, in bf16. Ten epochs of a tutorial's script take ten times as long there in fp32; a run of it
    in bf16, whose time was not measured, reaches 81.62 %.
    """
    return RunConfig(
        recipe="cifar10-resnet18",
        data=DataConfig(name="cifar10"),
        augment=AugmentConfig(crop=4, crop_padding="reflect", flip=True, sizes=(0.75, 0.875, 1)),
        optim=OptimConfig(lr=0.12, weight_decay=5e-4, decay_norms=False),
        schedule=ScheduleConfig(name="one_cycle"),
        label_smoothing=0.1,
        epochs=8,
    )


def cifar10_fast() -> RunConfig:
    """A small network on CIFAR-10, for minutes of training.

    Whitened stem, Muon, progressive resizing, alternating flips.

    It is trained on 49,000 images, because the record network it is compared with is trained on all 50,000. The other
    1,000 are for validation; on so few the loss is a better criterion than the accuracy. Measured (seeds 0 to 2,
    CIFAR-10 as JPEG): 89.84, 90.06 and 90.00 % of 5,000 test images, after 3.1 to 3.3 minutes of training on two cores
    of an Intel Xeon, in bf16.
    """
    return RunConfig(
        recipe="cifar10-fast",
        data=DataConfig(name="cifar10", val_fraction=0.02),
        model=ModelConfig(name="fast_resnet8"),
        augment=AugmentConfig(crop=2, crop_padding="reflect", flip=True, alternate=True, sizes=(0.75, 0.75, 0.875, 1)),
        optim=OptimConfig(name="muon", lr=0.18, momentum=0.6, betas=(0.9, 0.95), lr_share=0.05),
        schedule=ScheduleConfig(name="linear"),
        label_smoothing=0.2,
        epochs=14,
        batch_size=1000,
        best_by="loss",
    )


def cifar10_resnet34() -> RunConfig:
    """ResNet-34 with the 3x3 stem, as cifar10-resnet18.

    Not measured yet.
    """
    return cifar10_resnet18().changed({"recipe": "cifar10-resnet34", "model": {"name": "resnet34"}})


def imagenet_resnet50() -> RunConfig:
    """ResNet-50 on ImageNet, 90 epochs, as torchvision.

    SGD with momentum 0.9 at 0.1 for a batch of 256, divided by 10 every 30 epochs, weight decay 1e-4; 224 px, random
    resized crop and flip, tested on the centre. `--data FOLDER` has train/ and val/ with one sub-folder per class. The
    50,000 images of val/ are the test split, because the labels of ImageNet's own test images are not public. 1 % of
    the training images are held out to choose the best epoch.

    Two differences from torchvision: crops are taken from the central square of an image, stored at 256 px, and
    training is in bf16 where the device supports it. Not measured yet.
    """
    return RunConfig(
        recipe="imagenet-resnet50",
        data=DataConfig(
            name="imagenet",
            image_size=224,
            normalize="imagenet",
            val_fraction=0.01,
            test_fraction=0.01,
            val_is_test=True,
        ),
        model=ModelConfig(name="resnet50", stem="imagenet"),
        augment=AugmentConfig(resized_crop=0.08, flip=True),
        optim=OptimConfig(lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4),
        schedule=ScheduleConfig(name="step", every_epochs=30),
        epochs=90,
        batch_size=256,
    )


def imagenet_resnet50_a3() -> RunConfig:
    """ResNet-50 on ImageNet, 100 epochs, like A3.

    After procedure A3 of Wightman et al. (2021): trained at 160 px, tested at 224 px, batches of 2048, 5 epochs of
    warm-up, a cosine, RandAugment, MixUp 0.1 and CutMix 1. Data as for imagenet-resnet50.

    It is not A3: AdamW takes the place of LAMB, with a learning rate and a weight decay of its own, and cross-entropy
    that of binary cross-entropy; RandAugment has a fixed strength and is applied to every image; images of 160 px are
    the crops of 224 px, scaled down. Not measured yet.
    """
    return imagenet_resnet50().changed(
        {
            "recipe": "imagenet-resnet50-a3",
            "augment": {
                "sizes": (160 / 224,),
                "policy": "rand",
                "rand_ops": 2,
                "rand_magnitude": 6,
                "mixup": 0.1,
                "cutmix": 1.0,
            },
            "optim": {
                "name": "adamw",
                "lr": 2e-3,
                "weight_decay": 0.05,
                "decay_norms": False,
                "nesterov": True,
            },
            "schedule": {"name": "cosine", "every_epochs": 10, "warmup_steps": 3_125},  # 5 epochs of 1.28 million
            "epochs": 100,
            "batch_size": 2048,
        }
    )


def paper(depth: int) -> Callable[[], RunConfig]:
    """Return a recipe of He et al. (2015), Section 4.2.

    64,000 steps of 128 images, learning rate 0.1, divided by 10 at 1/2 and 3/4 of the run, weight decay 1e-4.
    """

    def recipe() -> RunConfig:
        return RunConfig(
            recipe=f"paper-resnet{depth}",
            data=DataConfig(name="cifar10"),
            model=ModelConfig(name=f"resnet{depth}"),
            augment=AugmentConfig(crop=4, flip=True),
            optim=OptimConfig(lr=0.1, nesterov=False, weight_decay=1e-4),
            # 110 layers do not converge from 0.1: the paper starts at 0.01 for about 400 steps
            schedule=ScheduleConfig(
                name="multistep", warmup_steps=400 if depth == 110 else 0, warmup_from=0.1, warmup_shape="constant"
            ),
            steps=64_000,
        )

    first = f"ResNet-{depth} of the paper on CIFAR-10, 64,000 steps."
    recipe.__doc__ = f"{first}\n\nSection 4.2: 128 images a step, crop and flip. Not measured yet."
    return recipe


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "quickstart": quickstart,
    "folder": folder,
    "mnist": mnist,
    "finetune": finetune,
    "notebook-resnet34": notebook_resnet34,
    "notebook-resnet18": notebook_resnet18,
    "cifar10-resnet18": cifar10_resnet18,
    "cifar10-fast": cifar10_fast,
    "cifar10-resnet34": cifar10_resnet34,
    "imagenet-resnet50": imagenet_resnet50,
    "imagenet-resnet50-a3": imagenet_resnet50_a3,
    **{f"paper-resnet{depth}": paper(depth) for depth in (20, 32, 44, 56, 110)},
}


def summary(name: str) -> str:
    """Return the first line about a recipe.

    >>> summary("paper-resnet20")
    'ResNet-20 of the paper on CIFAR-10, 64,000 steps'
    """
    return description(name)[0].rstrip(".")


def description(name: str) -> list[str]:
    """Return the paragraphs of a recipe's docstring: what it trains, how, and what was measured."""
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(RECIPES[name]) or "").split("\n\n")]


def get(name: str) -> RunConfig:
    """Return the config of a recipe by its name. Raises BadInput for an unknown one.

    >>> get("paper-resnet20").steps
    64000
    """
    if name not in tuple(RECIPES):
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
