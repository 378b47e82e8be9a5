"""An export is compared with its classifier on real images, and refused if it gives other answers."""

from __future__ import annotations

import numpy as np
import pytest

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference import verification
from resnetlab.inference.model_file import Model
from resnetlab.inference.predict import Classifier
from resnetlab.inference.verification import Agreement, Verification, milliseconds, of_other_sizes, verify
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    preprocessing = Preprocessing(8, 8, 3, (0.5,) * 3, (0.25,) * 3)
    return Classifier(Model(build_model(TINY, 3, seed=1).eval(), ("a", "b", "c"), preprocessing, {}, ""))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "milliseconds", lambda predict, batch: float(len(batch)))


@pytest.mark.usefixtures("untimed")
def test_the_classifier_agrees_with_itself(classifier: Classifier) -> None:
    def predict(pixels: np.ndarray) -> np.ndarray:
        resize = classifier.model.preprocessing.resize
        return np.asarray(classifier.probabilities(np.stack([resize(image) for image in pixels])))

    decoded = of_other_sizes(PIXELS, 8)
    assert all(image.shape[:2] != (8, 8) for image in decoded)
    found = verify(classifier, predict, PIXELS, decoded)
    assert found.resized == Agreement(5, 1.0, 0.0)
    assert found.decoded is not None
    assert found.decoded.largest_difference < 1e-6  # of one image at a time
    assert found.milliseconds == {size: {"export": float(size), "resnetlab": float(size)} for size in ("1", "64")}
    found.require_same()


@pytest.mark.usefixtures("untimed")
def test_an_export_without_a_resize_is_not_asked_to_resize(classifier: Classifier) -> None:
    found = verify(classifier, lambda pixels: np.asarray(classifier.probabilities(pixels)), PIXELS, None)
    assert found.decoded is None
    found.require_same()


@pytest.mark.parametrize(
    ("resized", "decoded", "words"),
    [
        (Agreement(9, 1.0, 2e-4), None, "differ by up to 0.0002"),
        (Agreement(9, 1.0, float("nan")), None, "differ by up to nan"),
        (Agreement(9, 0.9, 1e-6), None, "for 90.0% of 9 images"),
        (Agreement(9, 1.0, 1e-6), Agreement(7, 0.99, 0.3), "for 99.0% of 7 images"),
    ],
)
def test_other_answers_are_refused(resized: Agreement, decoded: Agreement | None, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Verification(resized, decoded, {}).require_same()


def test_the_time_is_the_median() -> None:
    ticks = iter([0.0, 1.0, 1.0, 1.5, 1.5, 5.0])
    assert milliseconds(lambda batch: batch, PIXELS, clock=lambda: next(ticks)) == 1000.0


def test_images_that_need_no_other_size_are_kept() -> None:
    image = np.zeros((9, 8, 1), np.uint8)
    assert of_other_sizes([image], 8)[0] is image
