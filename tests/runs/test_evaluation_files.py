"""What an evaluation leaves on disk says the same everywhere, and can be read back whatever the names are."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import Damaged, DiskTrouble
from resnetlab.evaluation.calibration import Temperature, calibration
from resnetlab.evaluation.metrics import metrics
from resnetlab.plots import style
from resnetlab.runs import evaluation_files
from resnetlab.runs.csv_files import read_csv
from resnetlab.runs.evaluation_files import Evaluation, read_metrics, read_predictions, write_evaluation

CLASSES = ["cat, tabby", 'the "dog"', "two\nlines", "back\rto\r\nstart", "=1+1", "猫", " spaced ", ""]
FACTS = {
    "split": "test",
    "data": "pets {0}",
    "model": "resnet20",
    "tta": "none",
    "weights_digest": "ab" * 32,
    "split_digest": "cd" * 32,
}
TEMPERATURE = Temperature(1.5, "val", "ef" * 32, 9)
TABLES = ("per_class.csv", "predictions.csv", "confusion_matrix.csv")
PICTURES = (
    "confusion_matrix.png",
    "classes.png",
    "calibration.png",
    "risk_coverage.png",
    "samples.png",
    "mistakes.png",
)


def evaluation() -> Evaluation:
    """Seven of the eight classes are there, and images of all sorts of names."""
    numbers = np.random.default_rng(0)
    labels = torch.arange(21) % 7
    scores = numbers.dirichlet(np.ones(8), 21)
    images = torch.from_numpy(numbers.integers(0, 256, (21, 10, 10, 3), dtype=np.uint8))
    names = tuple(f"{CLASSES[label]}/{i}.png" for i, label in enumerate(labels.tolist()))
    names = (*names[:-2], "not utf-8 \udcff.png", "\x1b[2J.png")
    see = Preprocessing(image_size=8, resize_to=10, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Evaluation(scores, Split(images, labels, names), CLASSES, see, FACTS, TEMPERATURE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run") / "evaluation" / "test"
    return folder, write_evaluation(folder, evaluation(), all_probabilities=True)


def test_all_files_are_written_and_nothing_else(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    assert {file.name for file in folder.iterdir()} == {"metrics.json", *TABLES, *PICTURES}
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            picture.verify()


def test_metrics_json_is_what_is_returned_and_has_what_was_promised(written: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = written
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == returned  # no NaN, no Infinity
    assert list(returned)[: len(FACTS)] == list(FACTS)
    assert set(returned) >= {
        *("split", "images", "loss", "accuracy", "top5_accuracy", "macro", "weighted", "per_class"),
        *("weights_digest", "split_digest"),
    }
    assert set(returned["per_class"][0]) >= {"name", "precision", "recall", "f1", "support"}
    made = evaluation()
    assert returned == made.metrics
    assert returned.items() >= metrics(made.probabilities, made.labels, CLASSES).items()
    assert returned["intervals"]["accuracy"][0] < returned["accuracy"] < returned["intervals"]["accuracy"][1]
    assert returned["calibration"] == calibration(made.probabilities, made.labels, TEMPERATURE)
    assert returned["calibration"]["temperature"]["value"] == 1.5


def test_what_is_averaged_over_views_is_named_in_numbers_and_pictures() -> None:
    made = replace(evaluation(), facts=FACTS | {"tta": "flip"})
    assert made.metrics["tta"] == "flip"
    assert made.title == "resnet20 on pets {0}, test split, test-time augmentation: flip"
    assert evaluation().title == "resnet20 on pets {0}, test split"


def test_predictions_have_the_promised_columns_and_every_name_survives(written: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = written
    made = evaluation()
    header, *rows = read_csv(folder / "predictions.csv")
    assert header == ["file", "true", "predicted", "probability", *CLASSES]
    assert [row[0] for row in rows] == list(made.split.names)
    assert [row[1] for row in rows] == [CLASSES[label] for label in made.labels]
    assert [row[2] for row in rows] == [CLASSES[guess] for guess in made.predicted]
    assert sum(row[1] == row[2] for row in rows) / len(rows) == returned["accuracy"]


def test_the_columns_of_all_probabilities_sum_to_one(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    _, *rows = read_csv(folder / "predictions.csv")
    found = np.array([[float(cell) for cell in row[4:]] for row in rows])
    assert np.array_equal(found, evaluation().probabilities)  # to the last bit
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert [float(row[3]) for row in rows] == found.max(1).tolist()


def test_classes_that_are_called_like_columns_have_longer_names_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_files, "draw", lambda *_: None)
    renamed = replace(evaluation(), classes=("file", "true", "predicted", "probability", *"abcd"))
    write_evaluation(tmp_path, renamed, all_probabilities=True)
    header = read_csv(tmp_path / "predictions.csv")[0]
    assert len(set(header)) == len(header)
    assert header[4:6] == ["probability of file", "probability of true"]
    assert header[8:] == [*"abcd"]


def test_without_all_probabilities_there_are_four_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_files, "draw", lambda *_: None)
    write_evaluation(tmp_path, evaluation())
    assert {len(row) for row in read_csv(tmp_path / "predictions.csv")} == {4}


def test_per_class_says_what_metrics_json_says_and_leaves_the_undefined_empty(
    written: tuple[Path, dict[str, Any]],
) -> None:
    folder, returned = written
    header, *rows = read_csv(folder / "per_class.csv")
    assert header == ["class", "precision", "recall", "f1", "support", "roc_auc"]
    for row, said in zip(rows, returned["per_class"], strict=True):
        assert row[0] == said["name"]
        assert [float(cell) if cell else None for cell in row[1:]] == [
            said["precision"],
            said["recall"],
            said["f1"],
            said["support"],
            said["roc_auc"],
        ]
    assert rows[-1][2] == ""  # no image of the last class, so no recall


def test_the_confusion_matrix_adds_up(written: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = written
    header, *rows = read_csv(folder / "confusion_matrix.csv")
    assert header[1:] == [row[0] for row in rows] == CLASSES
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum(1).tolist() == [row["support"] for row in returned["per_class"]]
    assert counts.trace() / counts.sum() == returned["accuracy"]


def test_metrics_json_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is, all is there: a run that dies while drawing has not been scored."""

    def fail(*_: object) -> None:
        raise DiskTrouble("the disk is full")

    monkeypatch.setattr(style, "save", fail)
    with pytest.raises(DiskTrouble):
        write_evaluation(tmp_path, evaluation())
    assert {file.name for file in tmp_path.iterdir()} == set(TABLES)


