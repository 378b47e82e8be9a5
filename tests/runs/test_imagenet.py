"""The recipes for ImageNet on a folder of its shape: many classes, JPEG files of any size, training and test images.

The network is tiny, and so are the images; that the recipes reach their accuracy is not tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from resnetlab.runs import build, recipes
from resnetlab.runs.folder import RunFolder
from resnetlab.training.loop import Plan

CLASSES = 50
IMAGES = 1_281_167  # of ImageNet's training split


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of JPEG files named as ImageNet's: two of each class in train, one in val, and no test."""
    root, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for label in range(CLASSES):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = draw.integers(20, 60, 2)
                pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}_{number}.JPEG")
    return root


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("recipe", "side"), [("imagenet-resnet50", 224), pytest.param("imagenet-resnet50-a3", 160, marks=pytest.mark.slow)]
)
def test_a_folder_of_the_shape_of_imagenet_is_trained_on(
    recipe: str, side: int, images: Path, tiny_network: str, command: Any
) -> None:
    words = ("--data", images, "--data.store", "stream", "--model", tiny_network, "--steps", 2, "--batch-size", 8)
    code, out, err = command("train", recipe, *words, "--schedule.warmup-steps", 0, "--out", "run")
    assert code == 0, err
    assert f"{CLASSES} test; {CLASSES} classes, 224x224 px, RGB" in out
    run = RunFolder.open(Path("run"))
    test = run.final_metrics("test")
    assert test is not None
    assert test["images"] == CLASSES
    experiment = build.Experiment.of(run.config)
    (batch,) = experiment.batches.train.epoch(0, 0, 1)
    assert batch.images.shape == (8, 3, side, side)


@pytest.mark.parametrize("recipe", ["imagenet-resnet50", "imagenet-resnet50-a3"])
def test_without_a_folder_the_error_asks_for_one(recipe: str, command: Any) -> None:
    assert "give the path of a folder of images" in command.refuse("train", recipe)


def plan(recipe: str) -> tuple[Plan, int]:
    """The plan of a recipe on ImageNet, and its steps per epoch."""
    config = recipes.get(recipe)
    per_epoch = int(IMAGES * (1 - config.data.val_fraction)) // config.batch_size
    return build.make_plan(config, per_epoch), per_epoch


def test_the_reference_has_the_learning_rates_of_torchvisions() -> None:
    """0.1 in the first 30 epochs, 0.01 in the next, 0.001 in the last; the network is torchvision's."""
    whole, per_epoch = plan("imagenet-resnet50")
    assert whole.steps == 90 * per_epoch
    for epoch, rate in ((0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 0.001), (89, 0.001)):
        assert whole.schedule(epoch * per_epoch, ()) == pytest.approx(rate)
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    assert "vision/tree/main/references/classification#resnet" in weights.meta["recipe"]
    assert recipes.get("imagenet-resnet50").data.image_size == weights.transforms.keywords["crop_size"]


def test_the_short_one_warms_up_for_five_epochs_and_ends_at_zero() -> None:
    whole, per_epoch = plan("imagenet-resnet50-a3")
    config = recipes.get("imagenet-resnet50-a3")
    assert config.schedule.warmup_steps / per_epoch == pytest.approx(5, rel=0.02)
    assert whole.schedule(config.schedule.warmup_steps, ()) == pytest.approx(config.optim.lr)
    assert whole.schedule(whole.steps - 1, ()) < 1e-6
