"""Explanations of a model file's predictions, against slow computations of the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import NonFinite
from resnetlab.inference.explain import find_evidence, grad_cam_map
from resnetlab.inference.model_file import Model
from resnetlab.inference.validation import Validation
from resnetlab.interpret.grad_cam import grad_cam
from resnetlab.interpret.occlusion import rank_correlation
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")


def model_of(channels: int = 3, image_size: int = 8, resize_to: int = 8, classes: int = 3) -> Model:
    """A model of a few hundred weights."""
    preprocessing = Preprocessing(image_size, resize_to, channels, (0.5,) * channels, (0.25,) * channels)
    network = build_model(TINY, classes, in_channels=channels, seed=3).eval()
    return Model(network, tuple(f"class {i}" for i in range(classes)), preprocessing, {}, "digest")


def pixels_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def test_the_map_of_an_image_is_that_of_what_the_network_gets() -> None:
    model, pixels = model_of(image_size=8, resize_to=12), pixels_of(12, 12, 3)
    central = (torch.from_numpy(pixels[2:10, 2:10]).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    expected = grad_cam(model.network, central[None], torch.tensor([1]))[0]
    np.testing.assert_allclose(grad_cam_map(model, pixels, 1), expected, atol=1e-5)


def slow_probabilities(model: Model, pixels: np.ndarray) -> np.ndarray:
    """Those of one image, as the network gets it."""
    images = model.preprocessing.normalize(torch.from_numpy(pixels)[None])
    temperature = model.validation.temperature if model.validation else 1.0
    with torch.no_grad():
        return (model.network(images).double() / temperature).softmax(1)[0].numpy()


@pytest.mark.parametrize(("channels", "resize_to"), [(1, 8), (3, 12), (5, 9)])
def test_evidence_is_that_of_slow_computations(channels: int, resize_to: int) -> None:
    model = replace(model_of(channels, 8, resize_to, classes=4), validation=Validation(0.5, 10, ""))
    pixels = pixels_of(resize_to, resize_to, channels)
    found = find_evidence(model, pixels, top_k=3)
    expected = slow_probabilities(model, pixels)
    assert [one.index for one in found.classes] == np.argsort(-expected)[:3].tolist()
    margin = (resize_to - 8) // 2
    seen = pixels[margin : margin + 8, margin : margin + 8]
    np.testing.assert_array_equal(found.pixels, seen)
    for one in found.classes:
        assert one.name == f"class {one.index}"
        assert one.probability == pytest.approx(expected[one.index], abs=1e-6)
        np.testing.assert_allclose(one.grad_cam, grad_cam_map(model, pixels, one.index), atol=1e-5)
    patches, best = found.patches, found.classes[0]
    means = [[best.grad_cam[r : r + 2, c : c + 2].mean() for c in patches.starts] for r in patches.starts]
    assert best.agreement == rank_correlation(np.array(means), best.drops.round(6))


def test_a_covered_place_has_the_mean_colour() -> None:
    """The mean is a whole number of 255ths here, so a covered image can be made of pixels."""
    model = model_of()
    model = replace(model, preprocessing=replace(model.preprocessing, mean=(51 / 255, 102 / 255, 204 / 255)))
    pixels = pixels_of(8, 8, 3)
    found = find_evidence(model, pixels, top_k=1).classes[0]
    covered = pixels.copy()
    covered[3:5, 6:8] = 51, 102, 204
    expected = slow_probabilities(model, pixels) - slow_probabilities(model, covered)
    assert found.drops[3, 6] == pytest.approx(expected[found.index], abs=1e-6)


def test_features_are_the_input_of_the_last_layer() -> None:
    model, pixels = model_of(), pixels_of(8, 8, 3)
    head = model.network.fc
    with torch.no_grad():
        logits = head(torch.from_numpy(find_evidence(model, pixels).features)).double()
    np.testing.assert_allclose(logits.softmax(0).numpy(), slow_probabilities(model, pixels), atol=1e-6)


def test_threads_with_one_model_find_the_same_evidence() -> None:
    model = model_of()
    images = [pixels_of(8, 8, 3) ^ np.uint8(i) for i in range(12)]
    expected = [find_evidence(model, pixels) for pixels in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(find_evidence, model), images))
    for one, other in zip(found, expected, strict=True):
        assert [c.index for c in one.classes] == [c.index for c in other.classes]
        for mine, theirs in zip(one.classes, other.classes, strict=True):
            np.testing.assert_array_equal(mine.grad_cam, theirs.grad_cam)
            np.testing.assert_array_equal(mine.drops, theirs.drops)


def test_an_output_that_is_not_finite_is_an_error() -> None:
    model = model_of()
    with torch.no_grad():
        model.network.fc.bias[0] = np.nan
    with pytest.raises(NonFinite, match="NaN or infinite"):
        find_evidence(model, pixels_of(8, 8, 3))


def test_more_classes_than_the_model_has_are_all_of_them() -> None:
    assert len(find_evidence(model_of(classes=2), pixels_of(8, 8, 3), top_k=9).classes) == 2


def test_rounding_errors_have_no_rank() -> None:
    """A class that is certain whatever is covered: the drops are 0 but for the last digits of fp32."""
    model = model_of()
    with torch.no_grad():
        model.network.fc.weight.mul_(1e-7)
        model.network.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    found = find_evidence(model, pixels_of(8, 8, 3)).classes[0]
    assert found.index == 1
    assert found.agreement is None
