"""Pooled features, recorded at the input of the head, and their map in the plane: PCA, then t-SNE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnetlab.models.resnet import ResNet

MOST = 2000  # images on a map; t-SNE takes seconds for them, and a minute for ten times as many


@contextmanager
def catching_features(network: ResNet, wanted: Sequence[int] | NDArray[np.integer]) -> Iterator[list[Tensor]]:
    """Record the features of the `wanted` images while the network is scored; no image is computed twice.

    `wanted` are ascending positions in the split. A tensor (n, C) on the device is appended to the list for each batch.
    The hook on the head is removed at the end.
    """
    caught: list[Tensor] = []
    places, seen = np.asarray(wanted, np.int64), 0

    def catch(_head: object, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        (features,) = inputs
        here = places[(places >= seen) & (places < seen + len(features))] - seen
        seen += len(features)
        caught.append(features[torch.from_numpy(here).to(features.device)])

    hook = network.fc.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Select at most `most` of `count` positions, evenly spread, in order.

    >>> spread(10, 4).tolist(), spread(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, max(count - 1, 0), min(most, count)).astype(np.intp))


def plane(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map features (N, C) to points (N, 2) that keep neighbours together: PCA to 50 dimensions, then t-SNE.

    Fewer than 10 images, or features without variance, are only projected. t-SNE: van der Maaten and Hinton (2008). The
    axes, and distances between groups that are far apart, have no meaning.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    centred = np.asarray(features, np.float64)
    if len(centred):
        centred = centred - centred.mean(0)
    rank = min(50, *centred.shape)
    if rank < 2 or not centred.any():
        return np.pad(centred[:, :1], ((0, 0), (0, 1)))
    narrow = PCA(rank, svd_solver="full", random_state=0).fit_transform(centred)
    first, second = np.ptp(narrow, axis=0)[:2]
    if len(narrow) < 10 or second < 1e-9 * first:
        return np.asarray(narrow[:, :2])
    perplexity = min(30.0, (len(narrow) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(narrow), np.float64)
