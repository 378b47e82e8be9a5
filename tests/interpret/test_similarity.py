"""Similar images against cosine similarity by its formula, for each pair."""

from __future__ import annotations

import numpy as np

from resnetlab.interpret.similarity import most_similar, unit_vectors


def test_the_most_similar_are_those_of_the_formula() -> None:
    draw = np.random.default_rng(0)
    features, feature = draw.normal(size=(50, 8)), draw.normal(size=8)
    cosines = [float(one @ feature / np.sqrt((one @ one) * (feature @ feature))) for one in features]
    expected = sorted(range(50), key=lambda i: -cosines[i])[:7]
    positions, found = most_similar(unit_vectors(features), feature, 7)
    assert positions.tolist() == expected
    np.testing.assert_allclose(found, [cosines[i] for i in expected], atol=1e-6)


def test_of_equally_similar_images_the_first_comes_first() -> None:
    vectors = unit_vectors(np.array([[0.0, 1.0], [2.0, 0.0], [5.0, 0.0]]))
    positions, cosines = most_similar(vectors, np.array([1.0, 0.0]), 9)
    assert positions.tolist() == [1, 2, 0]
    assert cosines.tolist() == [1, 1, 0]


def test_features_of_zeros_are_similar_to_nothing() -> None:
    assert most_similar(unit_vectors(np.zeros((2, 3))), np.ones(3), 2)[1].tolist() == [0, 0]
    assert most_similar(unit_vectors(np.ones((2, 3))), np.zeros(3), 2)[1].tolist() == [0, 0]
