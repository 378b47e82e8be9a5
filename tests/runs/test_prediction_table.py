"""A table of predictions: whole lines only, continued only for the same model and options."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.inference.predict_files import FilePrediction, UnreadFile
from resnetlab.runs.csv_files import read_csv
from resnetlab.runs.prediction_table import FORMAT, Columns, PredictionTable

COLUMNS = Columns(("cat", "dog"))
ORIGIN = {
    "format": FORMAT,
    "weights_digest": "abc",
    "classes": ["cat", "dog"],
    "precision": "fp32",
    "rejection_threshold": None,
}
NAMES = ["a.png", '"quoted", and a\nline feed.png', "=1+1.png", os.fsdecode(b"\xff.png"), "ü.png"]


def result(file: str, probability: float = 0.75) -> FilePrediction:
    probabilities = np.array([probability, 1 - probability])
    return FilePrediction(file, np.zeros((1, 1, 3), np.uint8), probabilities, np.argsort(-probabilities), None)


def write(path: Path, names: Sequence[str], *, resume: bool = False, **changes: Any) -> list[str]:
    """Write the predictions that the table lacks, and return their names."""
    with PredictionTable.open(path, COLUMNS, {**ORIGIN, **changes}, resume=resume) as table:
        rest = list(table.remaining(iter(names)))
        table.write([result(name) for name in rest])
        return rest


def test_the_table_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with PredictionTable.open(path, COLUMNS, ORIGIN) as table:
        table.write([result(NAMES[0], 0.1), UnreadFile("bad.png", "bad.png is bad")])
        table.write([result(name, 1 / 3) for name in NAMES[1:]])
    header, *rows = read_csv(path)
    assert header == ["file", "predicted", "probability"]
    assert [row[0] for row in rows] == NAMES
    assert [row[1] for row in rows] == ["dog"] * 5
    assert [float(row[2]) for row in rows] == [0.9, *[1 - 1 / 3] * 4]
    assert json.loads((tmp_path / "a.csv.json").read_text())["weights_digest"] == "abc"


def test_a_table_cut_at_any_byte_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    write(whole, NAMES)
    content = whole.read_bytes()
    for length in range(len(content) + 1):
        path = tmp_path / "cut.csv"
        path.write_bytes(content[:length])
        (tmp_path / "cut.csv.json").write_bytes((tmp_path / "whole.csv.json").read_bytes())
        rest = write(path, NAMES, resume=True)
        assert rest == NAMES[len(NAMES) - len(rest) :]
        assert path.read_bytes() == content, length


def test_a_file_named_twice_is_predicted_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    names = ["a.png", "b.png", "a.png"]
    write(path, names[:2])
    assert write(path, names, resume=True) == ["a.png"]
    assert [row[0] for row in read_csv(path)[1:]] == names


def test_resuming_without_a_table_begins_one(tmp_path: Path) -> None:
    assert write(tmp_path / "a.csv", NAMES, resume=True) == NAMES


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights_digest": "abd"}, "another model"),
        ({"classes": ["dog", "cat"]}, "other classes"),
        ({"precision": "bf16"}, "another precision"),
        ({"rejection_threshold": 0.5}, "another rejection threshold"),
    ],
)
def test_another_origin_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    write(tmp_path / "a.csv", NAMES[:1])
    before = (tmp_path / "a.csv").read_bytes()
    with pytest.raises(BadInput, match=sentence):
        write(tmp_path / "a.csv", NAMES, resume=True, **changes)
    assert (tmp_path / "a.csv").read_bytes() == before


def test_another_file_beside_the_table_is_not_replaced(tmp_path: Path) -> None:
    beside = tmp_path / "a.csv.json"
    beside.write_text('{"mine": 1}')
    with pytest.raises(BadInput, match=r"a\.csv\.json.* is another file"):
        write(tmp_path / "a.csv", NAMES)
    assert beside.read_text() == '{"mine": 1}'
    assert not (tmp_path / "a.csv").exists()


def test_what_is_left_of_a_deleted_table_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", NAMES)
    (tmp_path / "a.csv").unlink()
    write(tmp_path / "a.csv", NAMES, weights_digest="other")
    assert write(tmp_path / "a.csv", NAMES, weights_digest="other", resume=True) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"text", b"\xff", b"{}", b'{"weights_digest": 3}'])
def test_a_damaged_origin_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "a.csv", NAMES[:1])
    (tmp_path / "a.csv.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.csv"):
        write(tmp_path / "a.csv", NAMES, resume=True)


@pytest.mark.parametrize(
    "content",
    [b"file,true\na,b\n", b"file,predicted,probability\na\n", b'file,predicted,probability\na,"b"c,0.1\n', b"x,y\nz"],
)
def test_another_table_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    write(path, [])
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a table of these predictions"):
        write(path, NAMES, resume=True)
    assert path.read_bytes() == content


def test_two_processes_cannot_write_one_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with (
        PredictionTable.open(path, COLUMNS, ORIGIN),
        pytest.raises(BadInput, match="being written by another process"),
        PredictionTable.open(path, COLUMNS, ORIGIN, resume=True),
    ):
        pass


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with PredictionTable.open(path, COLUMNS, ORIGIN) as table:
        table.write([result("a.png")])
        table.file = Full(table.file)  # type: ignore[assignment]
        with pytest.raises(DiskTrouble, match="No space left"):
            table.write([result("b.png")])
    assert [row[0] for row in read_csv(path)] == ["file", "a.png"]


class Full:
    """A file on a disk with room for five more bytes."""

    def __init__(self, file: Any) -> None:
        self.file, self.is_full = file, False

    def write(self, content: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.is_full = True
        return int(self.file.write(content[:5]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_the_columns_of_every_option() -> None:
    columns = Columns(("cat", "dog"), top_k=2, every=True, has_rejected=True)
    assert columns.header == [
        *("file", "predicted", "probability", "rejected", "predicted_2", "probability_2", "cat", "dog")
    ]
    assert columns.row(result("a", 0.25)) == ["a", "dog", 0.75, "false", "cat", 0.25, 0.25, 0.75]


def test_a_class_that_is_called_like_a_column_has_a_longer_name_there(tmp_path: Path) -> None:
    names = ("file", "predicted", "probability", "rejected", "predicted_2", "probability of file", "cat")
    columns = Columns(names, top_k=2, every=True, has_rejected=True)
    assert len(set(columns.header)) == len(columns.header) == 6 + len(names)
    assert columns.header[6:] == [
        "probability of probability of file",
        *(f"probability of {name}" for name in names[1:5]),
        *names[5:],
    ]
    assert Columns(("rejected",), every=True).header[3:] == ["rejected"]  # the table has no other such column
    path, row = tmp_path / "a.csv", np.eye(7)[2]
    for number in (1, 2):
        with PredictionTable.open(path, columns, ORIGIN, resume=number == 2) as table:
            table.write([FilePrediction(f"{number}.png", np.zeros((1, 1, 3), np.uint8), row, np.argsort(-row), False)])
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [line["file"] for line in rows] == ["1.png", "2.png"]
    assert [line["probability of probability"] for line in rows] == ["1.0", "1.0"]


def test_the_rows_are_csv(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", NAMES)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        assert {len(row) for row in csv.reader(lines, strict=True)} == {3}


def test_a_process_that_comes_too_late_does_not_rename_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.csv", {**ORIGIN, "weights_digest": "other"}
    plain = Path.open

    def late(self: Path, *given: Any, **options: Any) -> Any:
        """Another process begins the table in the moment before ours opens it."""
        monkeypatch.setattr(Path, "open", plain)
        with PredictionTable.open(path, COLUMNS, other) as table:
            table.write([result("b.png")])
        return plain(self, *given, **options)

    monkeypatch.setattr(Path, "open", late)
    with (
        pytest.raises(BadInput, match="is being written by another process"),
        PredictionTable.open(path, COLUMNS, ORIGIN, resume=True),
    ):
        pytest.fail("it is not opened")
    assert json.loads((tmp_path / "a.csv.json").read_text())["weights_digest"] == "other"


def test_an_empty_table_without_its_model_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(BadInput, match="exists; resume it"):
        write(tmp_path / "a.csv", NAMES)
    assert write(tmp_path / "a.csv", NAMES, resume=True) == NAMES
    assert (tmp_path / "a.csv.json").exists()


def test_a_link_to_nothing_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(BadInput, match="is not a file; give another name"):
        write(tmp_path / "a.csv", NAMES)
