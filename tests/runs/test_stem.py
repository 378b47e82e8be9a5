"""Network "auto" and stem "quick" of recipe folder: by image size, told in words, and never against a choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab import recipes
from resnetlab.data.datasets import open_dataset
from resnetlab.errors import Stopped
from resnetlab.models.build import build_model
from resnetlab.models.summary import count_macs
from resnetlab.runs import experiment
from resnetlab.runs.build import Experiment, make_network
from resnetlab.runs.config import ModelConfig
from resnetlab.runs.resume import resume
from resnetlab.runs.stem import chosen_network, chosen_stem, notes_on_stem


def pictures(folder: Path, side: int) -> Path:
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(10 * label + i).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("side", "changes", "stem", "words"),
    [
        (28, {}, "imagenet", "small images (28x28 px): the 7x7 stem"),
        (24, {}, "cifar", "tiny images (24x24 px): the 3x3 stem"),
        (28, {"stem": "cifar"}, "cifar", None),
        (28, {"stem": "auto"}, "cifar", None),
        (24, {"stem": "imagenet"}, "imagenet", None),
        (32, {"name": "resnet20"}, "cifar", None),
    ],
)
def test_recipe_folder_has_the_stem_for_its_images_unless_one_is_given(side, changes, stem, words, tmp_path):
    config = recipes.folder().changed({"model": {"name": "resnet18", **changes}})
    network, notes = make_network(config, open_dataset(pictures(tmp_path, side)))
    assert network.architecture.stem == stem
    assert [note for note in notes if "stem" in note] == [note for note in notes if words and note.startswith(words)]
    assert len(notes) == (words is not None)


def test_networks_with_a_stem_of_their_own_keep_it():
    assert chosen_stem("quick", "fast_resnet8", 32) == "auto"
    assert build_model("fast_resnet8", 10, stem="auto", image_size=32).architecture.stem == "whitened"


def test_large_images_have_the_same_stem_as_before_and_no_note():
    assert chosen_stem("quick", "resnet18", 224) == "imagenet"
    assert notes_on_stem("quick", "resnet18", 224) == []


@pytest.mark.parametrize("side", [28, 32, 64])
def test_the_chosen_stem_computes_less_than_a_tenth(side):
    costs = {stem: count_macs(build_model("resnet18", 10, stem=stem), side) for stem in ("imagenet", "cifar")}
    assert costs["imagenet"] < costs["cifar"] / 10


@pytest.mark.parametrize(
    ("side", "network"), [(8, "fast_resnet8"), (28, "fast_resnet8"), (40, "fast_resnet8"), (41, "resnet18")]
)
def test_the_network_is_that_for_the_images_and_the_note_says_so(side, network, tmp_path):
    config = recipes.folder().changed({"data": {"name": str(pictures(tmp_path, side))}, "batch_size": 2})
    found = Experiment.of(config)
    assert found.config.model.name == found.network.name == network
    assert found.data.preprocessing.image_size == max(16, side)
    again = Experiment.of(found.config, data=found.data)  # as after probes, or with a planned length
    assert again.notes == found.notes
    notes = [note for note in found.notes if note.startswith("model.name auto: ")]
    assert [note.split()[2] for note in notes] == [network] * (network != "resnet18")


@pytest.mark.parametrize(
    "own", [{"stem": "imagenet"}, {"stem": "cifar"}, {"shortcut": "C"}, {"pretrained": "torchvision"}]
)
def test_settings_that_are_for_resnet18_choose_it(own):
    assert chosen_network(ModelConfig(**{"name": "auto", "stem": "quick", **own}), 28, 28) == "resnet18"
    assert chosen_network(ModelConfig(name="resnet34"), 28, 28) == "resnet34"


def test_images_that_are_too_small_for_it_at_first_or_by_choice_have_the_other_one(tmp_path):
    assert chosen_network(ModelConfig(name="auto"), 10, 16) == "fast_resnet8"
    assert chosen_network(ModelConfig(name="auto"), 9, 16) == "resnet18"
    data = {"name": str(pictures(tmp_path, 8)), "image_size": 8}
    assert Experiment.of(recipes.folder().changed({"data": data, "batch_size": 2})).config.model.name == "resnet18"


def test_a_run_has_the_network_in_its_config_and_a_resumed_one_does_not_choose_again(tmp_path, no_pictures):
    config = recipes.folder().changed(
        {"data": {"name": str(pictures(tmp_path / "data", 8))}, "batch_size": 2, "steps": 2}
    )
    with pytest.raises(Stopped):
        experiment.train(config, tmp_path / "run", max_minutes=0)
    run = resume(tmp_path / "run", changes=config.to_json())
    assert (run.config.model.name, run.config.data.image_size) == ("fast_resnet8", 16)
    assert run.is_scored
