"""The weighted loss equals torch's own with its sum divided by the number of images, and parts of a batch add up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from resnetlab.training.loss import WeightedCrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 3, generator=GENERATOR)
LABELS = torch.randint(0, 3, (12,), generator=GENERATOR)
WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


def test_it_is_the_weighted_sum_of_torch_over_the_number_of_images() -> None:
    expected = F.cross_entropy(LOGITS, LABELS, WEIGHTS, reduction="sum") / 12
    torch.testing.assert_close(WeightedCrossEntropy(WEIGHTS)(LOGITS, LABELS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_one_class_are_labels_and_equal_weights_are_none(smoothing: float) -> None:
    shares = F.one_hot(LABELS, 3).float()
    loss = WeightedCrossEntropy(WEIGHTS, smoothing)
    torch.testing.assert_close(loss(LOGITS, shares), loss(LOGITS, LABELS))
    plain = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(WeightedCrossEntropy(torch.ones(3), smoothing)(LOGITS, LABELS), plain)


def test_an_image_of_two_classes_has_the_weights_of_both_by_their_shares() -> None:
    shares = torch.tensor([[0.25, 0.0, 0.75]])
    expected = -(shares * LOGITS[:1].log_softmax(1)).sum() * (0.25 * 0.2 + 0.75 * 3.0)
    torch.testing.assert_close(WeightedCrossEntropy(WEIGHTS)(LOGITS[:1], shares), expected)


def test_the_loss_of_a_batch_is_the_mean_of_its_equal_parts() -> None:
    loss = WeightedCrossEntropy(WEIGHTS, 0.1)
    parts = [loss(LOGITS[rows], LABELS[rows]) for rows in (slice(0, 6), slice(6, 12))]
    torch.testing.assert_close(loss(LOGITS, LABELS), torch.stack(parts).mean())
