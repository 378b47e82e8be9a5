"""Stem "quick" of recipe folder: by image size and network, cheaper, told in words, and never against a choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab import recipes
from resnetlab.data.datasets import open_dataset
from resnetlab.models.build import build_model
from resnetlab.models.summary import count_macs
from resnetlab.runs.build import make_network
from resnetlab.runs.stem import chosen_stem, notes_on_stem


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
    config = recipes.folder().changed({"model": changes})
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
