"""What notebooks/helpers.py computes and draws of stored runs and of repeated measurements."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def helpers() -> ModuleType:
    import helpers

    return helpers


def run(helpers: ModuleType, *accuracies: float) -> Any:
    epochs = [
        {"epoch": 1.0 + number, "train_accuracy": accuracy, "val_accuracy": accuracy - 0.1, "val_loss": 1.0}
        for number, accuracy in enumerate(accuracies)
    ]
    model = {"name": "resnet20", "stem": "cifar", "shortcut": None}
    return helpers.Run("a run", {"model": model, "augment": {}}, epochs, {"accuracy": 0.8, "images": 5000})


def lines(figure: Figure) -> dict[str, Any]:
    """The lines of a figure by their labels."""
    return {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}


def test_the_gap_of_two_training_errors_has_the_interval_of_two_shares(helpers: ModuleType) -> None:
    points, half = helpers.training_gap(run(helpers, 0.2, 0.7), run(helpers, 0.3, 0.8))
    assert points == pytest.approx(10)
    assert half == pytest.approx(1.96 * 100 * (0.3 * 0.7 / 5000 + 0.2 * 0.8 / 5000) ** 0.5)


def test_the_cost_of_an_epoch_is_that_of_the_text(helpers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import prose

    for name in ("notebook-resnet34", "improvements/cifar-stem"):
        stored = helpers.load_run(name)
        assert f"{helpers.epoch_cost(stored) * len(stored.epochs):.0f}" == prose.cost(name)


def test_a_mean_has_students_interval(helpers: ModuleType) -> None:
    values = [70.1, 72.4, 71.3, 69.0]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert helpers.mean_with_interval(values) == f"{(low + high) / 2:.1f} ± {(high - low) / 2:.1f}"
    assert helpers.mean_with_interval([-1.0, -2.0, -1.5]).startswith("−1.5 ± ")
    assert helpers.mean_with_interval([3.0]) == "3.0", "one measurement has no interval"
    assert helpers.mean_with_interval([3.0, 4.0]) == "3.5", "of two it would be wider than what can be measured"


def test_errors_are_drawn_by_epoch(helpers: ModuleType) -> None:
    figure = helpers.error_figure({"plain": [("a", run(helpers, 0.2, 0.7)), ("b", run(helpers, 0.3, 0.8))]}, "title")
    drawn = lines(figure)
    assert list(drawn) == ["a, training", "a, validation", "b, training", "b, validation"]
    np.testing.assert_allclose(drawn["b, training"].get_xydata(), [[1, 70], [2, 20]])
    np.testing.assert_allclose(drawn["b, validation"].get_ydata(), [80, 30])


def test_validation_accuracy_is_drawn_by_epoch_and_by_cost(helpers: ModuleType) -> None:
    stored = run(helpers, 0.2, 0.7)
    by_epoch, by_cost = (axes.get_lines()[0].get_xydata() for axes in helpers.runs_figure({"one": stored}).axes)
    np.testing.assert_allclose(by_epoch, [[1, 10], [2, 60]])
    np.testing.assert_allclose(by_cost[:, 0], np.array([1, 2]) * helpers.epoch_cost(stored))


def test_the_draws_of_a_transfer_and_their_means_are_drawn(helpers: ModuleType) -> None:
    accuracies = {(way, count): [count, count + 2] for way in ("a", "b") for count in (5, 20)}
    drawn = lines(helpers.transfer_figure(accuracies, chance=25))
    assert list(drawn["b"].get_ydata()) == [6, 21]
    assert set(drawn["guessing"].get_ydata()) == {25}


def test_a_schedule_is_drawn_from_its_function(helpers: ModuleType) -> None:
    (line,) = helpers.rates_figure({"linear": lambda done: 1 - done}, epochs=10).axes[0].get_lines()
    epochs, rates = line.get_data()
    np.testing.assert_allclose(rates, 1 - epochs / 10)


def test_every_removed_unit_is_drawn_at_its_number(helpers: ModuleType) -> None:
    networks = [
        helpers.Removals("residual", 80.0, {1: 70.0, 3: 75.0}, {2: 60.0}, [1, 2]),
        helpers.Removals("plain", 50.0, {1: 10.0}, {}, [1, 2]),
    ]
    left, right = helpers.removals_figure(networks, chance=10).axes
    found = {str(line.get_label()): line.get_xydata().tolist() for line in left.get_lines()}
    assert found["one unit removed"] == [[1, 70], [3, 75]]
    assert found["one that changes the shape"] == [[2, 60]]
    assert "one that changes the shape" not in [line.get_label() for line in right.get_lines()]


def test_orders_of_removal_have_their_mean(helpers: ModuleType) -> None:
    scores = np.array([[80.0, 70.0], [60.0, 20.0]])
    figure = helpers.removal_orders_figure((1, 2), scores, whole=85, chance=10, title="")
    (container,) = figure.axes[0].containers
    np.testing.assert_allclose(container.lines[0].get_ydata(), [75, 40])


def test_lines_of_gradients_and_corrections_are_their_numbers(helpers: ModuleType) -> None:
    drawn = lines(helpers.gradients_figure({"start": {"plain": ([1.0, 0.1], {"color": "k"})}}, limit=10))
    assert drawn["plain"].get_xydata().tolist() == [[1, 1], [2, 0.1]]
    drawn = lines(helpers.corrections_figure({"before": [0.5, 0.4], "trained": [0.3, 0.2]}, [1, 1], "title"))
    assert drawn["trained"].get_xydata().tolist() == [[1, 0.3], [2, 0.2]]
