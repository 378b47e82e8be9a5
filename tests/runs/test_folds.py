"""Cross-validation: one run for each fold, and the predictions of all folds scored as one set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, f1_score, log_loss

from resnetlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ("train", "--model", "tiny", "--batch-size", "256", "--precision", "fp32", "--epochs", "1")


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def untimed(summary: dict[str, Any]) -> dict[str, Any]:
    together = {name: value for name, value in summary["together"].items() if name != "train_seconds"}
    return summary | {"together": together, "runs": [run | {"train_seconds": 0} for run in summary["runs"]]}


@pytest.mark.slow
def test_the_predictions_of_all_folds_are_scored_as_one_set(command: Any, tmp_path: Path) -> None:
    words = (*TINY, "--folds", 3, "--data.classes", "0,1,2,3", "--out")
    code, out, err = command(*words, "cv")
    assert code == 0, err
    folder = tmp_path / "cv"
    runs = [RunFolder.open(folder / f"fold-{number}") for number in (1, 2, 3)]
    with (folder / "evaluation/test/predictions.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    labels = load_digits().target
    wanted = {f"digits/{i:04d}": str(label) for i, label in enumerate(labels) if label < 4}
    assert {row["file"]: row["true"] for row in rows} == wanted  # every image once
    assert len(rows) == len(wanted)
    true, predicted = [row["true"] for row in rows], [row["predicted"] for row in rows]
    scores = np.array([[float(row[name]) for name in "0123"] for row in rows])
    pooled = json.loads((folder / "evaluation/test/metrics.json").read_text())
    assert pooled["images"] == len(rows)
    assert pooled["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert pooled["macro"]["f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert pooled["loss"] == pytest.approx(log_loss(true, scores), rel=1e-5)
    low, high = pooled["intervals"]["accuracy"]
    assert low < pooled["accuracy"] < high
    summary = read(folder)
    assert summary["folds"] == [1, 2, 3]
    assert summary["pooled"]["accuracy"] == pooled["accuracy"]
    assert [row["accuracy"] for row in summary["runs"]] == [(r.final_metrics("test") or {})["accuracy"] for r in runs]
    assert summary["together"]["accuracy"]["interval"] is None
    assert f"accuracy {pooled['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})" in out
    assert "each scored once, in one of 3 folds" in out
    assert command("runs", "cv")[1].count("finished") == 3
    assert command(*words, "other", "--lr", 0.001)[0] == 0
    code, out, err = command("compare", "cv", "other", "--out", "page")
    assert code == 0, err
    assert f"2 runs on the {len(rows)} images of the test split of digits" in " ".join(out.split())
    assert "scored on different test splits" in command.refuse("compare", "cv", "cv/fold-1")
    assert command("report", "cv")[0] == 0
    page = (folder / "report.html").read_text()
    assert f'data-from="test/accuracy">{100 * pooled["accuracy"]:.2f} %' in page
    assert f"On the {len(rows)} test images of all 3 folds" in page
    for run in runs:
        assert f'{run.path.name}</th><td class="number">{(run.final_metrics("test") or {})["images"]}</td>' in page
    assert "resnetlab train quickstart --data.classes 0,1,2,3 --folds 3 --model tiny" in page


@pytest.mark.slow
def test_a_cross_validation_resumes_to_the_same_result(command: Any, tmp_path: Path) -> None:
    assert command(*TINY, "--folds", 2, "--out", "straight")[0] == 0
    words = (*TINY, "--folds", 2, "--out", "stopped")
    code, _, err = command(*words, "--max-minutes", 0)
    assert code == 6
    assert "fold 1: stopped by the time limit" in err
    assert read(tmp_path / "stopped")["pooled"] is None
    assert "not all folds in stopped are scored" in command.refuse("report", "stopped")
    assert "was 2, now 3" in command.refuse(*TINY, "--folds", 3, "--out", "stopped", "--resume", "auto")
    assert command(*words, "--resume", "auto")[0] == 0
    assert untimed(read(tmp_path / "stopped")) == untimed(read(tmp_path / "straight"))
    pooled = [(tmp_path / name / "evaluation/test/predictions.csv").read_bytes() for name in ("straight", "stopped")]
    assert pooled[0] == pooled[1]
    file = tmp_path / "stopped/fold-2/evaluation/test/predictions.csv"
    file.write_text("\n".join(",".join(line.split(",")[:4]) for line in file.read_text().splitlines()) + "\n")
    (tmp_path / "stopped/evaluation/test/metrics.json").unlink()
    assert "lacks the probability of every class; run: resnetlab evaluate" in command.refuse("resume", "stopped")
    assert command("evaluate", "stopped/fold-2", "--split", "test", "--all-probabilities")[0] == 0
    assert command("resume", "stopped")[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folds", "1"], "--folds is 1, but a cross-validation needs 2 folds or more"),
        (["--folds", "2", "--seeds", "2"], "--folds and --seeds cannot be combined"),
        (["--folds", "2", "--final-test", "never"], "keep --final-test once"),
        (["--folds", "2", "--data.fold", "1"], "--folds trains every fold; omit --data.fold"),
        (
            ["--data.folds", "2"],
            "the number of the fold is missing; give --data.fold, or train all folds with `resnetlab train --folds 2`",
        ),
        (["--data.fold", "2"], "the number of folds is missing"),
        (["--data.folds", "2", "--data.fold", "3"], "must be in 1..2"),
        (["--folds", "2000"], "cannot be divided into 2000 folds"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    command: Any, tmp_path: Path, words: list[str], sentence: str
) -> None:
    assert sentence in command.refuse("train", *words)
    assert not list(tmp_path.iterdir())


def test_a_class_may_be_called_like_a_column(command: Any, tmp_path: Path) -> None:
    """The probabilities of such a class are in a column with a longer name."""
    words = ("--data.classes", "0,1", "--data.merge", "true=0", "predicted=1", "--folds", 2, "--out", "cv")
    code, _, err = command(*TINY, *words)
    assert code == 0, err
    assert [row["name"] for row in read(tmp_path / "cv")["pooled"]["per_class"]] == ["true", "predicted"]
