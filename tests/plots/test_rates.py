"""The picture of a learning-rate range test: what it shows, and that odd tests can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from resnetlab.plots.rates import range_test
from resnetlab.plots.style import save


def words(figure: Figure) -> str:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([*(text.get_text() for text in figure.texts), *legends])


def test_losses_smoothed_losses_and_marks_are_at_their_numbers() -> None:
    rates, losses, smoothed = [1e-3, 1e-2, 1e-1], [2.0, 1.5, 3.0], [1.9, 1.6, 2.8]
    figure = range_test(rates, losses, smoothed, "net", steepest=1e-2, diverged=0.2, suggestion=0.005)
    (axes,) = figure.axes
    dots, line, steepest, *marks = axes.lines
    assert np.array_equal(dots.get_xydata(), np.column_stack((rates, losses)))
    assert np.array_equal(line.get_xydata(), np.column_stack((rates, smoothed)))
    assert [mark.get_xdata()[0] for mark in marks] == [0.2, 0.005]
    assert np.allclose(steepest.get_xydata(), [[1e-2, 1.6]])
    assert axes.get_xscale() == "log"
    said = words(figure)
    for part in ("Learning-rate range test: net", "3 steps", "suggested peak 0.005", "diverged, 0.2", "descent, 0.01"):
        assert part in said


def test_steepest_descent_and_suggestion_are_both_visible_at_the_same_rate() -> None:
    figure = range_test([1e-3, 1e-2, 1e-1], [2.0, 1.5, 1.0], [2.0, 1.5, 1.0], "net", steepest=1e-2, suggestion=1e-2)
    *_, steepest, suggestion = figure.axes[0].lines
    assert (steepest.get_marker(), steepest.get_linestyle()) == ("D", "None")
    assert (suggestion.get_linestyle(), list(suggestion.get_xdata())) == ("-", [1e-2, 1e-2])
    assert steepest.get_color() != suggestion.get_color()
    assert steepest.get_zorder() > suggestion.get_zorder()


def test_a_very_high_loss_does_not_flatten_the_rest() -> None:
    rates, losses = np.geomspace(1e-6, 1, 40), [*np.linspace(2.3, 1, 39), 1e30]
    figure = range_test(rates, losses, losses, "net", diverged=1.0)
    assert figure.axes[0].get_ylim()[1] < 10


@pytest.mark.parametrize("losses", [[2.3], [2.3, 2.3], [0.0, 0.0, 0.0], [1e-9, 5.0, 1e38]])
def test_odd_tests_are_drawn(losses: list[float], tmp_path: Path) -> None:
    rates: Any = np.geomspace(1e-6, 1e-3, len(losses))
    figure = range_test(rates, losses, losses, "$name$")
    assert "no suggestion: the loss does not fall" in words(figure)
    save(figure, tmp_path / "picture.png")
