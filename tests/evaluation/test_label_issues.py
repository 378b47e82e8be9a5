"""Wrong labels that were planted in digits are found."""

from __future__ import annotations

import numpy as np
import pytest

from resnetlab.evaluation.label_issues import find_label_issues

pytest.importorskip("cleanlab")


def test_flipped_labels_are_among_the_first() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    flipped = random.choice(len(labels), len(labels) // 20, replace=False)
    given = labels.copy()
    given[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    out_of_fold = cross_val_predict(KNeighborsClassifier(10), images, given, cv=5, method="predict_proba")

    first = find_label_issues(out_of_fold, given).ranked[: len(flipped)]

    assert np.isin(first, flipped).sum() / len(flipped) >= 0.8


def test_class_without_images_is_no_problem() -> None:
    rows = np.array([[0.9, 0.0, 0.1], [0.8, 0.0, 0.2], [0.1, 0.0, 0.9], [0.2, 0.0, 0.8], [0.0, 0.0, 1.0]])
    assert find_label_issues(rows, np.array([0, 0, 2, 2, 0])).ranked.tolist() == [4]
