"""The augmentations of a config: off unless set, in a fixed order, with random numbers of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnetlab.data.loaders import TrainBatches
from resnetlab.data.policy import Policy
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput
from resnetlab.runs.augmentation_words import augmentation_words
from resnetlab.runs.build import make_augmentations
from resnetlab.runs.config import AugmentConfig
from resnetlab.runs.fit import fit
from resnetlab.runtime import Runtime

ALL = {
    "rotation": 20,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "erasing": 0.5,
}
PREPROCESSING = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
IMAGES = torch.randint(0, 256, (12, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SPLIT = Split(IMAGES, torch.arange(12) % 3, tuple(f"{i}.png" for i in range(12)))


SETTINGS = {**ALL, "policy": "trivial"}


def batches(batch_size: int, **settings: Any) -> TrainBatches:
    steps = make_augmentations(AugmentConfig(crop=2, flip=True, **settings), 8)
    return TrainBatches(SPLIT, PREPROCESSING, steps, batch_size, 0, Runtime(torch.device("cpu")))


def test_an_older_config_has_the_augmentations_that_it_names() -> None:
    older = AugmentConfig.model_validate({"crop": 2, "crop_padding": "constant", "flip": True, "cutout": 3})
    assert [step.purpose for step in make_augmentations(older, 8)] == ["crop", "flip", "cutout"]
    assert make_augmentations(AugmentConfig(), 8) == []


def test_every_augmentation_draws_for_a_purpose_of_its_own() -> None:
    config = AugmentConfig.model_validate({"crop": 2, "flip": True, "cutout": 2, **SETTINGS})
    purposes = [step.purpose for step in make_augmentations(config, 8)]
    assert purposes == ["crop", "flip", "policy", *list(ALL)[:-1], "cutout", "erasing"]
    assert len(set(purposes)) == len(purposes)


def test_an_image_is_augmented_alike_in_any_batch_and_from_any_start() -> None:
    large, small = (torch.cat([batch.images for batch in batches(size, **SETTINGS).epoch(5)]) for size in (12, 3))
    assert torch.equal(large, small)
    rest = torch.cat([batch.images for batch in batches(3, **SETTINGS).epoch(5, 2)])
    assert torch.equal(rest, large[6:])


@pytest.mark.parametrize("name", SETTINGS)
def test_one_more_augmentation_leaves_the_draws_of_the_others(name: str) -> None:
    """The new one is applied after crop and flip, so applying it to their result must give the same images."""
    (before,), (after,) = batches(12).epoch(2), batches(12, **{name: SETTINGS[name]}).epoch(2)
    (step,) = make_augmentations(AugmentConfig.model_validate({name: SETTINGS[name]}), 8)
    cut = PREPROCESSING.denormalize(before.images)
    alone = TrainBatches(
        Split(cut[before.indices.argsort()], SPLIT.labels, SPLIT.names),
        PREPROCESSING, [step], 12, 0, Runtime(torch.device("cpu")),
    )  # fmt: skip
    (expected,) = alone.epoch(2)
    assert torch.equal(after.indices, before.indices)
    assert torch.equal(after.images, expected.images)
    assert not torch.equal(after.images, before.images)


@pytest.mark.parametrize("name", ["saturation", "hue"])
@pytest.mark.parametrize(("channels", "have"), [(1, "are grey"), (4, "have 4 channels")])
def test_colours_cannot_be_changed_in_images_without_them(name: str, channels: int, have: str) -> None:
    with pytest.raises(BadInput, match=rf"augment\.{name} is for colour images, but these {have}"):
        make_augmentations(AugmentConfig(**{name: 0.2}), 8, channels)
    assert len(make_augmentations(AugmentConfig(brightness=0.2, contrast=0.2), 8, channels)) == 2


@pytest.mark.parametrize("name", ["brightness", "policy"])
def test_floating_point_images_have_no_range(name: str) -> None:
    pair = (torch.rand(4, 3, 8, 8), [0, 1, 0, 1])
    with pytest.raises(BadInput, match=rf"augment\.{name} needs uint8 images, but these are torch\.float32"):
        fit(torch.nn.Linear(1, 1), pair, pair, epochs=1, batch_size=2, device="cpu", augment={name: SETTINGS[name]})


def test_a_policy_has_the_operations_and_the_strength_of_its_settings() -> None:
    for settings, expected in (
        ({"policy": "trivial", "rand_ops": 4}, (Policy("trivial"), 3)),
        ({"policy": "rand"}, (Policy("rand", 2, 9), 6)),
        ({"policy": "rand", "rand_ops": 3, "rand_magnitude": 0}, (Policy("rand", 3, 0), 9)),
    ):
        (step,) = make_augmentations(AugmentConfig.model_validate(settings), 8)
        assert (step.apply.__self__, step.columns) == expected  # type: ignore[attr-defined]


def test_fit_mixes_images_for_as_many_classes_as_the_network_has() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    seen = []
    network[1].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].clone()))
    pair = (IMAGES.permute(0, 3, 1, 2).float() / 255, SPLIT.labels)
    length = {"epochs": 1, "batch_size": 6, "device": "cpu", "precision": "fp32"}
    for augment in ({}, {"mixup": 1.0}):
        fit(network, pair, pair, **length, augment=augment)
    plain, mixed = ([x for x in batches if len(x) == 6] for batches in (seen[: len(seen) // 2], seen[len(seen) // 2 :]))
    assert len(plain) == len(mixed) == 2
    assert not any(torch.equal(one, other) for one, other in zip(plain, mixed, strict=True))


def test_the_changes_of_the_images_are_told_in_words() -> None:
    everything = AugmentConfig.model_validate(
        {"resized_crop": 0.35, "crop": 4, "crop_padding": "reflect", "flip": True, "cutout": 8, "policy": "rand"}
        | {**ALL, "mixup": 0.2, "cutmix": 1, "sizes": [0.75, 1]}
    )
    assert augmentation_words(everything).split("; ") == [
        "crops from 35 % of the area",
        "shifted by up to 4 px, with mirrored borders",
        "mirrored at random",
        "2 random operations of strength 9 of 30 (RandAugment)",
        "turned by up to 20 degrees",
        "brightness changed by up to 40 %",
        "contrast changed by up to 40 %",
        "saturation changed by up to 40 %",
        "hue turned by up to 10 % of the colour circle",
        "a square of 8 px blackened",
        "a rectangle blackened in 50 % of the images",
        "mixed in pairs by MixUp (alpha 0.2) or CutMix (alpha 1)",
        "resized to 75, 100 % in turn",
    ]
    assert augmentation_words(AugmentConfig(crop=1, flip=True, alternate=True, policy="trivial", cutmix=0.5)) == (
        "shifted by up to 1 px; mirrored in every second epoch; one random operation of random strength "
        "(TrivialAugment); mixed in pairs by CutMix (alpha 0.5)"
    )


@pytest.mark.parametrize(
    "name", [name for name in AugmentConfig.model_fields if not name.startswith(("rand_", "crop_"))]
)
def test_no_setting_is_left_out_of_the_words(name: str) -> None:
    on = {"policy": "trivial", "flip": True, "sizes": [0.5], "crop": 1, "cutout": 1, "alternate": True}.get(name, 0.5)
    settings = {name: on} if name != "alternate" else {"flip": True, name: on}
    plain = augmentation_words(AugmentConfig(flip=name == "alternate"))
    assert augmentation_words(AugmentConfig.model_validate(settings)) != plain
