"""Export: what is refused, what is written and stored, and that a failure leaves nothing. ONNX itself is slow: see
tests/inference/test_everywhere.py."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.inference import onnx_file, verification
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.predict import Classifier
from resnetlab.runs import experiment, recipes
from resnetlab.runs import export as module
from resnetlab.runs.export import export

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def trained(tiny_network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"model": {"name": tiny_network}, "epochs": 2, "batch_size": 256, "precision": "fp32"}
    return experiment.train(recipes.quickstart().changed(changes), tmp_path_factory.mktemp("trained") / "run").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def alone(run: Path, tmp_path: Path) -> Path:
    """The model file without its run."""
    return Path(shutil.copy(run / "best.safetensors", tmp_path / "alone.safetensors"))


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "milliseconds", lambda *_: 1.0)


def built(change: Callable[[np.ndarray], np.ndarray] = lambda scores: scores) -> Callable[..., Any]:
    """A stand-in for the exporters, which are slow: the classifier itself, with changed probabilities."""

    def build(kind: str, model: Model, run: object) -> tuple[dict[str, bytes], dict[str, Any], Any]:
        classifier, resize = Classifier(model), model.preprocessing.resize

        def predict(pixels: np.ndarray) -> np.ndarray:
            resized = [resize(image[:, :, 0] if image.shape[2] == 1 else image) for image in pixels]
            return change(np.asarray(classifier.probabilities(np.stack(resized))))

        return {"": b"content"}, {"not_inside": "nothing"}, predict

    return build


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_verified_export_is_written_with_its_facts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built())
    written = export(run, "onnx")
    assert written.path == run / "best.onnx"
    assert written.path.read_bytes() == b"content"
    stored = json.loads((run / "best.onnx.json").read_text())
    assert stored == json.loads(json.dumps(written.facts))
    assert stored["verification"]["resized"] == {"images": 144, "same_top1": 1.0, "largest_difference": 0.0}
    assert stored["verification"]["decoded"]["images"] == 100
    assert stored["bytes"] == {"export": 7, "model_file": (run / "best.safetensors").stat().st_size}
    assert written.lines()[1].startswith("144 resized images: same top-1 class for 100.00%")


def test_a_second_export_replaces_the_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built())
    export(run, "onnx", run / "a.onnx")
    before = names(run)
    export(run, "onnx", run / "a.onnx")
    assert names(run) == before


@pytest.mark.parametrize("beside", [None, "{}", '{"sha256": {"a.onnx": "0"}}', '{"sha256": []}', "text", "[" * 9999])
def test_a_file_that_is_no_export_is_not_replaced(
    run: Path, beside: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build", lambda *_: pytest.fail("it is refused before the graph is built"))
    (run / "a.onnx").write_text("mine")
    if beside is not None:
        (run / "a.onnx.json").write_text(beside)
    with pytest.raises(BadInput, match=r"a\.onnx.*give another `out`"):
        export(run, "onnx", run / "a.onnx")
    assert (run / "a.onnx").read_text() == "mine"
    assert not (run / "a.onnx.json").exists() or (run / "a.onnx.json").read_text() == beside


def test_an_export_that_was_changed_is_not_replaced_and_one_that_was_removed_is_written_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build", built())
    export(run, "onnx", run / "a.onnx")
    (run / "a.onnx").write_bytes(b"content of mine")
    with pytest.raises(BadInput, match="remove it"):
        export(run, "onnx", run / "a.onnx")
    (run / "a.onnx").unlink()
    assert export(run, "onnx", run / "a.onnx").path.read_bytes() == b"content"


@pytest.mark.parametrize("change", [lambda scores: scores[:, ::-1], lambda scores: scores * 1.001])
def test_an_export_with_other_answers_leaves_nothing(run: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built(change))
    before = names(run)
    with pytest.raises(BadInput, match="the export is not written"):
        export(run, "onnx")
    assert names(run) == before


def test_int8_with_a_larger_drop_than_allowed_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built(lambda scores: -scores))
    before = names(run)
    with pytest.raises(BadInput, match=r"points fewer than in fp32 .* the limit is 0.5 points \(`max_drop`\)"):
        export(run, "int8")
    assert names(run) == before
    found = export(run, "int8", max_drop=100).facts["verification"]["accuracy"]
    assert found["drop"] == pytest.approx(100 * (found["fp32"] - found["int8"]))


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing(
    run: Path, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build", built())
    before = names(run)

    def fail(*_: object) -> None:
        raise failure

    models = run.parent / "models"
    for step in ("save", "write_json"):
        with monkeypatch.context() as patched:
            patched.setattr(module, step, fail)
            kind = DiskTrouble if isinstance(failure, OSError) else KeyboardInterrupt
            with pytest.raises(kind, match="could not write .*best.onnx" if kind is DiskTrouble else None):
                export(run, "onnx")
            with pytest.raises(kind):
                export(run, "onnx", triton=models)
        assert names(run) == before
        assert not models.exists()


def test_triton_gets_a_model_repository(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built())
    named = run.rename(tmp_path / "my run")
    written = export(named, "onnx", triton=tmp_path / "models")
    assert written.path == tmp_path / "models" / "my_run"
    assert names(written.path) == {"1", "1/model.onnx", "config.pbtxt", "labels.txt", "export.json"}
    assert 'name: "my_run"' in (written.path / "config.pbtxt").read_text()
    with pytest.raises(BadInput, match="exists; remove it"):
        export(named, "onnx", triton=tmp_path / "models")
    assert names(tmp_path / "models") == {"my_run", *(f"my_run/{name}" for name in names(written.path))}


def test_a_model_file_without_its_run_needs_images(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build", built())
    with pytest.raises(BadInput, match=r"no images to verify the export with; give some \(`images`\)"):
        export(alone)
    folder = alone.parent / "photos" / "deep"
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    written = export(alone, images=folder.parent)
    assert written.path == alone.with_suffix(".onnx")
    assert written.facts["verification"]["decoded"]["images"] == 3
    assert written.facts["verified_with"] == "the given images"


def test_int8_needs_the_run(alone: Path) -> None:
    photo = alone.parent / "a.png"
    Image.new("L", (9, 9)).save(photo)
    with pytest.raises(BadInput, match="int8 is calibrated on training images"):
        export(alone, "int8", images=photo)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "onx"}, "unknown format 'onx'; did you mean 'onnx'"),
        ({"out": "a.pt2"}, "out is a.pt2, but must be a .onnx file in an existing folder"),
        ({"out": "nowhere/a.onnx"}, "out is nowhere/a.onnx, but must be a .onnx file"),
        ({"format": "int8", "max_drop": -1}, "max_drop is -1, but must be a number of percentage points"),
        ({"format": "int8", "max_drop": float("nan")}, "max_drop is nan"),
        ({"format": "pt2", "triton": "models"}, "triton is for onnx and int8, not pt2"),
        ({"out": "a.onnx", "triton": "models"}, "give either `triton` or `out`"),
        ({"format": "timm"}, "timm has no such network: its stem is cifar"),
        ({"format": "torchvision"}, "torchvision has no such network"),
        ({"images": []}, "images is empty"),
        ({"images": "missing.png"}, "file not found: missing.png"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_sentence(run: Path, arguments: dict[str, Any], words: str) -> None:
    before = names(run)
    with pytest.raises(BadInput) as error:
        export(run, **arguments)
    assert words in str(error.value)
    assert names(run) == before


def test_missing_packages_are_named_with_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(BadInput, match=r"onnxruntime must be installed: pip install 'resnetlab\[onnx\]'"):
        export(run, "onnx")


def test_data_that_has_changed_is_named(run: Path) -> None:
    stored = json.loads((run / "split.json").read_text())
    stored["splits"]["val"]["contents"][0] = "0" * len(stored["splits"]["val"]["contents"][0])
    (run / "split.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=r"are not those of .*; undo that: the export is compared with the model"):
        export(run, "onnx")


def test_the_borders_of_timm_are_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "to_timm", lambda _: ({}, {}, None))
    model = read_model(alone)
    for fit, told in (
        ("crop", "temperature"),
        ("pad", "temperature, black borders (those of timm have the mean colour)"),
    ):
        fitted = replace(model, preprocessing=replace(model.preprocessing, fit=fit))
        assert module.build("timm", fitted, None)[1]["not_inside"] == told
