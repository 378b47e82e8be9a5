"""Risk-coverage curves by counting, and thresholds that keep their stated risk on new images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from resnetlab.evaluation.calibration import Temperature, tempered
from resnetlab.evaluation.selective import (
    CONFIDENCE,
    RISKS,
    Rejection,
    RiskCoverage,
    fit_rejections,
    largest_risk,
    rejections_in,
    selective,
)


def predictions(images: int, seed: int, *, digits: int = 17) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidences, and predictions that are right with that probability."""
    generator = np.random.default_rng(seed)
    confidence = (1 - generator.random(images) ** 3 / 2).round(digits)
    return confidence, generator.random(images) < confidence


@pytest.mark.parametrize("digits", [1, 2, 17])
def test_the_curve_equals_counting_at_every_threshold(digits: int) -> None:
    confidence, right = predictions(300, 1, digits=digits)
    curve = RiskCoverage.of(confidence, right)
    assert curve.thresholds.tolist() == sorted(set(confidence.tolist()), reverse=True)
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        accepted = [is_right for c, is_right in zip(confidence, right, strict=True) if c >= threshold]
        assert coverage == len(accepted) / 300
        assert risk == accepted.count(False) / len(accepted)


def test_the_area_is_the_mean_risk_over_the_number_of_accepted_images() -> None:
    confidence, right = predictions(200, 2)
    order = np.argsort(-confidence)
    expected = np.mean([(~right[order[:count]]).mean() for count in range(1, 201)])
    assert RiskCoverage.of(confidence, right).area == pytest.approx(expected)


def test_the_curve_in_the_file_is_thinned_out_and_ends_at_full_coverage() -> None:
    confidence, right = predictions(3000, 3)
    points = RiskCoverage.of(confidence, right).points()
    assert len(points) == 200
    assert points[-1] == {"threshold": confidence.min(), "coverage": 1, "risk": (~right).mean()}
    assert np.diff([0, *(point["coverage"] for point in points)]).max() < 0.0054
    assert len(RiskCoverage.of(confidence[:7], right[:7]).points()) == 7


@pytest.mark.parametrize(("wrong", "accepted"), [(0, 10), (3, 40), (39, 40), (40, 40)])
def test_the_bound_is_where_so_few_mistakes_become_improbable(wrong: int, accepted: int) -> None:
    found = largest_risk(wrong, accepted, 0.95)
    assert binom.cdf(wrong, accepted, found) == pytest.approx(1 if wrong == accepted else 0.05)


def test_thresholds_keep_their_risk_on_new_images_about_as_often_as_stated() -> None:
    """The true risk at a threshold is known here: the mean of 1 - confidence above it."""
    everything = np.sort(predictions(200_000, 0)[0])
    risk_above = np.cumsum(1 - everything[::-1]) / np.arange(1, len(everything) + 1)
    exceeded = dict.fromkeys(RISKS, 0)
    for seed in range(200):
        for rejection in fit_rejections(*predictions(2000, seed + 1)):
            count = len(everything) - np.searchsorted(everything, rejection.threshold)
            exceeded[rejection.risk] += int(risk_above[count - 1] > rejection.risk)
    assert max(exceeded.values()) <= 200 * (1 - CONFIDENCE)


def test_a_risk_that_so_few_images_cannot_support_is_left_out() -> None:
    """With 7 thresholds tried, none of 100 wrong bounds the risk by 1 - (0.05 / 7) ^ (1 / 100) = 4.8 %."""
    confidence, right = np.linspace(0.5, 1, 100), np.ones(100, bool)
    assert [one.risk for one in fit_rejections(confidence, right)] == [0.05, 0.1, 0.2]
    assert fit_rejections(confidence[:10], right[:10]) == ()
    assert fit_rejections(confidence, ~right) == ()


def test_all_images_are_accepted_if_that_keeps_the_risk() -> None:
    """Half of them would be too few, even without a mistake."""
    confidence, right = np.linspace(0.5, 1, 4000), np.ones(4000, bool)
    assert fit_rejections(confidence, right, [0.002]) == (Rejection(0.002, 0.5, 1.0),)


def test_a_smaller_risk_never_has_a_larger_coverage() -> None:
    for seed in range(20):
        coverage = [one.coverage for one in fit_rejections(*predictions(1000, seed))]
        assert coverage == sorted(coverage)


def test_thresholds_apply_to_probabilities_after_temperature_scaling() -> None:
    generator = np.random.default_rng(5)
    probabilities = generator.dirichlet(np.full(4, 0.1), 2000)
    labels = np.array([generator.choice(4, p=row) for row in tempered(probabilities, 1.3)])
    temperature = Temperature.fitted(probabilities, labels, "val", "d")
    found = selective(probabilities, labels, temperature)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["temperature"] == temperature.value
    assert found["rejections"]
    for row in found["rejections"]:
        accepted = tempered(probabilities, found["temperature"]).max(1) >= row["threshold"]
        wrong = (probabilities.argmax(1) != labels) & accepted
        assert (row["accepted"], row["coverage"]) == (accepted.sum(), accepted.mean())
        assert row["observed_risk"] == wrong.sum() / accepted.sum() <= row["risk"]

    other = selective(probabilities[:100], labels[:100], temperature, rejections_in(found))
    assert rejections_in(other) == rejections_in(found)
    assert other["rejections"][0]["accepted"] < found["rejections"][0]["accepted"]


def test_nothing_accepted_has_no_risk() -> None:
    found = selective(np.full((3, 2), 0.5), np.array([0, 0, 1]), None, [Rejection(0.1, 0.9, 0.5)])
    row = found["rejections"][0]
    assert (row["accepted"], row["observed_risk"], row["observed_interval"]) == (0, None, None)


@pytest.mark.parametrize("given", [None, [], {}, {"rejections": 3}, {"rejections": [{}]}, {"rejections": [[0.1] * 3]}])
def test_anything_else_holds_no_rejections(given: object) -> None:
    assert rejections_in(given) == ()
