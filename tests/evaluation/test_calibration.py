"""Calibration error equals a count that is written out; the temperature is the best one, and changes no prediction."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from resnetlab.evaluation.calibration import (
    BINS,
    Temperature,
    calibration,
    expected_calibration_error,
    fit_temperature,
    reliability,
    tempered,
)
from resnetlab.evaluation.metrics import Labels, Probabilities, brier, losses, score


@st.composite
def answers(draw: st.DrawFn) -> tuple[Probabilities, Labels]:
    """A few images and classes, among them confidences on the very edges of bins: 1/3, 2/5, 1 …"""
    images, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    weights = draw(
        st.lists(
            st.lists(st.integers(0, 3), min_size=classes, max_size=classes).filter(any),
            min_size=images,
            max_size=images,
        )
    )
    rows = np.array(weights, dtype=np.float64)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return rows / rows.sum(1, keepdims=True), np.array(labels, dtype=np.int64)


def counted_error(probabilities: Probabilities, labels: Labels) -> tuple[float, list[int]]:
    """Guo et al., equations 2 and 3: bins ((m - 1) / M, m / M], and what confidence and accuracy are in each."""
    total, counts = 0.0, []
    for m in range(1, BINS + 1):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if (m - 1) / BINS < max(row) <= m / BINS
        ]
        counts.append(len(inside))
        if inside:
            confidence = sum(sure for sure, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total, counts


@settings(deadline=None)
@given(answers())
def test_calibration_error_equals_a_brute_force_count(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    said = calibration(probabilities, labels, None)
    error, counts = counted_error(probabilities, labels)
    assert said["ece"] == pytest.approx(error, abs=1e-12)
    assert [row["images"] for row in said["bins"]] == counts
    assert (said["temperature"], said["after"]) == (None, None)
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_bins_cover_0_to_1_and_an_empty_one_has_no_means() -> None:
    bins = reliability(np.array([0.2, 0.5, 0.5, 1.0]), np.array([False, True, False, True]), bins=4)
    assert [(row["low"], row["high"]) for row in bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [row["images"] for row in bins] == [1, 2, 0, 1]
    assert [row["confidence"] for row in bins] == [0.2, 0.5, None, 1]
    assert [row["accuracy"] for row in bins] == [0, 0.5, None, 1]
    assert expected_calibration_error(bins) == pytest.approx(0.05)


def overconfident(images: int = 400, classes: int = 5, factor: float = 3.0) -> tuple[Probabilities, Labels]:
    """Labels drawn from the probabilities themselves; then the logits are multiplied by `factor`."""
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(images, classes)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([draw.choice(classes, p=row) for row in true])
    return tempered(true, 1 / factor), labels


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 10.0])
def test_the_temperature_restores_the_calibration_of_an_overconfident_model(factor: float) -> None:
    probabilities, labels = overconfident(4000, factor=factor)
    assert fit_temperature(probabilities, labels) == pytest.approx(factor, rel=0.1)


@settings(deadline=None)
@given(answers())
def test_no_other_temperature_has_a_lower_loss(case: tuple[Probabilities, Labels]) -> None:
    probabilities, labels = case
    found = fit_temperature(probabilities, labels)

    def loss(power: float) -> float:
        return float(losses(tempered(probabilities, math.exp(power)), labels).mean())

    if found is not None:
        best = minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-10})
        assert loss(math.log(found)) <= best.fun + 1e-9
        assert loss(math.log(found)) <= loss(0) + 1e-12


@settings(deadline=None)
@given(answers(), st.floats(1e-3, 1e3))
def test_a_temperature_changes_no_order_and_rows_stay_distributions(
    case: tuple[Probabilities, Labels], temperature: float
) -> None:
    probabilities, _ = case
    after = tempered(probabilities, temperature)
    np.testing.assert_allclose(after.sum(1), 1, rtol=1e-12)
    for before, row in zip(probabilities, after, strict=True):
        assert (np.diff(row[np.argsort(before, kind="stable")]) >= 0).all()


def test_a_temperature_of_1_changes_nothing() -> None:
    probabilities, _ = overconfident()
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, rtol=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        ([[0.9, 0.1], [0.3, 0.7]], [0, 1]),  # no mistake: the colder the better
        ([[0.9, 0.1], [0.3, 0.7]], [1, 0]),  # nothing right: the hotter the better
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1]),  # all the same at any temperature
        ([[1.0], [1.0]], [0, 0]),  # one class
        ([[0.0, 1.0]], [1]),
    ],
)
def test_images_that_do_not_determine_a_temperature_give_none(probabilities: Any, labels: Any) -> None:
    assert fit_temperature(np.array(probabilities), np.array(labels)) is None


def test_a_probability_of_zero_for_the_truth_costs_much_but_not_infinitely_much() -> None:
    labels = np.array([0, 0, 1])
    found = fit_temperature(np.array([[1.0, 1e-99]] * 3), labels)
    assert found is not None
    assert tempered(np.array([[1.0, 1e-99]]), found)[0] == pytest.approx([2 / 3, 1 / 3])
    assert fit_temperature(np.array([[1.0, 0.0]] * 3), labels) is None  # beyond 1000
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 0.001)).all()


def test_after_the_temperature_calibration_is_better_and_accuracy_what_it_was() -> None:
    probabilities, labels = overconfident()
    temperature = Temperature.fitted(probabilities, labels, "val", "ab" * 32)
    said = calibration(probabilities, labels, temperature)
    after = tempered(probabilities, temperature.value or math.nan)
    assert said["after"]["ece"] < said["ece"] / 2
    assert said["after"]["loss"] == losses(after, labels).mean() < losses(probabilities, labels).mean()
    assert said["after"]["brier"] == brier(after, labels) < brier(probabilities, labels)
    right = score(probabilities, labels).accuracy
    for bins in (said["bins"], said["after"]["bins"]):
        hits = sum(row["accuracy"] * row["images"] for row in bins if row["images"])
        assert hits / len(labels) == pytest.approx(right)
    assert said["temperature"] == {
        "value": temperature.value,
        "split": "val",
        "split_digest": "ab" * 32,
        "images": 400,
    }


def test_an_undefined_temperature_is_reported_and_has_no_after() -> None:
    probabilities, labels = np.array([[0.9, 0.1]]), np.array([0])
    said = calibration(probabilities, labels, Temperature.fitted(probabilities, labels, "val", "x"))
    assert said["temperature"] == {"value": None, "split": "val", "split_digest": "x", "images": 1}
    assert said["after"] is None


@pytest.mark.parametrize("value", [None, 0.5, 1.3])
def test_a_temperature_is_read_back_equal(value: float | None) -> None:
    temperature = Temperature(value, "val", "ab", 7)
    assert Temperature.from_json(json.loads(json.dumps(temperature.to_json()))) == temperature


@pytest.mark.parametrize(
    "given",
    [
        None,
        3,
        [],
        {},
        {"value": 1.0},
        *({"value": value, "split": "val", "split_digest": "x", "images": 1} for value in (0.0, -1.0, "1", True, 1e9)),
    ],
)
def test_anything_else_is_no_temperature(given: Any) -> None:
    assert Temperature.from_json(given) is None
