"""The card of a model: metadata that the Hub reads, text without markup from names, and the scores of the run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard

import resnetlab
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.evaluation.selective import Rejection
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.inference.validation import SplitScore, Validation
from resnetlab.models import build_model
from resnetlab.report.card import card
from resnetlab.report.metadata import front_matter, scalar

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b: [c](http://d) `e` *f*",
    "- x: &y #z\n---\n猫\x85\u2028\U0001f600\x1b[2J",
]
PIXELS = Preprocessing(32, 32, 3, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def run(make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose classes have hostile names, with figures of its scores."""
    made = make_run(tmp_path_factory.mktemp("cards") / "run", classes=HOSTILE)
    model = read_model(made.best)
    origin = {**model.provenance, "data": 'pets: "x" #1', "recipe": "quick | start", "license": "Apache-2.0"}
    save_model(made.best, model.network, HOSTILE, model.preprocessing, origin)
    for name in ("confusion_matrix.png", "calibration.png"):
        (made.evaluation("test") / name).write_bytes(b"\x89PNG")
    return made.path


def test_the_hub_reads_metadata_and_scores(run, tmp_path):
    folder = card(run, tmp_path / "card")
    read = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    assert read.data.license == "apache-2.0"
    assert read.data.pipeline_tag == "image-classification"
    assert read.data.library_name == "resnetlab"
    accuracy, f1 = read.data.eval_results
    assert (accuracy.metric_type, f1.metric_type) == ("accuracy", "f1")
    assert (accuracy.metric_value, f1.metric_value) == (metrics["accuracy"], metrics["macro"]["f1"])
    assert (accuracy.dataset_name, accuracy.dataset_split) == ('pets: "x" #1', "test")
    assert "95 % interval" in accuracy.metric_name


def test_the_folder_has_the_model_file_its_settings_and_the_figures(run, tmp_path):
    folder = card(run, tmp_path / "card")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "calibration.png",
        "config.json",
        "confusion_matrix.png",
        "model.safetensors",
    ]
    assert (folder / "model.safetensors").read_bytes() == (run / "best.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text())["label_names"] == HOSTILE
    assert resnetlab.load(folder / "model.safetensors").classes == tuple(HOSTILE)
    assert (
        card(run / "best.safetensors", tmp_path / "same").joinpath("README.md").read_text()
        == (folder / "README.md").read_text()
    )


def test_names_have_no_meaning_in_the_text(run, tmp_path):
    text = (card(run, tmp_path / "card") / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1]
    assert text.count("\n---\n") == 1  # the end of the metadata
    assert "<" not in re.sub(r"\\<", "", body)
    assert "http://" not in body
    assert all(character.isprintable() or character == "\n" for character in text)
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 6, 7}  # the columns of the three tables
    assert "\\<script\\>alert\\(1\\)\\</script\\>" in body


def test_limits_are_facts_of_the_run(run, tmp_path):
    text = (card(run, tmp_path / "card") / "README.md").read_text(encoding="utf-8")
    rows = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["per_class"]
    weakest = min(rows, key=lambda row: row["recall"])
    assert f"{100 * weakest['recall']:.2f} %" in text.split("lowest recall")[1].split(".\n")[0]
    few = [row for row in rows if row["support"] < 30]
    assert ("fewer than 30 images" in text) == bool(few)
    assert "It has 3 classes" in text
    assert "test set used 1 time by this model" in text


