"""Tables of runs and series: LaTeX that compiles, CSV with every digit, and the same numbers in all forms."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetlab.evaluation.comparison import ComparedRun, Summary, SummaryTable
from resnetlab.report.score_table import caption, cells, escaped, latex, write_latex, write_scores_csv
from resnetlab.runs.csv_files import read_csv

NASTY = r"=cmd_1 & 50% of {$x^2$} #~\\ <b> |\"quoted\" – ± 中"
ACCURACIES = (0.8123456789, 0.8312345678, 0.8054321098)


def run(name: str, accuracy: float, **changes: Any) -> ComparedRun:
    unknown = dict.fromkeys(("ece", "parameters", "macs", "images_per_second", "machine"))
    facts: dict[str, Any] = {
        "correct": np.ones(3, bool),
        "accuracy_interval": [accuracy - 0.01, accuracy + 0.01],
        "macro_f1": accuracy,
        "macro_f1_interval": None,
        "loss": 1 - accuracy,
        "test_set_uses": 1,
        "model": "tiny",
        "weights_digest": name,
        "epochs": 1,
        "train_seconds": 60.0,
        "epoch_rows": [],
        **unknown,
    }
    return ComparedRun(name=name, accuracy=accuracy, **(facts | changes))


@pytest.fixture
def table() -> SummaryTable:
    """A series of three runs, and a single run with a name full of special characters."""
    series = Summary("series", tuple(run(f"seed-{seed}", score) for seed, score in enumerate(ACCURACIES)))
    single = Summary(NASTY, (run(NASTY, 0.7, macro_f1=None),))
    settings = {"optim.lr": [0.1, 0.2], "augment.sizes": [[0.5, 1.0], []]}
    return SummaryTable("test", "pets & co_1", "ab" * 32, 1000, (series, single), settings, ("a note\n\\end{table}",))


def test_the_numbers_are_mean_standard_deviation_and_interval(table: SummaryTable) -> None:
    series, single = cells(table).rows
    mean, std = 100 * statistics.fmean(ACCURACIES), 100 * statistics.stdev(ACCURACIES)
    half = 4.302652729911275 * std / 3**0.5  # Student's t, 97.5 %, two degrees of freedom
    assert series[:4] == ["series", "3", f"{mean:.2f} ± {std:.2f}", f"{mean - half:.2f} to {mean + half:.2f}"]
    assert single[1:6] == ["1", "70.00", "69.00 to 71.00", "–", "–"]
    assert "1,000 images of the test split of pets & co_1" in caption(table)
    assert "over seeds (Student's t) and of a single run, over the images" in caption(table)


def test_two_seeds_have_no_interval_and_the_caption_states_it(table: SummaryTable) -> None:
    pair = Summary("pair", (run("seed-0", 0.89), run("seed-1", 0.91)))
    found = cells(replace(table, rows=(pair,)))
    assert found.rows[0][:4] == ["pair", "2", "90.00 ± 1.41", "–"]
    assert "over seeds (Student's t), none for fewer than 3 runs" in caption(replace(table, rows=(pair,)))
    assert "fewer than" not in caption(table)


def test_csv_has_every_digit_and_safe_cells(table: SummaryTable, tmp_path: Path) -> None:
    write_scores_csv(tmp_path / "table.csv", table)
    header, *lines = read_csv(tmp_path / "table.csv")
    series, single = (dict(zip(header, line, strict=True)) for line in lines)
    assert float(series["accuracy_mean"]) == statistics.fmean(ACCURACIES)
    assert float(series["accuracy_std"]) == statistics.stdev(ACCURACIES)
    assert (series["n"], series["interval_over"], series["augment.sizes"]) == ("3", "seeds", "0.5 1.0")
    assert (single["name"], single["accuracy_std"], single["macro_f1_mean"]) == (NASTY, "", "")
    assert (tmp_path / "table.csv").read_text().splitlines()[2].startswith("\"'=cmd_1")


def test_latex_has_a_row_for_each_and_nothing_unescaped(table: SummaryTable) -> None:
    text = latex(table)
    body = text.split("\n\\midrule\n")[1].split("\n\\bottomrule\n")[0].strip().splitlines()
    columns = len(cells(table).columns)
    assert rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}" in text
    assert len(body) == 2
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    for begin in re.findall(r"\\begin\{(\w+)\}", text):
        assert rf"\end{{{begin}}}" in text
    assert text.isascii()
    assert "[U+4E2D]" in text
    assert not re.search(r"(?<!\\)[#_%]", "".join(line.split("% ")[0] for line in text.splitlines()))
    assert [line for line in text.splitlines() if "end{table}" in line] == [
        r"% note: a note \end{table}",
        r"\end{table}",
    ]


@pytest.mark.parametrize("character", '\\~^&%$#_{}<>|"')
def test_every_special_character_is_escaped(character: str) -> None:
    assert escaped(character) != character


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
@pytest.mark.parametrize("package", ["", r"\usepackage{booktabs}"])
def test_latex_compiles(package: str, table: SummaryTable, tmp_path: Path) -> None:
    write_latex(tmp_path / "table.tex", table)
    (tmp_path / "page.tex").write_text(
        rf"\documentclass{{article}}{package}\begin{{document}}\input{{table}}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
