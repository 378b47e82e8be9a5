"""What an evaluation leaves on disk says the same everywhere, and can be read back whatever the names are."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import DiskTrouble
from resnetlab.evaluation.calibration import Temperature, calibration
from resnetlab.evaluation.metrics import metrics
from resnetlab.plots import style
from resnetlab.runs.evaluation_files import Evaluation, write_csv, write_evaluation

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
PICTURES = ("confusion_matrix.png", "classes.png", "calibration.png", "samples.png", "mistakes.png")


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


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file, strict=True))


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
    assert returned == made.metrics()
    assert returned.items() >= metrics(made.probabilities, made.labels, CLASSES).items()
    assert returned["intervals"]["accuracy"][0] < returned["accuracy"] < returned["intervals"]["accuracy"][1]
    assert returned["calibration"] == calibration(made.probabilities, made.labels, TEMPERATURE)
    assert returned["calibration"]["temperature"]["value"] == 1.5


def test_what_is_averaged_over_views_is_named_in_numbers_and_pictures() -> None:
    made = replace(evaluation(), facts=FACTS | {"tta": "flip"})
    assert made.metrics()["tta"] == "flip"
    assert made.title == "resnet20 on pets {0}, test split, test-time augmentation: flip"
    assert evaluation().title == "resnet20 on pets {0}, test split"


def test_predictions_have_the_promised_columns_and_every_name_survives(written: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = written
    made = evaluation()
    header, *rows = table(folder / "predictions.csv")
    assert header == ["file", "true", "predicted", "probability", *CLASSES]
    assert [row[0] for row in rows] == list(made.split.names)
    assert [row[1] for row in rows] == [CLASSES[label] for label in made.labels]
    assert [row[2] for row in rows] == [CLASSES[guess] for guess in made.predicted]
    assert sum(row[1] == row[2] for row in rows) / len(rows) == returned["accuracy"]


def test_the_columns_of_all_probabilities_sum_to_one(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    _, *rows = table(folder / "predictions.csv")
    found = np.array([[float(cell) for cell in row[4:]] for row in rows])
    assert np.array_equal(found, evaluation().probabilities)  # to the last bit
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert [float(row[3]) for row in rows] == found.max(1).tolist()


def test_without_all_probabilities_there_are_four_columns(tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation())
    assert {len(row) for row in table(tmp_path / "predictions.csv")} == {4}


def test_per_class_says_what_metrics_json_says_and_leaves_the_undefined_empty(
    written: tuple[Path, dict[str, Any]],
) -> None:
    folder, returned = written
    header, *rows = table(folder / "per_class.csv")
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
    header, *rows = table(folder / "confusion_matrix.csv")
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


@pytest.mark.parametrize("cell", ["", "a", ",", '"', "\n", "\r", "\r\n", "a\rb", '","', "\udcff", " ", "\t", ";", "'"])
def test_any_cell_survives(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ["one", cell], [[cell, "x"], ["y", cell], [None, 0.1]])
    assert table(path) == [["one", cell], [cell, "x"], ["y", cell], ["", "0.1"]]


def test_a_table_of_plain_cells_is_plain_lines(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["a", "b"], [[1, 0.1 + 0.2], ["c", None]])
    assert (tmp_path / "a.csv").read_bytes() == b"a,b\n1,0.30000000000000004\nc,\n"
