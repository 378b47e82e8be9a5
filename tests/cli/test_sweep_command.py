"""The command line of a sweep: what it refuses, prints and writes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ("--model", "tiny", "--epochs", 1, "--pruner", "none")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text('"optim.lr" = {low = 0.01, high = 0.1, log = true}\n[augment]\nflip = [true, false]\n')
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--space is missing"),
        (("--space", "space.toml"), "--trials is missing"),
        (("--space", "none.toml", "--trials", 1), "could not read space file none.toml"),
        (("--space", "space.toml", "--trials", 0), "--trials is 0, but a sweep needs 1 trial or more"),
        (("--space", "space.toml", "--trials", "many"), "--trials is 'many', but must be a whole number"),
        (("--space", "space.toml", "--trials", 1, "--lr", 0.1), "--lr is given, but the search space varies it"),
        (("--space", "space.toml", "--trials", 1, "--final-test", "once"), "--final-test has no effect: no trial uses"),
        (("--space", "wrong.toml", "--trials", 1), "--lr is -1, but must be greater than 0"),
        (
            ("--space", "lengths.toml", "--trials", 1, "--epochs", 3),
            "--epochs is given, but the search space varies it",
        ),
    ],
)
def test_bad_input_is_a_sentence(words: Any, sentence: str, space: Path, command: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "wrong.toml").write_text('"optim.lr" = [-1]')
    (tmp_path / "lengths.toml").write_text('"steps" = [10, 20]')
    assert sentence in command.refuse("sweep", *words)
    assert not (tmp_path / "runs").exists()


def test_without_optuna_the_error_says_what_to_install(space: Path, command: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert "pip install 'resnetlab[sweep]'" in command.refuse("sweep", "--space", space, "--trials", 1, *TINY)


def test_a_line_for_each_trial_a_table_a_page_and_a_recipe(space: Path, command: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    level = logging.getLogger("resnetlab.runs").level
    code, said, err = command("sweep", "--space", space, "--trials", 2, *TINY, "--final")
    assert (code, err) == (0, "")
    lines = said.splitlines()
    assert [line[:10] for line in lines[:4]] == ["trial    0", "trial    0", "trial    1", "trial    1"]
    assert "--lr 0.0" in lines[0]
    assert "--augment.flip o" in lines[0]
    assert "2 of 2 trials done" in lines[3]
    assert "epoch 1/1" not in said, "the log of each trial is in its folder"
    assert "2 trials: 2 complete" in said
    folder = tmp_path / "runs" / "sweep-quickstart"
    assert f"train it again: resnetlab train --config {folder.relative_to(tmp_path) / 'best.json'}" in said
    assert "test  accuracy" in said
    assert (folder / "sweep.html").exists()
    assert logging.getLogger("resnetlab.runs").level == level
