"""Balanced epochs: every class equally often, every image of a class as often as the others, exact from any batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from resnetlab.data.augment import Augmentation, flip
from resnetlab.data.balance import balanced_draws, class_weights
from resnetlab.data.loaders import TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables
from resnetlab.data.splits import Split
from resnetlab.runtime import Runtime

LABELS = torch.tensor([2] * 50 + [0] * 3 + [1] * 11)  # shares of 21 or 22
SEE = Preprocessing(image_size=4, resize_to=4, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def batches(size: int, *, is_balanced: bool = True) -> TrainBatches:
    images = torch.randint(0, 256, (64, 4, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(images, LABELS, tuple(map(str, range(64))))
    steps = [Augmentation("flip", 1, flip)]
    return TrainBatches(split, SEE, steps, size, 3, Runtime(torch.device("cpu")), is_balanced=is_balanced)


@pytest.mark.parametrize("epoch", range(3))
def test_classes_are_equally_frequent_and_so_are_the_images_of_a_class(epoch: int) -> None:
    draws = balanced_draws(LABELS, RandomTables(0, epoch, 64))
    assert len(draws) == 64
    assert sorted(torch.bincount(LABELS[draws]).tolist()) == [21, 21, 22]
    often = Counter(draws.tolist())
    for label, least in ((0, 7), (1, 1), (2, 0)):
        counts = [often[place] for place in (label == LABELS).nonzero()[:, 0].tolist()]
        assert min(counts) >= least
        assert max(counts) - min(counts) <= 1


def test_epochs_draw_other_images_and_the_same_seed_the_same() -> None:
    one, again, other = (balanced_draws(LABELS, RandomTables(0, epoch, 64)).tolist() for epoch in (0, 0, 1))
    assert one == again
    assert Counter(one) != Counter(other)
    seen = {place for epoch in range(12) for place in balanced_draws(LABELS, RandomTables(0, epoch, 64)).tolist()}
    assert seen == set(range(64))


def test_more_classes_than_draws_and_classes_without_images_are_no_error() -> None:
    assert sorted(balanced_draws(torch.tensor([5, 1, 9]), RandomTables(0, 0, 3)).tolist()) == [0, 1, 2]


def test_balanced_batches_can_start_anywhere_and_have_any_size() -> None:
    large, small = (torch.cat([batch.images for batch in batches(size).epoch(2)]) for size in (64, 8))
    assert torch.equal(large, small)
    rest = list(batches(8).epoch(2, 5))
    assert torch.equal(torch.cat([batch.images for batch in rest]), large[40:])
    for batch, number in zip(rest, range(5, 8), strict=True):
        assert torch.equal(batch.labels, LABELS[batch.indices])
        assert batches(8).names(2, number) == [str(place) for place in batch.indices.tolist()]


def test_an_image_that_is_drawn_again_is_augmented_anew() -> None:
    (batch,) = batches(64).epoch(0)
    twice = [batch.images[batch.indices == place] for place in (LABELS == 0).nonzero()[:, 0].tolist()]
    assert all(len({image.numpy().tobytes() for image in images}) == 2 for images in twice)  # mirrored and not


def test_the_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    weights = class_weights(LABELS, 3)
    assert weights.tolist() == pytest.approx(expected.tolist())
    assert float(weights[LABELS].mean()) == pytest.approx(1)
