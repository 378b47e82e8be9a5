"""Similar images: the cosine similarity of pooled features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_vectors(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale features (N, C) to length 1; features of zeros stay zeros, which are similar to nothing."""
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def most_similar(
    vectors: NDArray[np.floating], feature: NDArray[np.floating], count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the positions of the `count` most similar `vectors` (N, C), of length 1, and the cosine similarities.

    `feature` (C,) may have any length. The most similar comes first; of equally similar ones, the first.

    >>> positions, cosines = most_similar(np.eye(3), np.array([0.0, 3.0, 4.0]), 2)
    >>> positions.tolist(), cosines.round(2).tolist()
    ([2, 1], [0.800000011920929, 0.6000000238418579])
    """
    (wanted,) = unit_vectors(feature[None])
    cosines = np.asarray(vectors, np.float32) @ wanted
    order = np.argsort(-cosines, kind="stable")[:count]
    return order, cosines[order]
