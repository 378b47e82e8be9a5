"""Balance of classes of different size: by drawing images of small classes more often, or by weights in the loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resnetlab.data.random import RandomTables


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight for each class, float32 (classes,), inversely proportional to its number of images.

    Over all images the mean weight is 1. A class without images has the weight 0.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), 3).tolist()
    [0.6666666865348816, 2.0, 0.0]
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    weights = len(labels) / (counts.clamp(min=1).double() * (counts > 0).sum())
    return torch.where(counts > 0, weights, 0).float()


def balanced_draws(labels: Tensor, tables: RandomTables) -> Tensor:
    """Return the images of an epoch, their indices (N,), in which all classes are equally frequent.

    There are as many draws as images. Within a class, no image is drawn twice before all are drawn once; of a large
    class other images are left out in each epoch. If the draws cannot be divided evenly, random classes have one more.
    """
    images = labels.cpu().numpy()
    classes, counts = np.unique(images, return_counts=True)
    members = np.split(np.argsort(images, kind="stable"), np.cumsum(counts)[:-1])
    generator = tables.generator("balance")
    share, rest = divmod(len(images), len(classes))
    quotas = np.full(len(classes), share)
    quotas[generator.permutation(len(classes))[:rest]] += 1
    draws = []
    for quota, of_class in zip(quotas.tolist(), members, strict=True):
        rounds = [generator.permutation(of_class) for _ in range(-(-quota // len(of_class)))]
        draws.append(np.concatenate([of_class[:0], *rounds])[:quota])
    return torch.from_numpy(np.concatenate(draws))
