"""Report samples: the right images and maps are selected, and the file gives them back, an older version's too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import Damaged
from resnetlab.evaluation.metrics import losses
from resnetlab.files import read_sealed, write_sealed
from resnetlab.interpret.embedding import MOST, spread
from resnetlab.interpret.grad_cam import grad_cam
from resnetlab.models import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.runs.evaluation_files import Evaluation
from resnetlab.runs.report_samples import (
    FILE,
    FORMAT,
    MAPPED,
    OLD_FILE,
    OLD_FORMAT,
    SHOWN,
    ReportSamples,
    shrunk,
    two_classes,
)
from resnetlab.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


def made(count: int = 40, *, wrong: int | None = None, side: int = 8, channels: int = 3) -> tuple[Evaluation, ResNet]:
    """An evaluation of made-up images, of which the last `wrong` are mistakes; the network is not asked."""
    numbers = np.random.default_rng(count)
    labels = np.arange(count) % 3
    probabilities = numbers.dirichlet((1, 1, 1), count)
    if wrong is not None:
        best = np.where(np.arange(count) < count - wrong, labels, (labels + 1) % 3)
        probabilities = 0.3 * probabilities + 0.7 * np.eye(3)[best]
    images = torch.from_numpy(numbers.integers(0, 256, (count, side, side, channels), dtype=np.uint8))
    see = Preprocessing(side, side, channels, (0.5,) * channels, (0.25,) * channels)
    names = tuple(f"image \udcff {index}.png" for index in range(count))
    facts = {"weights_digest": "ab", "split_digest": "cd"}
    evaluation = Evaluation(probabilities, Split(images, torch.from_numpy(labels), names), "abc", see, facts)
    return evaluation, build_model("resnet20", 3, in_channels=channels, image_size=side).eval()


def selected(evaluation: Evaluation, network: ResNet) -> ReportSamples:
    count = len(evaluation.labels)
    features = torch.arange(min(count, MOST), dtype=torch.float32)[:, None].expand(-1, 4)
    return ReportSamples.of(evaluation, network, features, CPU)


def test_the_mistakes_are_the_costliest_and_the_samples_evenly_spread() -> None:
    evaluation, network = made(100)
    kept = selected(evaluation, network)
    loss = losses(evaluation.probabilities, evaluation.labels)
    wrong = np.flatnonzero(evaluation.predicted != evaluation.labels)
    expected = wrong[np.argsort(-loss[wrong])][:SHOWN]
    assert [kept.shown[place].name for place in kept.mistakes] == [evaluation.split.names[i] for i in expected]
    assert [kept.shown[place].name for place in kept.samples] == [evaluation.split.names[i] for i in spread(100, SHOWN)]
    for seen, image in zip(kept.shown, kept.images, strict=True):
        index = evaluation.split.names.index(seen.name)
        assert (seen.true, seen.predicted) == (evaluation.labels[index], evaluation.predicted[index])
        assert (seen.probability, seen.loss) == (evaluation.probabilities[index].max(), loss[index])
        np.testing.assert_array_equal(image, evaluation.split.images[index])


def test_maps_are_grad_cam_of_both_classes_of_the_images_they_stand_beside() -> None:
    evaluation, network = made(60)
    kept = selected(evaluation, network)
    assert len(kept.mapped) == 2 * MAPPED
    assert set(kept.mapped[:MAPPED]) <= set(kept.mistakes)
    assert set(kept.mapped[MAPPED:]) <= set(kept.samples)
    images = evaluation.preprocessing.normalize(torch.from_numpy(kept.images[list(kept.mapped)]))
    for which in (0, 1):
        expected = grad_cam(network, images, torch.from_numpy(kept.classes[:, which]))
        np.testing.assert_allclose(kept.maps[:, which] / 255, expected, atol=1 / 255)
    for place, named, sure in zip(kept.mapped, kept.classes, kept.probabilities, strict=True):
        seen = kept.shown[place]
        assert named[0] == seen.predicted
        assert named[1] == seen.true or seen.predicted == seen.true
        row = evaluation.probabilities[evaluation.split.names.index(seen.name)]
        assert sure.tolist() == [row[named[0]], row[named[1]]]


def test_of_two_classes_the_second_is_the_true_one_or_the_runner_up() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    assert two_classes(probabilities, np.array([0, 2, 1])).tolist() == [[0, 1], [0, 2], [0, 1]]
    assert two_classes(np.ones((2, 1)), np.zeros(2, int)).tolist() == [[0, 0], [0, 0]]


def test_features_belong_to_the_images_of_the_map() -> None:
    evaluation, network = made(MOST + 500)
    kept = selected(evaluation, network)
    chosen = spread(MOST + 500, MOST)
    np.testing.assert_array_equal(kept.true, evaluation.labels[chosen])
    np.testing.assert_array_equal(kept.predicted, evaluation.predicted[chosen])
    np.testing.assert_array_equal(kept.features[:, 0], np.arange(MOST))


@pytest.mark.parametrize("given", [{}, {"count": 1}, {"wrong": 0}, {"wrong": 40}, {"channels": 1}, {"side": 200}])
def test_what_is_written_is_read_again(given: dict[str, Any], tmp_path: Path) -> None:
    kept = selected(*made(**{"count": 40 if given.get("side") is None else 3} | given))
    kept.write(tmp_path)
    again = ReportSamples.read(tmp_path)
    assert again is not None
    for field in dataclasses.fields(ReportSamples):
        one, other = getattr(kept, field.name), getattr(again, field.name)
        assert type(one) is type(other)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_large_images_are_kept_small_with_their_shape() -> None:
    assert shrunk(np.zeros((100, 400, 3), np.uint8)).shape == (40, 160, 3)
    assert shrunk(np.zeros((400, 100, 1), np.uint8)).shape == (160, 40, 1)
    assert shrunk(np.zeros((400, 400), np.uint8)).shape == (160, 160)
    image = np.zeros((160, 160, 3), np.uint8)
    assert shrunk(image) is image


def test_what_is_not_there_is_none_and_what_is_not_whole_is_damaged(tmp_path: Path) -> None:
    assert ReportSamples.read(tmp_path) is None
    selected(*made()).write(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Damaged, match="does not match its digest"):
        ReportSamples.read(tmp_path)
    for facts in ({}, {"format": FORMAT, "format_version": 2}):
        write_sealed(tmp_path / FILE, {"images": torch.zeros(1)}, facts)
        with pytest.raises(Damaged, match="not a file of report samples"):
            ReportSamples.read(tmp_path)
    write_sealed(tmp_path / FILE, {"images": torch.zeros(1)}, {"format": FORMAT, "format_version": 1})
    with pytest.raises(Damaged, match="incomplete"):
        ReportSamples.read(tmp_path)


def test_the_file_of_an_older_version_is_read_and_replaced(tmp_path: Path) -> None:
    """It was called looks.safetensors, and three of its parts had other names."""
    kept = selected(*made())
    kept.write(tmp_path)
    arrays, facts = read_sealed(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    arrays |= {"named": arrays.pop("classes"), "sure": arrays.pop("probabilities")}
    write_sealed(tmp_path / OLD_FILE, arrays, facts | {"format": OLD_FORMAT, "seen": facts.pop("shown")})
    again = ReportSamples.read(tmp_path)
    assert again is not None
    assert again.shown == kept.shown
    np.testing.assert_array_equal(again.classes, kept.classes)
    np.testing.assert_array_equal(again.probabilities, kept.probabilities)
    kept.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
