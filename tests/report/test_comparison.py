"""A comparison in words equals its numbers; unknown values are dashes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from resnetlab.evaluation.comparison import ComparedRun, Comparison, compare_with_best, ranked
from resnetlab.report.comparison import build, cost, heading, quality, sentences, settings_sentence, settings_table
from resnetlab.report.render import Picture

SETTINGS = {"optim.lr": [0.1, 0.1, 0.2], "augment.flip": [True, False, False], "model.shortcut": [None, "A", "B"]}


@pytest.fixture
def comparison() -> Comparison:
    """Two runs that are far apart, and one that knows little of itself."""
    common: dict[str, Any] = {"loss": 1.0, "ece": None, "test_set_uses": 2, "model": "resnet20", "epoch_rows": []}
    full = {
        "parameters": 272_474,
        "macs": 40_551_040,
        "epochs": 3,
        "train_seconds": 90.0,
        "images_per_second": 1234.5,
        "machine": "a machine, fp32",
    }
    empty = dict.fromkeys(full) | {"epochs": 0, "train_seconds": 0.0}
    runs = [
        ComparedRun(
            name=name,
            correct=np.arange(100) < right,
            accuracy=right / 100,
            accuracy_interval=[right / 100 - 0.05, right / 100 + 0.05] if cost is full else None,
            macro_f1=right / 100 if cost is full else None,
            macro_f1_interval=None,
            weights_digest=name,
            **common,
            **cost,
        )
        for name, right, cost in (("good", 90, full), ("<b>bad", 60, full), ("[red]unknown", 89, empty))
    ]
    ordered = ranked(runs)
    return Comparison(
        "test", "pets", "cd" * 32, 100, "none", 14, ordered, compare_with_best(ordered), ("look out",), SETTINGS
    )


def test_settings_that_differ_have_a_row_with_the_value_of_each_run(comparison: Comparison) -> None:
    found = settings_table(comparison)
    assert found.columns == ("setting", "good", "[red]unknown", "<b>bad")
    assert found.rows[:2] == [["optim.lr", "0.1", "0.1", "0.2"], ["augment.flip", "on", "off", "off"]]
    assert settings_sentence(comparison) == "different settings: optim.lr, augment.flip, model.shortcut"
    same = replace(comparison, settings={})
    assert settings_sentence(same) == "all settings that affect the result are the same"


def test_the_first_table_has_scores_and_verdicts(comparison: Comparison) -> None:
    rows = {row[0]: dict(zip(quality(comparison).columns, row, strict=True)) for row in quality(comparison).rows}
    assert list(rows) == ["good", "[red]unknown", "<b>bad"]
    assert rows["good"]["accuracy"] == "90.00%"
    assert rows["good"]["95% interval"] == "85.00% to 95.00%"
    assert [row["verdict"] for row in rows.values()] == ["best", "not significant", "worse"]
    assert rows["<b>bad"]["points behind"] == "30.00"
    assert rows["[red]unknown"]["macro-F1"] == rows["[red]unknown"]["95% interval"] == "–"


def test_the_second_table_has_sizes_times_and_machines(comparison: Comparison) -> None:
    first, unknown, _ = cost(comparison).rows
    assert first == ["good", "resnet20", "0.27 M", "40.6 M", "3", "1.5", "1,234", "a machine, fp32"]
    assert unknown == ["[red]unknown", "resnet20", "–", "–", "0", "0.0", "–", "–"]


def test_sentences_have_verdicts_test_set_use_and_notes(comparison: Comparison) -> None:
    found = list(sentences(comparison))
    assert found[0] == "the difference between good and [red]unknown is not significant on these images (p = 1)"
    assert found[1].startswith("good is better than <b>bad on these images (p = ")
    assert found[2] == (
        "test set use: 14 runs were scored on this test set; good 2 times, [red]unknown 2 times, <b>bad 2 times"
    )
    assert found[3] == "note: look out"
    assert not any("test set use" in line for line in sentences(replace(comparison, split="val")))


def test_test_time_augmentation_is_named(comparison: Comparison) -> None:
    assert heading(comparison) == "3 runs on the 100 images of the test split of pets"
    assert heading(replace(comparison, tta="flip")).endswith(", test-time augmentation: flip")


def test_the_page_has_all_of_it_and_no_markup_of_others(comparison: Comparison) -> None:
    html = build(comparison, Picture("data:image/png;base64,", 8, 8, "curves"))
    assert "<b>bad" not in html
    assert "&lt;b&gt;bad" in html
    assert html.index("Settings that differ") < html.index("Scores on the same images")
    for row in (*settings_table(comparison).rows, *quality(comparison).rows, *cost(comparison).rows):
        for cell in row:
            assert cell.replace("<", "&lt;").replace(">", "&gt;") in html
    assert "not significant" in html
    assert "cd" * 32 in html
