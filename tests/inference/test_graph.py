"""The graph that is exported: its resize is Pillow's, and its probabilities are those of the classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.preprocess import FITS, Preprocessing
from resnetlab.inference.graph import ImageClassifier, graph_of, metadata_of
from resnetlab.inference.model_file import Model
from resnetlab.inference.predict import Classifier
from resnetlab.inference.validation import Validation
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
SIZES = [(1, 1), (1, 7), (9, 1), (10, 10), (31, 33), (48, 64), (99, 100), (100, 99), (60, 250), (375, 500), (7, 400)]
SIZES += [(33, 31), (400, 37), (250, 60), (200, 100)]  # tall: Pillow 13 resizes these along the columns first


def settings(channels: int = 3, image_size: int = 10, resize_to: int = 10, fit: str = "crop") -> Preprocessing:
    return Preprocessing(image_size, resize_to, channels, (0.5,) * channels, (0.25,) * channels, fit)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def both(preprocessing: Preprocessing, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that reach the network: by Pillow, and by the graph."""
    stored = preprocessing.resize(image[:, :, 0] if image.shape[2] == 1 else image)
    pillow = preprocessing.center_crop(torch.from_numpy(stored)[None])[0].numpy()
    graph = ImageClassifier(torch.nn.Identity(), preprocessing)
    return pillow, graph.resized(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float())[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("image_size", "resize_to"), [(10, 10), (32, 32), (9, 13), (56, 64), (1, 1)])
def test_the_resize_is_that_of_pillow_to_the_bit(fit: str, image_size: int, resize_to: int) -> None:
    for channels in (1, 3, 5):
        preprocessing = settings(channels, image_size, resize_to, fit)
        for height, width in SIZES:
            pillow, graph = both(preprocessing, noise(height, width, channels))
            np.testing.assert_array_equal(pillow, graph, f"{fit} {channels} {height}x{width}")


def test_probabilities_are_those_of_the_classifier() -> None:
    network = build_model(TINY, 4, seed=1).eval()
    model = Model(network, tuple("abcd"), settings(), {}, "", Validation(1.7, 10, ""))
    images = noise(13 * 3, 17).reshape(3, 13, 17, 3)
    probabilities, logits = graph_of(model)(torch.from_numpy(images))
    classifier = Classifier(model)
    pixels = np.stack([classifier.pixels(image) for image in images])
    np.testing.assert_allclose(probabilities.detach(), classifier.probabilities(pixels), atol=1e-6)
    np.testing.assert_allclose(logits.detach(), classifier.logits(pixels), atol=1e-5)


def test_weights_of_hundreds_of_pixels_are_exact_enough() -> None:
    """Beyond 32 pixels a sum no longer fits into the 24 bits of a float32; only ties could be rounded otherwise."""
    pillow, graph = both(settings(1, 8, 8), noise(900, 1000, 1))
    assert (pillow != graph).mean() < 0.02


def test_metadata_has_what_a_program_without_resnetlab_needs() -> None:
    preprocessing = replace(settings(1), range=(0, 4095))
    model = Model(build_model(TINY, 2, in_channels=1), ("a", "ü"), preprocessing, {}, "5a", Validation(1.5, 9, ""))
    found = metadata_of(model)
    assert found["classes"] == '["a", "ü"]'
    assert '"range": [0, 4095]' in found["preprocessing"]
    assert (found["temperature"], found["weights_digest"]) == ("1.5", "5a")


def test_the_oracle_resizes_as_an_image_of_pillow_does() -> None:
    image = Image.fromarray(noise(48, 64))
    pillow, _ = both(settings(3, 12, 12, "squash"), noise(48, 64))
    np.testing.assert_array_equal(pillow, np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR)))
