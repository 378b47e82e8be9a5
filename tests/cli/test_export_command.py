"""The command export: its options reach the library, and what was measured is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnetlab.runs.export import Exported

AGREEMENT = {"images": 12, "same_top1": 1.0, "largest_difference": 3e-7}
TIMES = {size: {"export": 1.5, "resnetlab": 2.5} for size in ("1", "64")}
FACTS = {
    "bytes": {"export": 1_500_000, "model_file": 2_000_000},
    "not_inside": "decoding",
    "verification": {"resized": AGREEMENT, "decoded": None, "milliseconds": TIMES, "accuracy": None},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def export(*arguments: object, **options: object) -> Exported:
        found.append((arguments, options))
        return Exported(Path("best.onnx"), FACTS)

    monkeypatch.setattr("resnetlab.runs.export.export", export)
    return found


def test_the_options_reach_the_library(command: Any, calls: list[Any]) -> None:
    words = ("runs/a", "--format", "int8", "--images", "a.png", "photos", "--max-drop", 1.5, "--triton", "models")
    assert command("export", *words, "--data", "pets")[0] == 0
    options = {"images": (Path("a.png"), Path("photos")), "triton": Path("models"), "max_drop": 1.5, "data": "pets"}
    assert calls == [(("runs/a", "int8", None), options)]


def test_what_was_measured_is_printed(command: Any, calls: list[Any]) -> None:
    _, out, _ = command("export", "runs/a")
    assert out.splitlines() == [
        "best.onnx: 1.50 MB (the model file has 2.00 MB)",
        "12 resized images: same top-1 class for 100.00%, probabilities differ by at most 3.0e-07",
        "batch of 1: 1.5 ms, resnetlab 2.5 ms",
        "batch of 64: 1.5 ms, resnetlab 2.5 ms",
        "not in the file: decoding",
    ]
    _, out, _ = command("export", "runs/a", "--json")
    assert json.loads(out) == {"path": "best.onnx", **FACTS}


def test_wrong_words_are_refused(command: Any) -> None:
    assert "--format" in command.refuse("export", "runs/a", "--format", "onx")
    assert "RUN|MODEL is missing" in command.refuse("export")
    assert "give either --triton or --out" in command.refuse("export", model(), "--out", "a.onnx", "--triton", "b")


def model() -> Path:
    """A model file in the working directory."""
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.inference.model_file import save_model
    from resnetlab.models.build import build_model
    from resnetlab.models.zoo import Architecture

    network = build_model(Architecture("basic", (1,), width=4, stem="cifar"), 2, in_channels=1)
    save_model(Path("a.safetensors"), network, ("a", "b"), Preprocessing(8, 8, 1, (0.5,), (0.5,)), {})
    return Path("a.safetensors")
