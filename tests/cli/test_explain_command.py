"""`resnetlab explain`: pictures, a page and numbers of images, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import save_model
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runs.explain import Explainer, explain
from resnetlab.runs.stop import StopRequest


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty, because drawing one takes a third of a second."""
    monkeypatch.setattr("resnetlab.plots.explanation.explanation_figure", lambda *_: Figure(figsize=(1, 1)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file of three classes, for grey images of 8 pixels."""
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3, in_channels=1, seed=1)
    preprocessing = Preprocessing(image_size=8, resize_to=10, channels=1, mean=(0.4,), std=(0.3,))
    save_model(tmp_path / "model.safetensors", network.eval(), ("cat", "dog", "[newt]"), preprocessing, {})
    return tmp_path / "model.safetensors"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images, one of them broken, and a folder inside of it."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("10.png", "9.png", "more/[b]9.png"):
        Image.fromarray(draw.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_picture_for_each_image_and_a_page(command: Any, model: Path, photos: Path) -> None:
    code, out, err = command("explain", model, photos / "9.png", photos / "more", photos / "10.png", "--out", "out")
    assert code == 0, err
    names = ["10.explain.png", "9.explain.png", "[b]9.explain.png", "explanations.html"]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    assert "the page is out/explanations.html" in out
    assert "[newt]" in out
    assert "[b]9.png" in out
    assert "Grad-CAM uses the maps of layer2, 4×4 positions" in out
    assert "occlusion covers 2×2 of 8×8 pixels, 1 apart" in out
    assert "53% × 80%" in out  # 8 of 10 pixels of the central 20 of 30 pixels
    assert "a model file alone has no training images; add --data FOLDER" in out
    assert "most similar" not in out
    page = Path("out/explanations.html").read_text(encoding="utf-8")
    assert page.count("<section") == 4


def test_only_files_of_an_earlier_call_are_replaced(command: Any, model: Path, photos: Path) -> None:
    out = Path("out")
    out.mkdir()
    (out / "9.explain.png").write_bytes(mine := (photos / "9.png").read_bytes())
    for _ in range(2):
        assert command("explain", model, photos / "9.png", "--out", out)[0] == 0
        assert sorted(path.name for path in out.iterdir()) == ["9-2.explain.png", "9.explain.png", "explanations.html"]
        assert (out / "9.explain.png").read_bytes() == mine
    page = out / "explanations.html"
    page.write_text("<html>my notes</html>")
    assert "explanations.html exists" in command.refuse("explain", model, photos / "9.png", "--out", out)
    assert page.read_text() == "<html>my notes</html>"


def test_numbers_are_those_of_python(command: Any, model: Path, photos: Path) -> None:
    code, out, err = command("explain", model, photos / "9.png", "--json", "--top-k", 2, "--data", photos)
    assert code == 0, err
    assert not Path("explanations").exists()
    printed = json.loads(out)
    found = explain(model, photos / "9.png", top_k=2, data=str(photos))
    assert printed["compared"] == "the 3 images of photos"
    assert printed["images"] == [{"file": str(photos / "9.png"), **found.to_json()}]
    assert len(found.classes) == 2
    assert found.similar[0].similarity == pytest.approx(1, abs=1e-5)


def test_a_bad_image_ends_the_command_and_the_images_before_it_are_on_the_page(
    command: Any, model: Path, photos: Path
) -> None:
    code, out, err = command("explain", model, photos, "--out", "out")
    assert code == 2
    assert "broken.png is not an image" in err
    assert "--bad-images skip" in err
    assert "9.png" in out
    assert Path("out/explanations.html").read_text(encoding="utf-8").count("<section") == 3


def test_bad_images_can_be_skipped_and_are_named(command: Any, model: Path, photos: Path) -> None:
    code, out, err = command("explain", model, photos, "--out", "out", "--bad-images", "skip", "--similar", 0)
    assert code == 0, err
    assert "1 file could not be read, and was skipped" in out
    assert "broken.png is not an image" in Path("out/explanations.html").read_text(encoding="utf-8")
    code, out, _ = command("explain", model, photos, "missing.png", "--json", "--bad-images", "skip")
    images = json.loads(out)["images"]
    assert [Path(image["file"]).name for image in images if "error" in image] == ["broken.png", "missing.png"]
    assert "none of the 1 image could be read" in command.refuse(
        "explain", model, photos / "broken.png", "--bad-images", "skip"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "IMAGE ... is missing"),
        (("missing.png",), "file or folder not found: missing.png"),
        (("PHOTOS", "--top-k", 4), "--top-k is 4, but must be 1 to 3, the number of the model's classes"),
        (("PHOTOS", "--similar", 101), "--similar is 101, but must be a whole number, 0 to 100"),
        (("PHOTOS", "--out", "PHOTOS/out"), "a folder of images to explain; give a place outside of it"),
        (("PHOTOS/9.png", "--out", "model.safetensors"), "which is a file; give a folder"),
        (("PHOTOS/9.png", "--data", "nowhere"), "folder not found: nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused(
    command: Any, model: Path, photos: Path, words: tuple[Any, ...], told: str
) -> None:
    given = [str(word).replace("PHOTOS", str(photos)) for word in words]
    assert told in command.refuse("explain", model, *given)


def test_after_a_signal_the_page_has_the_images_that_are_done(
    command: Any, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    explained = Explainer.__call__

    def stopping(self: Explainer, image: Any) -> Any:
        stop.request("SIGINT")
        return explained(self, image)

    monkeypatch.setattr(Explainer, "__call__", stopping)
    monkeypatch.setattr("resnetlab.cli.signals.StopRequest", lambda: stop)
    code, _, err = command("explain", model, photos / "9.png", photos / "10.png", "--out", "out")
    assert code == 6
    assert "stopped by SIGINT after 1 of 2 images; out/explanations.html has those" in err
    assert Path("out/9.explain.png").exists()
