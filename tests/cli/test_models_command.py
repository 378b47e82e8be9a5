"""`resnetlab models NAME`: a network of the zoo, a model file or a run, in numbers and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.cli.inspection import inspect_model
from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import save_model
from resnetlab.inference.predict import load
from resnetlab.interpret.activations import collect_activations
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    model = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3, in_channels=1, seed=1)
    see = Preprocessing(image_size=8, resize_to=10, channels=1, mean=(0.4,), std=(0.3,))
    save_model(folder / "best.safetensors", model.eval(), ("cat", "dog", "[newt]"), see, {})
    return folder


def numbers_of(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in out.splitlines() if line.startswith((" stem", " layer", " head"))}


def test_an_image_gives_mean_and_std_of_every_stage(command: Any, cat: Path) -> None:
    code, out, _ = command("models", "resnet20", "--image", cat)
    assert code == 0
    assert "note: the weights are untrained, drawn from seed 0" in out
    see = Preprocessing(32, 32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    images = see.normalize(torch.from_numpy(see.read(cat))[None])
    stops = {stop.stage: stop for stop in collect_activations(build_model("resnet20", 10), images)}
    for stage, cells in numbers_of(out).items():
        assert cells[-2:] == [f"{stops[stage].mean:.4g}", f"{stops[stage].std:.4g}"]
        assert cells[1] == "×".join(map(str, stops[stage].shape))
    assert sorted(path.name for path in cat.parent.iterdir()) == ["cat.png"]


@pytest.mark.parametrize("form", MAGIC)
def test_the_network_alone_as_a_picture(command: Any, tmp_path: Path, form: str) -> None:
    code, out, err = command("models", "resnet34", "--image-size", 32, "--save-figure", f"net.{form}")
    assert code == 0, err
    assert out.endswith(f"the figure is net.{form}\n")
    assert "512×4×4" in out
    assert "mean" not in out
    assert (tmp_path / f"net.{form}").read_bytes().startswith(MAGIC[form])
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{form}"]


def test_an_image_on_its_way_as_a_picture(command: Any, cat: Path) -> None:
    code, _, err = command("models", "resnet20", "--image", cat, "--save-figure", "way.PNG")
    assert code == 0, err
    with Image.open(cat.parent / "way.PNG") as picture:
        assert min(picture.size) > 1000
    with_stem = ("--image-size", 16, "--stem", "imagenet", "--classes", 7)
    code, out, _ = command("models", "resnet20", "--image", cat, *with_stem)
    assert numbers_of(out)["stem"][1] == "16×4×4"
    assert numbers_of(out)["head"][1] == "7"


def test_a_run_brings_its_weights_classes_and_preprocessing(command: Any, cat: Path, run: Path) -> None:
    for source in (run, run / "best.safetensors"):
        code, out, err = command("models", source, "--image", cat, "--save-figure", "way.svg")
        assert code == 0, err
        prediction = load(run, "cpu")(cat)
        said = ", ".join(f"{name} {share:.2%}" for name, share in prediction.probabilities.items())
        assert f"predicted: {said}" in out
        assert "images of 8×8 px, 3 classes" in out
        assert "untrained" not in out
    code, out, _ = command("models", run)
    assert code == 0
    assert numbers_of(out)["layer2"][1] == "8×4×4"
    for words in (("--stem", "cifar"), ("--image-size", 9), ("--classes", 3)):
        assert f"omit {words[0]}" in command.refuse("models", run, *words)


def test_normalisation_goes_by_the_size_of_the_image() -> None:
    assert inspect_model("resnet18", 224, is_blank=True).preprocessing.mean == (0.485, 0.456, 0.406)
    assert inspect_model("resnet18", 64, is_blank=True).preprocessing.std == (0.2470, 0.2435, 0.2616)
    assert inspect_model("resnet50", is_blank=True).preprocessing.image_size == 224


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--image", "cat.png"], "--image needs the name of a network"),
        (["--save-figure", "a.png"], "--save-figure needs the name of a network"),
        (["resnet20", "--save-figure", "a.jpg"], "--save-figure is a.jpg, but must be a .png, .svg or .pdf file"),
        (["resnet20", "--save-figure", "nowhere/a.png"], "file in an existing folder"),
        (["resnet20", "--save-figure", "folder.png"], "but must be a .png"),
        (["resnet20", "--save-figure", "cat.png", "--image", "cat.png"], "the image itself; give another name"),
        (["resnet20", "--image", "nowhere.png", "--save-figure", "a.png"], "nowhere.png"),
        (["resnet20", "--image", "text.png", "--save-figure", "a.png"], "text.png"),
        (["resnet20", "--image", "folder.png", "--save-figure", "a.png"], "folder.png"),
        (["resnet20", "--image", "cat.png", "--image-size", "0", "--save-figure", "a.png"], "image size 0"),
        (["resnet20", "--image", "cat.png", "--image-size", "9999", "--save-figure", "a.png"], "9999"),
        (["resnet20", "--image", "cat.png", "--classes", "0", "--save-figure", "a.png"], "--classes is 0"),
        (["fast_resnet8", "--image-size", "4", "--save-figure", "a.png"], "images of 4×4 px are too small"),
        (["fast_resnet8", "--image-size", "4", "--image", "cat.png"], "images of 4×4 px are too small"),
        (["resnet43", "--save-figure", "a.png"], "unknown model 'resnet43'"),
        (["./resnet43", "--save-figure", "a.png"], "file not found: ./resnet43"),
        (["nowhere.safetensors"], "file not found: nowhere.safetensors"),
        (["folder.png"], "is a folder without best.safetensors"),
        (["text.png"], "is not a file that resnetlab wrote"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    command: Any, cat: Path, words: list[str], sentence: str
) -> None:
    (cat.parent / "folder.png").mkdir()
    (cat.parent / "text.png").write_text("this is no picture")
    before = cat.read_bytes()
    assert sentence in command.refuse("models", *words)
    assert sorted(path.name for path in cat.parent.iterdir()) == ["cat.png", "folder.png", "text.png"]
    assert cat.read_bytes() == before
