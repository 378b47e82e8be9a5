"""Find labels that are probably wrong: confident learning (Northcutt et al. 2021) with cleanlab.

It needs the probabilities of a network for images that it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnetlab.errors import BadInput


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """The suspected images as indices, the most suspect first, and the quality of all N labels, from 0 to 1."""

    ranked: NDArray[np.int64]
    quality: NDArray[np.float64]


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> LabelIssues:
    """Rank the images whose label is probably wrong. Probabilities (N, K), labels int (N,).

    The quality of a label is its probability ("self-confidence"). The number of suspects is estimated from the
    probabilities; they are the images of the lowest quality for which the network predicts another class.

    Raises BadInput without cleanlab, or with fewer than two classes among the labels.

    >>> rows = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95]])
    >>> find_label_issues(rows, np.array([0, 0, 1, 1, 0])).ranked.tolist()
    [4]
    """
    try:
        from cleanlab.count import num_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise BadInput("suspected labels are found by cleanlab: pip install 'resnetlab[labels]'") from error
    present, numbers = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise BadInput("wrong labels can only be found among the images of two classes or more")
    known = probabilities[:, present].astype(np.float64)  # cleanlab wants each class to have an image
    known /= np.maximum(known.sum(1, keepdims=True), 1e-12)
    known[known.sum(1) == 0] = 1 / len(present)
    # cleanlab.filter chooses the suspects by pair of classes, and leaves out clearer ones where a pair has too many.
    count = num_label_issues(numbers, known, estimation_method="off_diagonal_calibrated")
    quality = np.asarray(get_label_quality_scores(numbers, known))
    order = np.argsort(quality, kind="stable")
    ranked = order[known[order].argmax(1) != numbers[order]][:count]
    return LabelIssues(ranked.astype(np.int64), quality)
