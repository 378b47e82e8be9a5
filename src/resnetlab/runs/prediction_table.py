"""A CSV file of predictions that grows batch by batch, and that the same command can continue.

Beside `NAME.csv` stands `NAME.csv.json` with the model and the options that the predictions are of. Only whole lines
are written; what a killed process or a full disk has left of a line is removed before the file is continued.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import read_regular, room, write_json
from resnetlab.inference.predict import Classifier
from resnetlab.inference.predict_files import FilePrediction, FileResult
from resnetlab.runs.csv_files import cell, class_columns, csv_line, text_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = "resnetlab-predictions"


def origin_of(classifier: Classifier, threshold: float | None) -> dict[str, Any]:
    """Return what predictions depend on besides the image: the model, its precision, and the rejection threshold."""
    validation = classifier.model.validation
    return {
        "format": FORMAT,
        "weights_digest": classifier.model.weights_digest,
        "classes": list(classifier.classes),
        "preprocessing": classifier.model.preprocessing.to_json(),
        "temperature": 1.0 if validation is None else validation.temperature,
        "precision": classifier.runtime.precision_name,
        "rejection_threshold": threshold,
    }


WORDS = {
    "format": "another format",
    "weights_digest": "another model (the weights differ)",
    "classes": "a model with other classes",
    "preprocessing": "a model with other preprocessing",
    "temperature": "a model with another temperature",
    "precision": "another precision",
    "rejection_threshold": "another rejection threshold",
    "columns": "other options (the columns differ)",
    "sort_into": "images that were sorted into another folder",
    "sorted_as": "images that were sorted the other way",
}
"""The differences in words, by the key in the file."""


def require_same_origin(file: Path, origin: Mapping[str, Any], name: Path) -> None:
    """Raise BadInput, with the difference, unless a file of `origin_of`'s facts has the same; `name` is what it is of.

    A value that is a number or a short word is part of the message.
    """
    try:
        found = json.loads(read_regular(file).decode())
    except OSError as error:
        raise BadInput(f"could not read {printable(file)}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{printable(file)} is damaged: it is not JSON; begin with a new name") from error
    now = json.loads(json.dumps(origin))
    for key, words in WORDS.items():
        before = found.get(key) if isinstance(found, dict) else None
        if before != now.get(key):
            pair = [printable("none" if value is None else value) for value in (before, now.get(key))]
            values = f" ({pair[0]}, not {pair[1]})" if max(map(len, pair)) <= 24 else ""
            raise BadInput(f"{printable(name)} is of {words}{values}; give another name")


def is_origin(file: Path) -> bool:
    """Return True for a file of `origin_of`'s facts, as an earlier table of the same name has left it."""
    try:
        found = json.loads(read_regular(file).decode())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


@dataclass(frozen=True)
class Columns:
    """The columns of the table: file, predicted, probability, and the optional ones.

    `top_k` adds the second class up to the K-th, each with its probability; `has_rejected` a column that is true or
    false; `every` the probability of every class. A class that is called like another column has a longer name here.
    """

    classes: tuple[str, ...]
    top_k: int = 1
    every: bool = False
    has_rejected: bool = False

    @property
    def header(self) -> list[str]:
        more = [f"{name}_{place}" for place in range(2, self.top_k + 1) for name in ("predicted", "probability")]
        rejected = ["rejected"] * self.has_rejected
        others = ["file", "predicted", "probability", *rejected, *more]
        return [*others, *(class_columns(self.classes, others) if self.every else ())]

    def row(self, result: FilePrediction) -> list[object]:
        top = [(self.classes[i], float(result.probabilities[i])) for i in result.order[: self.top_k].tolist()]
        rejected = [str(bool(result.is_rejected)).lower()] * self.has_rejected
        every = result.probabilities.tolist() if self.every else ()
        return [result.file, *top[0], *rejected, *(value for pair in top[1:] for value in pair), *every]


