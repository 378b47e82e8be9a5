"""Many files are predicted in their order, a batch at a time, and bad ones are reported among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.depth import Range
from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import Model
from resnetlab.inference.predict import BATCH, Classifier
from resnetlab.inference.predict_files import FilePrediction, NotingReader, UnreadFile, predict_files
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3, seed=1).eval()
    preprocessing = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Classifier(Model(network, ("a", "b", "c"), preprocessing, {}, ""))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """More files than a batch has; each tenth is not an image."""
    names = []
    for seed in range(BATCH + 20):
        path = tmp_path / f"{seed}.png"
        if seed % 10 == 3:
            path.write_bytes(b"text")
        else:
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
        names.append(str(path))
    return names


def test_results_are_those_of_the_classifier_in_the_order_of_the_files(
    classifier: Classifier, files: list[str]
) -> None:
    results = [result for batch in predict_files(classifier, files) for result in batch]
    assert [result.file for result in results] == files
    for number, result in enumerate(results):
        if number % 10 == 3:
            assert isinstance(result, UnreadFile)
            assert result.file in result.reason
            continue
        assert isinstance(result, FilePrediction)
        expected = classifier(result.file)
        assert classifier.classes[result.predicted] == expected.predicted
        assert result.probability == pytest.approx(expected.probability)
        assert [classifier.classes[i] for i in result.order] == list(expected.probabilities)
        assert result.is_rejected is None
        assert (result.pixels == classifier.pixels(result.file)).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("value_range", [None, (100, 3000)])
def test_files_are_read_as_by_the_classifier(channels: int, value_range: Range | None, tmp_path: Path) -> None:
    preprocessing = Preprocessing(8, 8, channels, (0.5,) * channels, (0.25,) * channels, range=value_range)
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3, in_channels=channels).eval()
    classifier = Classifier(Model(network, ("a", "b", "c"), preprocessing, {}, ""))
    random = np.random.default_rng(0)
    if channels == 4:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / "0.tif", random.integers(0, 4096, (30, 20, 4)).astype(np.uint16))
    else:
        Image.fromarray(random.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "0.jpg")
        Image.fromarray(random.integers(0, 4096, (30, 20)).astype(np.uint16)).save(tmp_path / "1.png")
        Image.fromarray(random.integers(0, 256, (9, 9, 4), dtype=np.uint8)).save(tmp_path / "2.png")
        (tmp_path / "3.ppm").write_bytes(b"P6 9 9 4095\n" + random.integers(0, 4096, (9, 9, 3)).astype(">u2").tobytes())
    read = NotingReader(preprocessing)
    for file in map(str, tmp_path.iterdir()):
        assert (read(file) == classifier.pixels(file)).all(), file
    deep = ["0.tif"] if channels == 4 else ["1.png", "3.ppm"]
    assert sorted(Path(file).name for file in read.lost.deep) == (deep if value_range is None else [])


def test_predictions_below_the_threshold_are_rejected(classifier: Classifier, files: list[str]) -> None:
    results = [result for batch in predict_files(classifier, files[:20], 0.36) for result in batch]
    found = [result for result in results if isinstance(result, FilePrediction)]
    assert [result.is_rejected for result in found] == [result.probability < 0.36 for result in found]


def test_names_are_read_while_results_are_used(classifier: Classifier, files: list[str]) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield files[0]

    batches = predict_files(classifier, endless())
    assert len(next(batches)) == BATCH


def test_only_bad_files_give_their_reasons(classifier: Classifier) -> None:
    (results,) = predict_files(classifier, ["nowhere.png"])
    assert results == [UnreadFile("nowhere.png", "file not found: nowhere.png")]
    assert list(predict_files(classifier, [])) == []