def test_a_folder_that_cannot_be_made_is_trouble_with_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(DiskTrouble, match="could not make"):
        write_evaluation(tmp_path / "a file" / "test", evaluation())


STRANGE = ["=cmd", "+1", "-1", "@home", "'quoted'", "'=x"]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """An evaluation whose names of classes and images are formulas."""
    folder = tmp_path_factory.mktemp("strange")
    labels = np.arange(12) % len(STRANGE)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(STRANGE)), 12)
    names = tuple(f"{STRANGE[label]}/{number}" for number, label in enumerate(labels))
    split = Split(torch.zeros(12, 8, 8, 3, dtype=torch.uint8), torch.from_numpy(labels), names)
    made = replace(evaluation(), probabilities=probabilities, split=split, classes=STRANGE)
    made = replace(made, facts=FACTS | {"split_digest": split.digest})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_files, "draw", lambda *_: None)
        write_evaluation(folder, made)
    return folder, made


def test_the_reader_gives_back_what_was_written_names_that_are_formulas_included(
    strange: tuple[Path, Evaluation],
) -> None:
    folder, made = strange
    metrics = read_metrics(folder)
    assert metrics is not None
    assert metrics == made.metrics
    found = read_predictions(folder, metrics)
    assert found.names == made.split.names
    np.testing.assert_array_equal(found.labels, made.labels)
    np.testing.assert_array_equal(found.predicted, made.predicted)
    np.testing.assert_array_equal(found.probability, made.probabilities.max(1))
    for name in TABLES:
        with (folder / name).open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells), name


def test_without_metrics_json_there_are_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) is None
    assert read_metrics(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": "high"},
        {"images": True},
        {"per_class": None},
        {"per_class": [{"name": "cat"}]},
        {"split_digest": 3},
        {"macro": {}},
    ],
    ids=str,
)
def test_damaged_metrics_are_an_error_with_the_command_that_writes_them_again(
    change: dict[str, Any], strange: tuple[Path, Evaluation], tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "evaluation" / "val-flip-shift"
    shutil.copytree(strange[0], folder)
    file = folder / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    again = re.escape(f"run: `resnetlab.evaluate('{tmp_path / 'run'}', split='val', tta='flip-shift')`")
    with pytest.raises(Damaged, match=rf"metrics.json is damaged: .*; {again}"):
        read_metrics(folder)
    for text in ("{", "[]", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(Damaged, match=r"metrics\.json is damaged"):
            read_metrics(folder)


def test_damaged_test_scores_give_no_advice_to_use_the_test_set_again(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "evaluation" / "test"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(Damaged, match="restore it from a copy, because") as refused:
        read_metrics(folder)
    assert "--split test" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "not a table of predictions"),
        (lambda text: text.replace("probability", "share"), "other columns"),
        (lambda text: text.rsplit("\n", 2)[0] + "\n", "other images or labels"),
        (lambda text: text.replace("+1", "+2"), "not a table of predictions"),
        (lambda text: text.replace(",'+1,", ",'-1,"), "differs from that in metrics.json|other images or labels"),
    ],
)
def test_predictions_of_other_scores_are_an_error(
    damage: Any, reason: str, strange: tuple[Path, Evaluation], tmp_path: Path
) -> None:
    folder = shutil.copytree(strange[0], tmp_path / "run" / "evaluation" / "test")
    metrics, file = read_metrics(folder), folder / "predictions.csv"
    assert metrics is not None
    file.write_text(damage(file.read_text()))
    with pytest.raises(Damaged, match=reason):
        read_predictions(folder, metrics)
    file.unlink()
    with pytest.raises(Damaged, match=r"predictions\.csv is missing; restore it from a copy"):
        read_predictions(folder, metrics)