@pytest.fixture(scope="module")
def eighteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a network that timm has, too, with validation and without a run."""
    path = tmp_path_factory.mktemp("model") / "eighteen.safetensors"
    network = build_model("resnet18", 3, stem="imagenet").eval()
    scores = (SplitScore("val", "", 200, 0.9, (0.85, 0.94), 0.88, None, 0.4),)
    validation = Validation(1.5, 200, "", (Rejection(0.05, 0.91, 0.8),), 0.95, {}, scores)
    save_model(path, network, ["a", "b", "c"], PIXELS, {"data": "cifar10"}, validation=validation)
    return path


def test_a_model_file_alone_brings_the_scores_and_the_rejection_of_its_validation(eighteen, tmp_path):
    folder = card(eighteen, tmp_path / "card", license="My Own Terms, v2", repository="me/eighteen")
    text = (folder / "README.md").read_text(encoding="utf-8")
    read = ModelCard(text)
    assert (read.data.license, read.data.license_name) == ("other", "my-own-terms-v2")
    assert read.data.datasets == ["uoft-cs/cifar10"]
    assert [result.metric_value for result in read.data.eval_results] == [0.9, 0.88]
    assert "Validation scores are too good" in text
    assert "With `reject=0.05`, it gives no answer below a probability of 0.9100" in text
    assert 'resnetlab.load("hf:me/eighteen")' in text
    assert 'timm.create_model("hf_hub:me/eighteen", pretrained=True)' in text
    assert read.data.library_name == "timm"


def test_the_borders_of_timm_are_told(eighteen, tmp_path):
    model = read_model(eighteen)
    padded = replace(model.preprocessing, fit="pad")
    save_model(tmp_path / "padded.safetensors", model.network, model.classes, padded, {})
    told = (
        "without the temperature of the model file, and its transform has borders of the mean colour, not black ones:"
    )
    for file, is_told in ((eighteen, False), (tmp_path / "padded.safetensors", True)):
        folder = card(file, tmp_path / f"card-{is_told}")
        assert (told in (folder / "README.md").read_text(encoding="utf-8")) == is_told


def test_timm_loads_the_folder_and_computes_the_same_logits(eighteen, tmp_path):
    folder = card(eighteen, tmp_path / "card")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(images), resnetlab.load_model(eighteen)(images))
    assert network.pretrained_cfg["mean"] == [0.5] * 3
    assert network.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_weights_that_were_imported_say_so(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_model("resnet20", 2, shortcut="B").state_dict(), path)
    pixels = {"image_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    made = resnetlab.import_model(path, tmp_path / "m.safetensors", classes=["a", "b"], **pixels)
    text = (card(made.path, tmp_path / "card") / "README.md").read_text(encoding="utf-8")
    assert "This model has not been scored" in text
    assert "were imported from weights.pth" in text
    assert ModelCard(text).data.license == "unknown"


def test_a_folder_with_files_is_never_overwritten(run, tmp_path):
    (tmp_path / "card").mkdir()
    card(run, tmp_path / "card")
    with pytest.raises(BadInput, match=r"exists and is not an empty folder; give a new one with `out`"):
        card(run, tmp_path / "card")
    with pytest.raises(BadInput, match="is no name of a repository"):
        card(run, tmp_path / "other", repository="me")
    assert not [path for path in tmp_path.iterdir() if path.name != "card"]


@pytest.mark.parametrize("text", [*HOSTILE, "", "null", "on", "1e3", "\ud800", '"\\', "{a: [b]}", "\x00\x7f\ufeff"])
def test_any_text_survives_the_metadata(text):
    assert yaml.safe_load(scalar(text)) == text
    nested = {"a": [{"b": text, "c": [text, 0.5]}, {"d": {"e": text}}], "f": None}
    assert yaml.safe_load(front_matter(nested).replace("---\n", "")) == nested


def test_the_command_prints_the_path(run, command):
    code, out, _ = command("card", run, "--out", "card", "--license", "mit")
    assert (code, out) == (0, "the card is card/README.md\n")
    assert ModelCard(Path("card", "README.md").read_text(encoding="utf-8")).data.license == "mit"


def test_the_working_directory_is_not_replaced(eighteen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path):
        with pytest.raises(BadInput, match="is the working directory; give a new folder with `out`"):
            card(eighteen, out)
    assert not list(tmp_path.iterdir())
