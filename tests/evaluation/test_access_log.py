"""The ledger keeps every look, whoever writes beside it and whatever happens to its lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetlab.evaluation.access_log import Access, AccessLog, Count, append, look_in, read

LOOK = Access(
    when="2026-01-02T03:04:05.000006+00:00",
    command=("resnetlab", "evaluate", "run", "--split", "test"),
    run="run",
    model="resnet20",
    weights_digest="ab" * 32,
    data="pets",
    split_digest="cd" * 32,
    images=359,
    tta="none",
)


def ledger(root: Path, run: str | None = "run") -> AccessLog:
    return AccessLog(run, (root / str(run) / "evaluation" / "ledger.jsonl", root / "test-ledger.jsonl"))


def ready(root: Path, *runs: str) -> Path:
    for run in runs or ("run",):
        (root / run).mkdir()
    return root


def test_a_look_is_one_line_in_each_file_and_read_back_equal(tmp_path: Path) -> None:
    book = ledger(ready(tmp_path))
    odd = replace(LOOK, command=("resnetlab", "a\nb", "\udcff", "猫"), run=None, data="\x1b[2J", images=0)
    for look in (LOOK, odd):
        assert book.record(look) == []
    for file in book.files:
        assert file.read_bytes().count(b"\n") == 2
        assert read(file) == ([LOOK, odd], [])
    assert book.looks() == ([LOOK, odd], [])


def test_where_no_ledger_is_there_are_no_looks_and_no_complaints(tmp_path: Path) -> None:
    assert ledger(tmp_path).looks() == ([], [])
    assert ledger(tmp_path).count("x", "y") == Count(by_model=0, runs=0, looks=0)


def test_counts_of_models_and_runs_are_of_one_test_set_alone(tmp_path: Path) -> None:
    ready(tmp_path, "a", "b", "c")
    looks = {
        "a": [LOOK, replace(LOOK, when="2"), replace(LOOK, when="3", weights_digest="longer")],
        "b": [replace(LOOK, run="b", weights_digest="b")],
        "c": [replace(LOOK, run="c", weights_digest="c", split_digest="another")],
    }
    for run, several in looks.items():
        for look in several:
            ledger(tmp_path, run).record(replace(look, run=run))
    ledger(tmp_path, "a").record(replace(LOOK, run=None, weights_digest="a file"))
    assert ledger(tmp_path, "a").count(LOOK.weights_digest, LOOK.split_digest) == Count(2, 3, 5)
    assert ledger(tmp_path, "b").count("b", LOOK.split_digest) == Count(1, 3, 5)
    assert ledger(tmp_path, "c").count("c", "another") == Count(1, 1, 1)


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (Count(1, 14, 20), "this model 1 time; 14 runs were scored on this test set"),
        (Count(2, 1, 2), "this model 2 times; 1 run was scored on this test set"),
        (Count(0, 1234, 5000), "this model 0 times; 1,234 runs were scored on this test set"),
    ],
)
def test_both_counts_are_said(count: Count, sentence: str) -> None:
    assert count.sentence() == sentence


def test_a_run_that_was_moved_takes_its_looks_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    ledger(ready(old)).record(LOOK)
    (old / "run").rename(new / "run")
    assert ledger(new).count(LOOK.weights_digest, LOOK.split_digest) == Count(1, 1, 1)


def test_a_file_that_cannot_be_written_is_told_and_the_other_has_the_look(tmp_path: Path) -> None:
    book = ledger(ready(tmp_path))
    book.files[1].mkdir()
    (told,) = book.record(LOOK)
    assert told.startswith("this look at the test set is missing in its ledger: ")
    assert "test-ledger.jsonl could not be written: Is a directory" in told
    looks, (note,) = book.looks()
    assert looks == [LOOK]
    assert "test-ledger.jsonl could not be read: Is a directory" in note


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told_of_but_can_be_read(tmp_path: Path) -> None:
    book = ledger(ready(tmp_path))
    assert book.record(LOOK) == []
    tmp_path.chmod(0o500)
    (tmp_path / "test-ledger.jsonl").chmod(0o400)
    assert len(book.record(replace(LOOK, when="2"))) == 1
    assert len(book.looks()[0]) == 2
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"\xff\x00",
        b"[1, 2]",
        b"null",
        b"{}",
        b"[" * 100_000,
        json.dumps(LOOK.__dict__ | {"images": "many"}).encode(),
        json.dumps(LOOK.__dict__ | {"command": None}).encode(),
        json.dumps({name: value for name, value in LOOK.__dict__.items() if name != "split_digest"}).encode(),
    ],
    ids=lambda damage: damage[:20].decode("latin-1"),
)
def test_a_damaged_line_is_named_and_left_out(damage: bytes, tmp_path: Path) -> None:
    book = ledger(ready(tmp_path))
    book.record(LOOK)
    with book.files[1].open("ab") as file:
        file.write(damage + b"\n\n")
    book.record(replace(LOOK, when="3"))
    looks, (note,) = book.looks()
    assert [look.when for look in looks] == [LOOK.when, "3"]
    assert note == f"line 2 of the ledger {book.files[1]} is damaged and was left out"


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_line_is_a_look_or_nothing(line: bytes) -> None:
    assert look_in(line) is None


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert look_in(json.dumps(LOOK.__dict__ | {"mood": "hopeful"}).encode()) == LOOK


def test_half_a_line_costs_that_line_and_not_the_next(tmp_path: Path) -> None:
    """What a write that was cut off by a full disk left behind."""
    file = tmp_path / "ledger.jsonl"
    append(file, b"whole\n")
    with file.open("ab") as end:
        end.write(b"hal")
    append(file, b"next\n")
    assert file.read_bytes() == b"whole\nhal\nnext\n"


def test_a_line_that_does_not_fit_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:10]))
    (one, other) = ledger(ready(tmp_path)).record(LOOK)
    assert "only 10 of" in one
    assert "only 10 of" in other


def test_a_line_is_flushed_and_so_is_the_folder_of_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Any] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(Path(f"/proc/self/fd/{fd}").resolve()), real(fd)))
    file = tmp_path / "ledger.jsonl"
    append(file, b"1\n")
    append(file, b"2\n")
    assert flushed == [file, tmp_path, file]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four of them, a hundred lines of a few hundred bytes each."""
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from resnetlab.evaluation.access_log import AccessLog, Access
look = Access("", ("word",) * 50, sys.argv[1], "m", "w", "d", "s", 1, "none")
ledger = AccessLog(sys.argv[1], (Path("shared.jsonl"),))
sys.stdin.read()
for number in range(100):
    assert not ledger.record(replace(look, when=f"{number:03d}"))
"""
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(name)], cwd=tmp_path, stdin=subprocess.PIPE)
        for name in range(4)
    ]
    for process in started:
        assert process.stdin
        process.stdin.close()
    assert [process.wait() for process in started] == [0] * 4
    looks, notes = read(tmp_path / "shared.jsonl")
    assert not notes
    assert {(look.run, look.when) for look in looks} == {(str(r), f"{n:03d}") for r in range(4) for n in range(100)}
    assert len(looks) == 400
