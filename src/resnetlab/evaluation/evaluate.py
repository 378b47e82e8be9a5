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

    With test-time augmentation they are means over the views of each image. Without a batch, both are empty.
    """
    logits, labels = [], []
    with evaluating(model):
        for batch in batches:
            with runtime.autocast():
                logits.append(torch.stack([model(view(batch.images)).float() for view in VIEWS[tta]]))
            labels.append(batch.labels)
    if not labels:
        return np.empty((0, 0)), np.empty(0, np.int64)
    return (
        np.asarray(torch.cat(logits, 1).cpu().double().softmax(2).mean(0)),
        np.asarray(torch.cat(labels).cpu()),
    )


def evaluate(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> Score:
    """Loss, accuracy and macro-F1 of a network on a split, in the precision of `runtime`.

    Several processes compute the probabilities of their own batches; all of them get the score of the whole split.
    """
    processes = runtime.processes
    with processes.together():
        own = probabilities(model, batches, runtime)
    parts = [part for part in processes.gather(own) if len(part[1])]
    return processes.from_main(lambda: score(*map(np.concatenate, zip(*parts, strict=True))))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