class PredictionTable:
    """An open CSV file to which predictions are appended.

    `done` counts the predictions that it had when it was opened, by file; `had` is their number.
    """

    def __init__(self, path: Path, file: BinaryIO, columns: Columns, done: Counter[str]) -> None:
        self.path, self.file, self.columns, self.done = path, file, columns, done
        self.had = done.total()

    @classmethod
    @contextmanager
    def open(cls, path: Path, columns: Columns, origin: Mapping[str, Any], *, resume: bool = False) -> Iterator[Self]:
        """Open a new table or, with `resume`, continue one of the same origin and columns.

        Raises BadInput if the table exists and is not to be continued, or is of another origin, is damaged, or is being
        written by another process; DiskTrouble if it cannot be written.
        """
        facts = {**origin, "columns": columns.header}
        beside = path.with_name(f"{path.name}.json")
        is_there = os.path.lexists(path)
        # Empty and without a record of its model, it was left by a process that ended before it could write that.
        is_new = not is_there or (resume and path.is_file() and path.stat().st_size == 0 and not beside.exists())
        if not is_new:
            if not path.is_file():
                raise BadInput(f"{printable(path)} is not a file; give another name")
            if not resume:
                raise BadInput(f"{printable(path)} exists; resume it, or give another name")
            if not beside.exists():
                raise BadInput(
                    f"{printable(path)} cannot be continued: {printable(beside.name)}, which names its model, is "
                    "missing; give another name"
                )
            require_same_origin(beside, facts, path)
        elif beside.exists() and not is_origin(beside):
            raise BadInput(f"{printable(beside)}, which would name the model, is another file; give another name")
        try:
            file = path.open("r+b" if is_there else "x+b", buffering=0)
        except FileExistsError as error:  # it was not there a moment ago
            raise BadInput(f"{printable(path)} is being written by another process") from error
        except OSError as error:
            raise DiskTrouble(f"could not write {printable(path)}: {error.strerror or error}") from error
        with file:
            _lock(file, path)
            if is_new:  # now that no other process can: its table would get the record of our model
                write_json(beside, facts)
            table = cls(path, file, columns, _keep_whole_records(file, path, columns.header))
            if file.tell() == 0:
                table._append(csv_line([cell(name) for name in columns.header]))
            try:
                yield table
            finally:
                table.flush()

    def remaining(self, files: Iterator[str]) -> Iterator[str]:
        """Yield the files that the table has no prediction of; a file that is named twice is predicted twice."""
        for file in files:
            if self.done.get(file):
                self.done[file] -= 1
            else:
                yield file

    def write(self, results: Sequence[FileResult]) -> None:
        """Append the predictions of a batch; files that could not be read have no line."""
        rows = (self.columns.row(result) for result in results if isinstance(result, FilePrediction))
        self._append("".join(csv_line([cell(value) for value in row]) for row in rows))

    def flush(self) -> None:
        """Flush the table to the disk."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise DiskTrouble(f"could not write {printable(self.path)}: {error.strerror or error}") from error

    def _append(self, text: str) -> None:
        """Append whole lines; if the disk is full, none of them."""
        content, end = memoryview(text.encode("utf-8", "surrogateescape")), self.file.tell()
        try:
            while content:
                content = content[self.file.write(content) :]
        except OSError as error:
            self.file.seek(end)
            self.file.truncate()
            reason = f"{error.strerror or error}{room(self.path, len(content))}"
            raise DiskTrouble(f"could not write {printable(self.path)}: {reason}") from error


def _lock(file: Any, path: Path) -> None:
    """Lock the table until it is closed. Raises BadInput if another process writes it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(f"{printable(path)} is being written by another process") from error
    except OSError as error:
        raise DiskTrouble(f"could not lock {printable(path)}: {error.strerror or error}") from error


def _keep_whole_records(file: Any, path: Path, header: Sequence[str]) -> Counter[str]:
    """Remove an unfinished last record, go to the end, and count the records by file.

    Raises BadInput for a table with other columns, or with a record that is not of them.
    """
    end = at = quotes = 0
    for line in _lines(path):
        at, quotes = at + len(line), quotes + line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:  # a line feed inside quotes belongs to a name
            end = at
    done: Counter[str] = Counter()
    text = (line.decode("utf-8", "surrogateescape") for line in _lines(path, end))
    try:
        for number, row in enumerate(csv.reader(text, strict=True)):
            if len(row) != len(header) or (number == 0 and [text_of(value) for value in row] != list(header)):
                raise ValueError(f"record {number + 1} has other columns")
            if number:
                done[text_of(row[0])] += 1
    except (ValueError, csv.Error) as error:
        raise BadInput(
            f"{printable(path)} is not a table of these predictions ({printable(error)}); give another name"
        ) from error
    file.truncate(end)
    file.seek(end)
    return done


def _lines(path: Path, end: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a file, up to the byte `end`."""
    at = 0
    with path.open("rb") as lines:
        for line in lines:
            if at == end:
                return
            at += len(line)
            yield line
