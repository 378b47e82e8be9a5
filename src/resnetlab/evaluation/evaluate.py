"""Run a network over a split: every image once, no gradient, no augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from resnetlab.data.loaders import Batch
from resnetlab.evaluation.metrics import Labels, Probabilities, Score, score
from resnetlab.evaluation.tta import VIEWS, Views
from resnetlab.runtime import Runtime


@torch.inference_mode()
def probabilities(
    model: nn.Module, batches: Iterable[Batch], runtime: Runtime, tta: Views = "none"
) -> tuple[Probabilities, Labels]:
    """Softmax probabilities (N, K) in float64 and the labels (N,), in the order of the split.

    With test-time augmentation they are means over the views of each image.
    """
    logits, labels = [], []
    with evaluating(model):
        for batch in batches:
            with runtime.autocast():
                logits.append(torch.stack([model(view(batch.images)).float() for view in VIEWS[tta]]))
            labels.append(batch.labels)
    return (
        np.asarray(torch.cat(logits, 1).cpu().double().softmax(2).mean(0)),
        np.asarray(torch.cat(labels).cpu()),
    )


def evaluate(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> Score:
    """Loss, accuracy and macro-F1 of a network on a split, in the precision of `runtime`."""
    return score(*probabilities(model, batches, runtime))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
