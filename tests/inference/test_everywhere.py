"""One model everywhere: a trained run gives the same answers from its file, `predict` and every export.

Trained on digits, and on real CIFAR-10 JPEG files where RESNETLAB_CIFAR10_JPEG names their folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.cli.main import main
from resnetlab.inference.onnx_file import onnx_predictor
from resnetlab.inference.predict import Classifier, load
from resnetlab.runs import experiment, recipes
from resnetlab.runs.export import Exported, Format, export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of the exporters
ROOT = Path(__file__).parents[2]
BLOCKED = {"torch", "torchvision", "resnetlab"}


class Trained:
    """A run, its classifier, original files to predict, and 1,000 images (or paths of them) with their labels."""

    def __init__(self, run: Path, files: list[Path], labelled: tuple[Sequence[Any], Sequence[int]]) -> None:
        self.run = run
        self.files = files
        self.labelled = labelled
        self.classifier: Classifier = load(run, device="cpu", precision="fp32")
        self.pixels = np.stack([self.classifier.pixels(file) for file in files])
        self.probabilities = np.asarray(self.classifier.probabilities(self.pixels))

    def export(self, kind: Format) -> Exported:
        return export(self.run, kind)


def without_pictures(patched: pytest.MonkeyPatch) -> None:
    patched.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
    patched.setattr(experiment, "draw_curves", lambda *_: None)
    patched.setattr(experiment, "draw_batch", lambda *_: None)


def trained_on_digits(folder: Path) -> Trained:
    run = experiment.train(recipes.quickstart().changed({"model": {"name": "resnet20"}, "epochs": 8}), folder / "run")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    files = []
    for number, image in enumerate(images[:200]):
        files.append(folder / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    return Trained(run.path, files, (images[-1000:], digits.target[-1000:]))


def trained_on_cifar(folder: Path, jpegs: Path) -> Trained:
    """Two hundred images of three classes, copied, so that the run is short."""
    others: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(("airplane", "frog", "ship")):
        files = [file for path in sorted(jpegs.rglob(name)) if path.is_dir() for file in sorted(path.iterdir())]
        (folder / "data" / name).mkdir(parents=True)
        for file in files[:200]:
            shutil.copy(file, folder / "data" / name)
        others += files[200:534]
        labels += [label] * len(files[200:534])
    changes = {"data": {"name": str(folder / "data")}, "model": {"name": "resnet20"}, "epochs": 6, "batch_size": 50}
    run = experiment.train(recipes.folder().changed(changes), folder / "run")
    return Trained(run.path, sorted((folder / "data").rglob("*.jp*g"))[::3], (others, labels))


@pytest.fixture(scope="module", params=["digits", "cifar"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patched:
        without_pictures(patched)
        if request.param == "digits":
            return trained_on_digits(folder)
        return trained_on_cifar(folder, request.getfixturevalue("cifar10_jpeg"))


@pytest.fixture(scope="module")
def onnx(trained: Trained) -> Exported:
    return trained.export("onnx")


def require_same(trained: Trained, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """The same class for every image, and probabilities within 1e-4, from resized pixels on."""
    found = predict(trained.pixels)
    assert (found.argmax(1) == trained.probabilities.argmax(1)).all()
    assert np.abs(found - trained.probabilities).max() <= 1e-4


def test_the_network_learned_something(trained: Trained) -> None:
    assert len(set(trained.probabilities.argmax(1))) >= 3
    assert trained.probabilities.max(1).mean() > 0.5


def test_predict_gives_the_answers_of_the_classifier(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    few = trained.files[:20]
    assert main(["predict", str(trained.run), *map(str, few), "--json", "--precision", "fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    classes = trained.classifier.classes
    for one, row in zip(found, trained.probabilities, strict=False):
        assert one["predicted"] == classes[row.argmax()]
        assert one["probability"] == pytest.approx(row.max(), abs=1e-4)
    assert len(found) == len(few)


def test_the_server_gives_the_answers_of_the_classifier(trained: Trained) -> None:
    pytest.importorskip("uvicorn", reason="the server needs: pip install 'resnetlab[serve]'")
    from starlette.testclient import TestClient

    from resnetlab.inference.serve.application import application
    from resnetlab.inference.serve.run import Models

    served = Models({"run": str(trained.run)}, "cpu", "fp32").load()
    classes = trained.classifier.classes
    with TestClient(application(served), base_url="http://127.0.0.1:8000") as client:
        for file, row in list(zip(trained.files, trained.probabilities, strict=True))[:20]:
            answer = client.post(f"/predict?top_k={len(classes)}", content=file.read_bytes()).json()
            assert answer["predicted"] == classes[row.argmax()]
            found = {one["name"]: one["probability"] for one in answer["top"]}
            assert max(abs(found[name] - value) for name, value in zip(classes, row, strict=True)) <= 1e-4


def test_onnx_gives_the_answers_of_the_classifier(trained: Trained, onnx: Exported) -> None:
    require_same(trained, onnx_predictor(onnx.path.read_bytes()))
    found = onnx.facts["verification"]
    assert found["resized"]["largest_difference"] <= 1e-4
    assert found["decoded"]["same_top1"] >= 0.995
    assert found["decoded"]["largest_difference"] <= 1e-4


def test_onnx_is_one_sound_file_without_paths_of_this_machine(onnx: Exported) -> None:
    import onnx as onnx_package

    model = onnx_package.load(onnx.path)
    onnx_package.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [18]
    assert str(ROOT).encode() not in onnx.path.read_bytes()
    dimensions = [one.dim_param or one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim]
    assert dimensions[:3] == ["batch", "height", "width"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (3, 70, 33), (2, 5, 300), (1, 300, 20)])
def test_onnx_takes_any_batch_and_size(trained: Trained, onnx: Exported, shape: tuple[int, int, int]) -> None:
    channels = trained.classifier.model.preprocessing.channels
    images = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    found = onnx_predictor(onnx.path.read_bytes())(images)
    pixels = np.stack([trained.classifier.pixels(image) for image in images])
    assert np.abs(found - np.asarray(trained.classifier.probabilities(pixels))).max() <= 1e-4


def test_pt2_gives_the_answers_of_the_classifier(trained: Trained) -> None:
    import torch

    written = trained.export("pt2")
    facts = {"classes": ""}
    program = torch.export.load(written.path, extra_files=facts).module()  # our own file of a moment ago
    require_same(trained, lambda pixels: program(torch.from_numpy(pixels))[0].detach().numpy())
    assert json.loads(facts["classes"]) == list(trained.classifier.classes)


def test_int8_keeps_the_accuracy(trained: Trained) -> None:
    most = 4.2  # two of 48 validation images
    written = export(trained.run, "int8", max_drop=most)
    accuracy = written.facts["verification"]["accuracy"]
    assert accuracy["drop"] <= most
    predict = onnx_predictor(written.path.read_bytes())
    images, labels = trained.labelled
    pixels = np.stack([trained.classifier.pixels(image) for image in images])
    int8, fp32 = predict(pixels), np.asarray(trained.classifier.probabilities(pixels))
    assert len(images) == len(labels) >= 1000
    assert (fp32.argmax(1) == labels).mean() - (int8.argmax(1) == labels).mean() <= 0.01
    assert (int8.argmax(1) == fp32.argmax(1)).mean() > 0.95
    assert written.facts["bytes"]["export"] < 0.5 * written.facts["bytes"]["model_file"]


def example() -> str:
    """The program on the page about export."""
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(import json.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_is_short() -> None:
    assert len([line for line in example().splitlines() if line]) <= 15


def test_the_example_needs_neither_torch_nor_resnetlab(trained: Trained, onnx: Exported, tmp_path: Path) -> None:
    files = variants(trained.files[:12], tmp_path)
    program = tmp_path / "example.py"
    blocker = f"import sys\nfor name in {sorted(BLOCKED)}: sys.modules[name] = None\n"
    program.write_text(blocker + example(), encoding="utf-8")
    words = [sys.executable, "-I", str(program), str(onnx.path), *map(str, files)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [row[0] for row in rows] == list(map(str, files))
    for (_, name, probability), prediction in zip(rows, trained.classifier(files), strict=True):
        assert name == prediction.predicted
        assert float(probability) == pytest.approx(prediction.probability, abs=1e-3)  # white behind transparency


def variants(files: list[Path], folder: Path) -> list[Path]:
    """JPEG and PNG files in odd sizes, large, upright by a tag only, with transparency, and grey."""
    made = []
    for number, (file, size) in enumerate(zip(files, [(8, 8), (33, 47), (640, 481), (101, 37)] * 3, strict=False)):
        image = Image.open(file).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        exif = Image.Exif()
        if number == 5:
            exif[0x0112] = 6
        if number == 2:
            image.putalpha(Image.linear_gradient("L").resize(size))
        image = image.convert("L") if number == 7 else image
        image.save(path, exif=exif) if number == 5 else image.save(path)
        made.append(path)
    return made
