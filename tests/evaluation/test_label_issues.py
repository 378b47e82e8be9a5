"""Wrong labels that were planted in digits are found."""

from __future__ import annotations

import numpy as np
import pytest

from resnetlab.evaluation.label_issues import find_label_issues

pytest.importorskip("cleanlab")


@pytest.mark.parametrize("neighbours", [10, 150])
def test_flipped_labels_are_among_the_first(neighbours: int) -> None:
    from cleanlab.filter import find_label_issues as filtered
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    flipped = random.choice(len(labels), len(labels) // 20, replace=False)
    given = labels.copy()
    given[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    classifier = KNeighborsClassifier(neighbours)  # 99% or 91% of the other labels are predicted
    out_of_fold = cross_val_predict(classifier, images, given, cv=5, method="predict_proba")

    ours = find_label_issues(out_of_fold, given).ranked
    theirs = filtered(given, out_of_fold, return_indices_ranked_by="self_confidence", n_jobs=1)

    hits = [np.isin(found[: len(flipped)], flipped).sum() / len(flipped) for found in (ours, theirs)]
    assert hits[0] >= max(0.8, hits[1])


def test_class_without_images_is_no_problem() -> None:
    rows = np.array([[0.9, 0.0, 0.1], [0.8, 0.0, 0.2], [0.1, 0.0, 0.9], [0.2, 0.0, 0.8], [0.0, 0.0, 1.0]])
    assert find_label_issues(rows, np.array([0, 0, 2, 2, 0])).ranked.tolist() == [4]
