"""Test-time augmentation: which views there are, and that probabilities are means over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resnetlab.data.loaders import EvalBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import BadInput
from resnetlab.evaluation.evaluate import probabilities
from resnetlab.evaluation.tta import VIEWS, mirrored, shifted
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
IMAGE = torch.arange(9.0).view(1, 1, 3, 3)


def pixels(images: torch.Tensor) -> list[list[int]]:
    return [[int(value) for value in row] for row in images[0, 0].tolist()]


def test_the_views_pixel_by_pixel() -> None:
    assert pixels(mirrored(IMAGE)) == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    assert pixels(shifted(1)(IMAGE)) == [[4, 3, 4], [1, 0, 1], [4, 3, 4]]  # down and right, mirrored at the border
    assert pixels(shifted(-1)(IMAGE)) == [[4, 5, 4], [7, 8, 7], [4, 5, 4]]


def test_there_are_one_two_and_six_views_all_different_and_each_with_its_mirror_image() -> None:
    assert [len(views) for views in VIEWS.values()] == [1, 2, 6]
    image = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    for name in ("flip", "flip-shift"):
        seen = [view(image) for view in VIEWS[name]]
        assert all(view.shape == image.shape for view in seen)
        assert sum(torch.equal(one, other) for one in seen for other in seen) == len(seen)
        assert all(any(torch.equal(mirrored(one), other) for other in seen) for one in seen)
    assert torch.equal(VIEWS["none"][0](image), image)


@pytest.mark.parametrize("tta", VIEWS)
def test_probabilities_are_means_over_the_views(tta: Any) -> None:
    images = torch.randint(0, 256, (11, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batches = EvalBatches(Split(images, torch.arange(11) % 3, tuple(map(str, range(11)))), SEE, 4, CPU)
    model = CPU.place(build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 3))
    found, labels = probabilities(model, batches, CPU, tta)
    with torch.no_grad():
        model.eval()
        seen = [model(view(SEE.normalize(images))).double().softmax(1) for view in VIEWS[tta]]
    np.testing.assert_allclose(found, np.mean([one.numpy() for one in seen], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert labels.tolist() == [i % 3 for i in range(11)]


def test_an_image_of_one_pixel_cannot_be_shifted() -> None:
    with pytest.raises(BadInput, match="1x1 px cannot be shifted by a pixel; use `tta='none'` or `tta="):
        shifted(1)(torch.zeros(1, 1, 1, 1))
