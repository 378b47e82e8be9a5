"""The overlaid curves draw the numbers of each run, and survive odd ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from resnetlab.plots.curves import overlaid_curves


def rows(count: int, seconds: float = 30.0, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "val_loss": 2 / epoch,
            "val_accuracy": 1 - 0.9 / epoch,
            "train_seconds": seconds,
            **changes,
        }
        for epoch in range(1, count + 1)
    ]


def texts(figure: Figure) -> list[str]:
    figure.savefig(io.BytesIO(), dpi=40)
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_every_run_is_a_line_in_every_panel() -> None:
    runs = [("short", rows(3)), ("long", rows(12, seconds=60))]
    loss, accuracy, over_time = overlaid_curves(runs, "pets").axes
    for line, (_, given) in zip(loss.lines, runs, strict=True):
        np.testing.assert_allclose(line.get_ydata(), [row["val_loss"] for row in given])
    for panel in (accuracy, over_time):
        for line, (_, given) in zip(panel.lines, runs, strict=True):
            np.testing.assert_allclose(line.get_ydata(), [100 * row["val_accuracy"] for row in given])
    np.testing.assert_allclose(over_time.lines[0].get_xdata(), [0.5, 1, 1.5])
    np.testing.assert_allclose(over_time.lines[1].get_xdata(), range(1, 13))
    assert loss.get_xlim()[1] >= 12


def test_the_runs_are_named() -> None:
    told = texts(overlaid_curves([("one", rows(2)), ("two $x_1$", rows(2))], "pets"))
    assert "one" in told
    assert r"two \$x_1\$" in told
    assert "Learning curves: pets" in told


@pytest.mark.slow
def test_28_runs_look_different() -> None:
    _, accuracy, _ = overlaid_curves([(str(number), rows(2)) for number in range(28)], "pets").axes
    assert len({(line.get_color(), str(line._dash_pattern)) for line in accuracy.lines}) == 28


@pytest.mark.parametrize(
    "runs",
    [
        [("one epoch", rows(1)), ("two", rows(2))],
        [("nothing yet", []), ("something", rows(3))],
        [("lost", rows(4, val_loss=float("nan"))), ("kept", rows(4))],
        [("wild", [*rows(9), *rows(1, epoch=10, val_loss=1e9)]), ("tame", rows(10))],
        [("no clock", rows(3, train_seconds=None)), ("clock", rows(3))],
    ],
    ids=lambda runs: runs[0][0],
)
def test_odd_runs_are_drawn(runs: Any) -> None:
    assert texts(overlaid_curves(runs, "odd"))


def test_without_epochs_the_figure_has_a_message() -> None:
    assert "No epoch has been finished yet." in texts(overlaid_curves([("a", []), ("b", [])], "pets"))
