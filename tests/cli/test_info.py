"""`resnetlab info` shows everything that a model file contains, of new, older and imported files alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnetlab.data.preprocess import Preprocessing
from resnetlab.evaluation.selective import Rejection
from resnetlab.inference.model_file import save_model
from resnetlab.inference.validation import SplitScore, Validation
from resnetlab.models.build import build_model
from resnetlab.runs.config import RunConfig
from resnetlab.runs.provenance import settings

SEE = Preprocessing(image_size=28, resize_to=32, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), fit="pad")
SCORE = SplitScore("val", "d" * 64, 1200, 0.9, (0.85, 0.94), 0.89, None, 0.3)
VALIDATION = Validation(
    temperature=1.75,
    images=1200,
    split_digest="d" * 64,
    rejections=(Rejection(0.005, 0.93, 0.5), Rejection(0.1, 0.8, 0.7)),
    agreement={"bf16": 0.9995},
    scores=(SCORE, replace(SCORE, split="test", images=999, macro_f1=None)),
)
CONFIG = RunConfig(epochs=7, license="CC-BY-4.0")
ORIGIN = {
    "recipe": "folder",
    "settings": settings(CONFIG),
    "license": "CC-BY-4.0",
    "data": "pets",
    "data_settings": {"split_seed": 5, "val_fraction": 0.1},
    "split_digests": {"train": "a" * 64, "val": "b" * 64},
    "epoch": 6,
    "versions": {"resnetlab": "0.1.0", "torch": "2.14", "pillow": None},
    "trained": "2026-01-02T03:04:05+00:00",
    "later": {"key": [1, True, None]},
}
CLASSES = tuple(f"class {letter}" for letter in "abcdefghijkl")


def write(path: Path, *, classes: tuple[str, ...] = CLASSES, origin: Any = ORIGIN, found: Any = VALIDATION) -> None:
    network = build_model("tiny", len(classes))
    network.name = "tiny"
    save_model(path, network, classes, SEE, origin, validation=found)


def test_everything_is_shown(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "pets.safetensors")
    code, out, err = command("info", "pets.safetensors")
    assert (code, err) == (0, "")
    for shown in (
        *("pets.safetensors", "model format 1", "tiny", "cifar stem", "shortcuts A", "parameters"),
        *("12: class a, class b", "class j and 2 more", "scale the long side to 32 px", "28×28 px, RGB"),
        *("subtract 0.4 0.5 0.6, divide by 0.2 0.3 0.4", "1.75, fitted on 1,200 validation images"),
        "bf16 gives the class of fp32 for 99.95%",
        "folder: 7 epochs of batch 128, sgd at 0.1, constant schedule, seed 0, best epoch 6",
        *("2026-01-02T03:04:05+00:00", "pets, split seed 5, val fraction 0.1", f"train {'a' * 16}, val {'b' * 16}"),
        *("resnetlab 0.1.0, torch 2.14", "CC-BY-4.0", "key 1; on; null"),
        *("90.00%", "85.00% to 94.00%", "89.00%", "0.3000", "0.5%", "0.9300", "50.0%", "10%", "--reject 0.005"),
    ):
        assert shown in out, shown
    assert "class l" not in out


def test_json_has_the_content_of_the_file(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "pets.safetensors")
    code, out, _ = command("info", "pets.safetensors", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["classes"] == list(CLASSES)
    assert Validation.from_json(found["validation"]) == VALIDATION
    assert found["provenance"] == ORIGIN
    assert Preprocessing.from_json(found["preprocessing"]) == SEE
    assert found["bytes"] == (tmp_path / "pets.safetensors").stat().st_size


def test_a_file_without_validation_and_origin_says_so(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "a", origin={}, found=None)
    code, out, _ = command("info", "a")
    assert code == 0
    assert "temperature 1, no rejection thresholds, predictions in fp32" in out
    assert "unstated" in out
    write(tmp_path / "a", found=replace(VALIDATION, rejections=(), agreement={}, scores=()))
    assert "1,200 validation images support none of the risks" in command("info", "a")[1]


@pytest.mark.parametrize("value", [None, 5, "x" * 999, "\x1b[2J[red]", [["a"]], {"epochs": 10**400}, {"a": {"b": []}}])
def test_any_origin_is_shown_on_lines_of_its_own(command: Any, tmp_path: Path, value: Any) -> None:
    write(tmp_path / "a", origin=dict.fromkeys([*ORIGIN, "imported", "contents_digests"], value))
    code, out, err = command("info", "a")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) < 999


def test_names_of_classes_cannot_control_the_terminal(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "a", classes=("\x1b[2J", "[red]cat[/red]"))
    out = command("info", "a")[1]
    assert "\x1b" not in out
    assert "[red]cat[/red]" in out


def test_a_run_is_described_by_its_folder_or_its_name_and_others_are_refused(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "pets-001"
    run.mkdir(parents=True)
    write(run / "best.safetensors")
    assert command("info", "pets-001")[1] == command("info", "runs/pets-001")[1] != ""
    assert "did you mean 'pets-001'?" in command.refuse("info", "pets-002")
    assert "give one of them: pets-001" in command.refuse("info", "runs")
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "it is a picture; the model comes first" in command.refuse("info", "cat.png")
