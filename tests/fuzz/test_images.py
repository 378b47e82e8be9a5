"""Mutated pictures through a loaded model and through `train --data FOLDER` (promises 15, 17 and 21)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnetlab
from resnetlab.data.decode import silence_decoders
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.model_file import save_model
from resnetlab.inference.predict import Classifier
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runs import experiment

LONGEST = 5.0  # seconds of computing

NOISE = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
PICTURE = Image.fromarray(NOISE)
FRAMES = {"save_all": True, "append_images": [PICTURE.rotate(90)]}
SAVED: tuple[tuple[str, str, Image.Image, dict[str, Any]], ...] = (
    ("jpg", "JPEG", PICTURE, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    ("jpg", "JPEG", PICTURE, {"progressive": True}),
    ("jpg", "JPEG", PICTURE.convert("CMYK"), {}),
    ("png", "PNG", PICTURE, {"interlace": 1}),
    ("png", "PNG", PICTURE.convert("P"), {"transparency": 1}),
    ("png", "PNG", Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), {}),
    ("png", "PNG", PICTURE, FRAMES),
    ("webp", "WEBP", PICTURE, {"lossless": True}),
    ("webp", "WEBP", PICTURE, FRAMES),
    ("bmp", "BMP", PICTURE, {}),
    ("bmp", "BMP", PICTURE.convert("1"), {}),
    ("gif", "GIF", PICTURE, FRAMES),
    ("tif", "TIFF", PICTURE, {}),
    ("tif", "TIFF", PICTURE, {"compression": "tiff_lzw"}),
    ("tif", "TIFF", PICTURE, {"compression": "jpeg"}),
    ("tif", "TIFF", PICTURE.convert("F"), {}),
    ("tif", "TIFF", PICTURE, {"compression": "tiff_adobe_deflate", **FRAMES}),
    ("ppm", "PPM", PICTURE, {}),
    ("pgm", "PPM", PICTURE.convert("L"), {}),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """The end of the file name and the content of pictures of every kind that is read."""
    path = tmp_path_factory.mktemp("whole") / "picture"
    found = []
    for ending, kind, picture, options in SAVED:
        picture.save(path, kind, **options)
        found.append((ending, path.read_bytes()))
    return found


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3, seed=1)
    see = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_model(path, network, ("a", "b", "c"), see, {})
    return resnetlab.load(path, "cpu")


@pytest.fixture
def silent(capfd: pytest.CaptureFixture[str]) -> Any:
    """Fail if a decoder writes to the terminal after a command line has silenced them."""
    silence_decoders()
    capfd.readouterr()
    yield
    assert capfd.readouterr().err == ""


def mutated(draw: Any, whole: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    ending, content = draw.choice(whole)
    kind = draw.randrange(10)
    if kind == 0:  # the head of one kind, the rest of another
        content = content[: draw.randrange(64)] + draw.choice(whole)[1][draw.randrange(64) :]
    if kind == 1:
        ending = draw.choice(whole)[0]
    return ending, draw.damaged(content)


@pytest.mark.usefixtures("silent")
def test_mutated_pictures_give_a_prediction_or_a_sentence(
    cases: range, whole: list[tuple[str, bytes]], classifier: Classifier, fuzzer: Any, tmp_path: Path
) -> None:
    refused = 0
    for case in cases:
        ending, content = mutated(fuzzer(f"picture {case}"), whole)
        path = tmp_path / f"case-{case}.{ending}"
        path.write_bytes(content)
        began = time.process_time()
        try:
            answer = classifier(path)
        except BadInput as error:
            refused += 1
            told = str(error)
        else:
            told = f"{path} {answer.probability}"
            assert sum(answer.probabilities.values()) == pytest.approx(1), path
        assert told.startswith(str(path)), told
        assert told.isprintable(), told
        assert len(told) < 600, told
        assert time.process_time() - began < LONGEST, path
        path.unlink()
    assert 10 < refused < len(cases)


@pytest.mark.usefixtures("silent")
def test_mutated_pictures_in_a_folder_to_train_on(  # noqa: PLR0917 - fixtures
    cases: range,
    whole: list[tuple[str, bytes]],
    tiny: str,
    fuzzer: Any,
    check: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten pictures, two classes, one to five of them mutated; the one that is refused is named."""
    monkeypatch.setattr(experiment, "fit", lambda *_: ())  # before the first step the folder has been read
    monkeypatch.setattr(experiment, "finish", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for case in range(len(cases) // 5):
        name = f"folder {case}"
        draw = fuzzer(name)
        bad = draw.sample(range(10), draw.choice((1, 1, 5)))
        for number in range(10):
            ending, content = mutated(draw, whole) if number in bad else draw.choice(whole)
            path = tmp_path / "data" / f"class-{number % 2}" / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        policy = draw.choice(("error", "skip"))
        words = ("--data.bad-images", policy, "--model", tiny, "--batch-size", 4, "--out", "run")
        code, _, err = check(name, "train", "--data", "data", *words)
        assert code in (0, 2), name
        if code == 2:
            assert "data/class-" in err, name
            assert not (tmp_path / "run").exists(), name
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    check.assert_no_problems()
    assert set(check.codes) == {0, 2}
