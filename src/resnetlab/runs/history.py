"""The finished epochs of a run, in memory and as lines of metrics.jsonl and metrics.csv."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable
from resnetlab.files import read_regular, room, write_text
from resnetlab.runs.csv_files import cell, csv_line

if TYPE_CHECKING:
    from resnetlab.training.loop import EpochReport

Row = Mapping[str, Any]
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "train_seconds",
    "images_per_second",
)


class History:
    """The finished epochs of a run, as records that are appended to its files; without a folder, only in memory."""

    def __init__(self, folder: Path | None, rows: Sequence[Row] = ()) -> None:
        self.rows: list[Row] = list(rows)
        self.tables: list[Table] = []
        if folder is not None:
            self.tables.append(Table(folder / "metrics.jsonl", "", json_line))
            self.tables.append(Table(folder / "metrics.csv", csv_line(COLUMNS), csv_row))

    @classmethod
    def reopened(cls, folder: Path, epochs: int) -> History:
        """The first `epochs` epochs on record. Later ones, from after the checkpoint, are removed from the files."""
        history = cls(folder, read_rows(folder)[:epochs])
        for table in history.tables:
            table.require(history.rows)
        return history

    def add(self, report: EpochReport) -> None:
        """Add an epoch, in memory; `write` appends it to the files."""
        self.rows.append(row_of(report))

    def write(self) -> None:
        """Append missing epochs to each file. Raises DiskTrouble; the next call then repeats the append."""
        for table in self.tables:
            table.append(self.rows)


class Table:
    """A text file with a line for each row, to which rows are appended and flushed to disk."""

    def __init__(self, path: Path, header: str, line: Callable[[Row], str]) -> None:
        self.path, self.header, self.line = path, header, line
        self.count = 0  # rows in the first `size` bytes of the file; later bytes are from an append that failed
        self.size = 0

    def append(self, rows: Sequence[Row]) -> None:
        """Append missing rows; a file that has become shorter is written again."""
        if self.count == len(rows):
            return
        content = "".join(map(self.line, rows[self.count :])).encode()
        if not self.size or not self.path.exists() or self.path.stat().st_size < self.size:
            self.replace(rows)
            return
        try:
            with self.path.open("r+b") as file:
                file.truncate(self.size)
                file.seek(self.size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            why = f"{error.strerror or error}{room(self.path, len(content))}"
            raise DiskTrouble(f"could not write {printable(self.path)}: {why}") from error
        self.count, self.size = len(rows), self.size + len(content)

    def require(self, rows: Sequence[Row]) -> None:
        """Write the file again unless it contains exactly these rows."""
        text = self.text(rows)
        if rows and self.path.exists() and read_regular(self.path) == text:
            self.count, self.size = len(rows), len(text)
        elif rows or self.path.exists():
            self.replace(rows)

    def replace(self, rows: Sequence[Row]) -> None:
        text = self.text(rows)
        write_text(self.path, text.decode())
        self.count, self.size = len(rows), len(text)

    def text(self, rows: Sequence[Row]) -> bytes:
        return (self.header + "".join(map(self.line, rows))).encode()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The finished epochs in metrics.jsonl. An unfinished last line, from an interrupted append, is ignored.

    Raises BadInput if the file cannot be read, Damaged if a line is not the record of an epoch.
    """
    file = folder / "metrics.jsonl"
    if not file.exists():
        return []
    try:
        lines = read_regular(file).decode().split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
    except OSError as error:
        raise BadInput(f"could not read {printable(file)}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"could not read {printable(file)}: {printable(error)}") from error
    for number, row in enumerate(rows, 1):
        if not is_row(row):
            raise Damaged(f"could not read {printable(file)}: line {number} is not the record of an epoch")
    return rows


def is_row(row: object) -> bool:
    """Return True for a record with a number in each of `COLUMNS`."""
    return isinstance(row, dict) and all(type(row.get(column)) in (int, float) for column in COLUMNS)


def row_of(report: EpochReport) -> dict[str, Any]:
    """An epoch as a flat record, a line of metrics.jsonl; metrics.csv has the keys in `COLUMNS`."""
    flat = asdict(report)
    train, val = flat.pop("train"), flat.pop("val")
    return flat | {
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "val_loss": val["loss"],
        "val_accuracy": val["accuracy"],
        "val_macro_f1": val["macro_f1"],
    }


def json_line(row: Row) -> str:
    return json.dumps(row) + "\n"


def csv_row(row: Row) -> str:
    return csv_line([cell(row[column]) for column in COLUMNS])
