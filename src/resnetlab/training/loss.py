"""The loss of a batch: cross-entropy, with a weight for each class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class WeightedCrossEntropy(nn.Module):
    """The mean cross-entropy of images, each multiplied by the weight of its class.

    It is the mean over the images, not over their weights as in `torch.nn.CrossEntropyLoss`, so that the loss of a
    batch is the mean of those of its equal parts. A mixed image has the weights of its classes by their shares.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, classes) and labels (N,), or shares of classes (N, classes), to a scalar."""
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        weights = self.weights[targets] if targets.ndim == 1 else targets @ self.weights
        return (each * weights).mean()
