"""CSV files that are written whole, safe to open in a spreadsheet, and read back exactly.

A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return as a formula. Such text gets a
leading apostrophe, which marks it as text there; `read_csv` removes it. Text that has apostrophes before one of these
characters gets one more, so that every cell is restored. Numbers are written as numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from resnetlab.files import read_regular, write_text

FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_csv(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all; None becomes an empty cell. Raises DiskTrouble."""
    write_text(path, "".join(csv_line([cell(value) for value in row]) for row in (header, *rows)))


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a table, the header first, as `write_csv` was given them; numbers are text.

    Raises OSError, ValueError if the file is not UTF-8, and csv.Error if it is not CSV.
    """
    lines = io.StringIO(read_regular(path).decode(errors="surrogateescape"), newline="")
    return [[text_of(value) for value in row] for row in csv.reader(lines, strict=True)]


def cell(value: object) -> object:
    """A value as it is written: formulas with a leading apostrophe, None empty.

    >>> cell("=1+1"), cell("a=1"), cell(-0.5), cell("'-"), cell(None)
    ("'=1+1", 'a=1', -0.5, "''-", '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def text_of(value: str) -> str:
    """The inverse of `cell` for text.

    >>> text_of("'=1+1"), text_of("'quoted'"), text_of("-0.5")
    ('=1+1', "'quoted'", '-0.5')
    """
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value


def class_columns(classes: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return a column for the probability of each class, named after it, and different from all other columns.

    >>> class_columns(["cat", "file"], ["file", "predicted"])
    ['cat', 'probability of file']
    """
    taken, columns = {*others, *classes}, []
    for name in classes:
        column = name
        while column in others or (column != name and column in taken):
            column = f"probability of {column}"
        taken.add(column)
        columns.append(column)
    return columns


def csv_line(row: Sequence[object]) -> str:
    """One line of CSV. The writer ends it with CR LF, because Python 3.11 quotes a cell with a CR only then."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n") + "\n"
