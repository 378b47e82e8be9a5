"""Occlusion against a loop over single copies of the image, and its patches against what they must cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnetlab.interpret.occlusion import Patches, occlusion, rank_correlation


def probabilities(images: Tensor) -> Tensor:
    """Those of a small network of its own, (N, 4)."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)
    with torch.no_grad():
        return head(conv(images).relu().mean((2, 3))).double().softmax(1)


@pytest.mark.parametrize("image_size", [1, 2, 3, 5, 8, 17, 28, 32, 64, 224])
def test_every_pixel_is_covered_and_no_patch_leaves_the_image(image_size: int) -> None:
    patches = Patches.for_size(image_size)
    assert patches.covers.sum(1).tolist() == [patches.side] * len(patches.starts)
    assert patches.covers.sum(0).min() >= 1
    assert list(patches.starts) == sorted(set(patches.starts))
    assert patches.starts[0] == 0
    assert patches.starts[-1] + patches.side == image_size


@pytest.mark.parametrize("patches", [Patches(12, 3, 1), Patches(12, 5, 3), Patches(12, 12, 6)])
def test_drops_are_those_of_a_slow_loop(patches: Patches) -> None:
    """100 patches are more than a batch."""
    image = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1))
    before = image.clone()
    expected = np.zeros((len(patches.starts), len(patches.starts), 4))
    for i, top in enumerate(patches.starts):
        for j, left in enumerate(patches.starts):
            covered = image.clone()
            for row in range(top, top + patches.side):
                for column in range(left, left + patches.side):
                    covered[:, row, column] = 0
            expected[i, j] = (probabilities(image[None]) - probabilities(covered[None]))[0]
    np.testing.assert_allclose(occlusion(probabilities, image, patches), expected, atol=1e-6)
    assert torch.equal(image, before)


def test_values_of_patches_are_spread_over_pixels_and_pixels_averaged_in_patches() -> None:
    patches, draw = Patches(11, 4, 2), np.random.default_rng(0)
    values, pixels = draw.normal(size=(len(patches.starts),) * 2), draw.normal(size=(11, 11))
    total, times = np.zeros((11, 11)), np.zeros((11, 11))
    means = np.zeros_like(values)
    for i, top in enumerate(patches.starts):
        for j, left in enumerate(patches.starts):
            here = np.s_[top : top + 4, left : left + 4]
            total[here] += values[i, j]
            times[here] += 1
            means[i, j] = pixels[here].mean()
    np.testing.assert_allclose(patches.spread(values), total / times)
    np.testing.assert_allclose(patches.means(pixels), means)


def test_rank_correlation_is_spearmans_formula() -> None:
    """Without equal values: 1 - 6 sum d² / (n (n² - 1))."""
    draw = np.random.default_rng(0)
    first, second = draw.permutation(20).reshape(4, 5), draw.permutation(20).reshape(4, 5)
    expected = 1 - 6 * ((first - second) ** 2).sum() / (20 * (20**2 - 1))
    assert rank_correlation(first / 7, np.exp(second)) == pytest.approx(expected)
    assert rank_correlation(first, -first) == pytest.approx(-1)


def test_rank_correlation_of_equal_values_is_undefined() -> None:
    assert rank_correlation(np.zeros((2, 2)), np.arange(4.0).reshape(2, 2)) is None
    assert rank_correlation(np.arange(4.0).reshape(2, 2), np.ones((2, 2))) is None
