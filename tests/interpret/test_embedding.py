"""Features are caught where they pass, and neighbours stay neighbours in the plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnetlab.interpret.embedding import catching_features, plane, spread
from resnetlab.models import build_model


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 1, 5), (2, 2, 2, 1)])
@pytest.mark.parametrize("wanted", [[0, 3, 6], [], [2], list(range(7))])
def test_recorded_features_equal_those_of_the_network_for_any_batches(
    sizes: tuple[int, ...], wanted: list[int]
) -> None:
    model = build_model("resnet20", 4, image_size=8).eval()
    images = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with catching_features(model, wanted) as caught:
            for batch in images.split(sizes):
                model(batch)
        expected = model.features(images)[wanted]
        model(images)
    assert len(caught) == len(sizes), "nothing is caught outside"
    torch.testing.assert_close(torch.cat(caught), expected)


def test_the_hook_is_removed_after_an_error() -> None:
    model = build_model("resnet20", 4, image_size=8)
    with pytest.raises(KeyError), catching_features(model, [0]):
        raise KeyError
    assert not model.fc._forward_pre_hooks


def test_places_are_evenly_spread_and_each_comes_once() -> None:
    assert spread(5000, 2000).shape == (2000,)
    assert spread(5000, 2000)[[0, -1]].tolist() == [0, 4999]
    assert spread(3, 2000).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []
    assert np.diff(spread(5000, 2000)).min() >= 1


def groups() -> tuple[np.ndarray, np.ndarray]:
    """Four clouds in 20 dimensions, 30 points each."""
    numbers = np.random.default_rng(0)
    labels = np.arange(120) % 4
    return 6 * numbers.normal(size=(4, 20))[labels] + numbers.normal(size=(120, 20)), labels


def test_neighbours_stay_neighbours() -> None:
    features, labels = groups()
    points = plane(features)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :5]
    assert points.shape == (120, 2)
    assert (labels[nearest] == labels[:, None]).mean() > 0.99


def test_the_same_features_give_the_same_map() -> None:
    features, _ = groups()
    np.testing.assert_array_equal(plane(features), plane(features.copy()))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 10, 31])
@pytest.mark.parametrize("width", [1, 2, 64])
@pytest.mark.parametrize("spread_of", ["none", "one direction", "all"])
def test_few_or_flat_features_have_a_map_too(count: int, width: int, spread_of: str) -> None:
    numbers = np.random.default_rng(1)
    features = {
        "none": np.ones((count, width)),
        "one direction": numbers.normal(size=(count, 1)) * np.ones(width),
        "all": numbers.normal(size=(count, width)),
    }[spread_of]
    points = plane(features)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
