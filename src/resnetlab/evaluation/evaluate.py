"""Run a network over a split: every image once, no gradient, no augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from resnetlab.data.loaders import Batch
from resnetlab.evaluation.metrics import Labels, Probabilities, Score, score
from resnetlab.runtime import Runtime


@torch.inference_mode()
def probabilities(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Probabilities, Labels]:
    """Softmax probabilities (N, K) in float64 and the labels (N,), in the order of the split."""
    logits, labels = [], []
    with evaluating(model):
        for batch in batches:
            with runtime.autocast():
                logits.append(model(batch.images).float())
            labels.append(batch.labels)
    return (
        np.asarray(torch.cat(logits).cpu().double().softmax(1)),
        np.asarray(torch.cat(labels).cpu()),
    )


def evaluate(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> Score:
    """Loss, accuracy and macro-F1 of a network on a split, in the precision of `runtime`."""
    return score(*probabilities(model, batches, runtime))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode it was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
