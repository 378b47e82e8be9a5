"""CSV cells survive the round trip, and none of them is a formula in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnetlab.runs.csv_files import read_csv, write_csv

CELLS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("=+-@\t\r\n'\",;\udc80\udcff"), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6))
def test_every_text_is_read_back_exactly(table: list[list[str]], tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", *table[:1], table[1:])
    assert read_csv(tmp_path / "a.csv") == table


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.sampled_from("=+-@\t\r"), rest=CELLS)
def test_no_text_begins_like_a_formula(first: str, rest: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [first + rest], [[rest]])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert cells[0] == "'" + first + rest
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)


@pytest.mark.parametrize("cell", ["", "a", ",", '"', "\n", "\r", "\r\n", "a\rb", '","', "\udcff", " ", "\t", ";", "'"])
def test_awkward_cells_survive(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ["one", cell], [[cell, "x"], ["y", cell], [None, 0.1]])
    assert read_csv(path) == [["one", cell], [cell, "x"], ["y", cell], ["", "0.1"]]


def test_numbers_stay_numbers_and_plain_cells_plain(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["a", "b"], [[1, 0.1 + 0.2], ["c", None], [-1.5, "d'e"]])
    assert (tmp_path / "a.csv").read_bytes() == b"a,b\n1,0.30000000000000004\nc,\n-1.5,d'e\n"


def test_an_unprotected_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,x\n=1+1,-0.5\n@home,'quoted'\n")
    assert read_csv(tmp_path / "a.csv") == [["file", "x"], ["=1+1", "-0.5"], ["@home", "'quoted'"]]
