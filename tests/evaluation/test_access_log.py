"""The access log keeps every access: with several writers, and with damaged lines."""

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

from resnetlab.evaluation.access_log import Access, AccessCount, AccessLog, append, parse_line, read

ACCESS = Access(
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


def log_in(root: Path, run: str | None = "run") -> AccessLog:
    return AccessLog(run, (root / str(run) / "evaluation" / "ledger.jsonl", root / "test-ledger.jsonl"))


def ready(root: Path, *runs: str) -> Path:
    for run in runs or ("run",):
        (root / run).mkdir()
    return root


def test_an_access_is_one_line_in_each_file_and_is_read_back_equal(tmp_path: Path) -> None:
    log = log_in(ready(tmp_path))
    odd = replace(ACCESS, command=("resnetlab", "a\nb", "\udcff", "猫"), run=None, data="\x1b[2J", images=0)
    for access in (ACCESS, odd):
        assert log.record(access) == []
    for file in log.files:
        assert file.read_bytes().count(b"\n") == 2
        assert read(file) == ([ACCESS, odd], [])
    assert log.accesses() == ([ACCESS, odd], [])


def test_without_a_log_there_are_no_accesses_and_no_notes(tmp_path: Path) -> None:
    assert log_in(tmp_path).accesses() == ([], [])
    assert log_in(tmp_path).count("x", "y") == AccessCount(by_model=0, runs=0, accesses=0)


def test_counts_of_models_and_runs_are_of_one_test_set_alone(tmp_path: Path) -> None:
    ready(tmp_path, "a", "b", "c")
    accesses = {
        "a": [ACCESS, replace(ACCESS, when="2"), replace(ACCESS, when="3", weights_digest="longer")],
        "b": [replace(ACCESS, run="b", weights_digest="b")],
        "c": [replace(ACCESS, run="c", weights_digest="c", split_digest="another")],
    }
    for run, several in accesses.items():
        for access in several:
            log_in(tmp_path, run).record(replace(access, run=run))
    log_in(tmp_path, "a").record(replace(ACCESS, run=None, weights_digest="a file"))
    assert log_in(tmp_path, "a").count(ACCESS.weights_digest, ACCESS.split_digest) == AccessCount(2, 3, 5)
    assert log_in(tmp_path, "b").count("b", ACCESS.split_digest) == AccessCount(1, 3, 5)
    assert log_in(tmp_path, "c").count("c", "another") == AccessCount(1, 1, 1)


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (AccessCount(1, 14, 20), "test set used 1 time by this model; 14 runs were scored on it"),
        (AccessCount(2, 1, 2), "test set used 2 times by this model; 1 run was scored on it"),
        (AccessCount(0, 1234, 5000), "test set used 0 times by this model; 1,234 runs were scored on it"),
    ],
)
def test_the_sentence_has_both_counts(count: AccessCount, sentence: str) -> None:
    assert count.sentence() == sentence


def test_the_log_moves_with_its_run(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    log_in(ready(old)).record(ACCESS)
    (old / "run").rename(new / "run")
    assert log_in(new).count(ACCESS.weights_digest, ACCESS.split_digest) == AccessCount(1, 1, 1)


def test_a_file_that_cannot_be_written_is_reported_and_the_other_has_the_access(tmp_path: Path) -> None:
    log = log_in(ready(tmp_path))
    log.files[1].mkdir()
    (failure,) = log.record(ACCESS)
    assert failure.startswith("this use of the test set is missing in its access log: ")
    assert "test-ledger.jsonl could not be written: Is a directory" in failure
    accesses, (note,) = log.accesses()
    assert accesses == [ACCESS]
    assert "test-ledger.jsonl could not be read: Is a directory" in note


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_reported_and_can_be_read(tmp_path: Path) -> None:
    log = log_in(ready(tmp_path))
    assert log.record(ACCESS) == []
    tmp_path.chmod(0o500)
    (tmp_path / "test-ledger.jsonl").chmod(0o400)
    assert len(log.record(replace(ACCESS, when="2"))) == 1
    assert len(log.accesses()[0]) == 2
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
        json.dumps(ACCESS.__dict__ | {"images": "many"}).encode(),
        json.dumps(ACCESS.__dict__ | {"command": None}).encode(),
        json.dumps({name: value for name, value in ACCESS.__dict__.items() if name != "split_digest"}).encode(),
    ],
    ids=lambda damage: damage[:20].decode("latin-1"),
)
def test_a_damaged_line_is_reported_and_skipped(damage: bytes, tmp_path: Path) -> None:
    log = log_in(ready(tmp_path))
    log.record(ACCESS)
    with log.files[1].open("ab") as file:
        file.write(damage + b"\n\n")
    log.record(replace(ACCESS, when="3"))
    accesses, (note,) = log.accesses()
    assert [access.when for access in accesses] == [ACCESS.when, "3"]
    assert note == f"line 2 of the access log {log.files[1]} is damaged and was skipped"


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_an_arbitrary_line_is_no_access(line: bytes) -> None:
    assert parse_line(line) is None


def test_keys_of_a_later_version_are_ignored() -> None:
    assert parse_line(json.dumps(ACCESS.__dict__ | {"mood": "hopeful"}).encode()) == ACCESS


def test_half_a_line_does_not_damage_the_next(tmp_path: Path) -> None:
    """What a write that was cut off by a full disk left behind."""
    file = tmp_path / "ledger.jsonl"
    append(file, b"whole\n")
    with file.open("ab") as end:
        end.write(b"hal")
    append(file, b"next\n")
    assert file.read_bytes() == b"whole\nhal\nnext\n"


def test_a_partial_write_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:10]))
    (one, other) = log_in(ready(tmp_path)).record(ACCESS)
    assert "only 10 of" in one
    assert "only 10 of" in other


def test_a_line_and_the_folder_of_a_new_file_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Any] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(Path(f"/proc/self/fd/{fd}").resolve()), real(fd)))
    file = tmp_path / "ledger.jsonl"
    append(file, b"1\n")
    append(file, b"2\n")
    assert flushed == [file, tmp_path, file]


def test_concurrent_processes_lose_nothing(tmp_path: Path) -> None:
    """Four processes write a hundred lines of a few hundred bytes each."""
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from resnetlab.evaluation.access_log import AccessLog, Access
access = Access("", ("word",) * 50, sys.argv[1], "m", "w", "d", "s", 1, "none")
log = AccessLog(sys.argv[1], (Path("shared.jsonl"),))
sys.stdin.read()
for number in range(100):
    assert not log.record(replace(access, when=f"{number:03d}"))
"""
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(name)], cwd=tmp_path, stdin=subprocess.PIPE)
        for name in range(4)
    ]
    for process in started:
        assert process.stdin
        process.stdin.close()
    assert [process.wait() for process in started] == [0] * 4
    accesses, notes = read(tmp_path / "shared.jsonl")
    assert not notes
    assert {(access.run, access.when) for access in accesses} == {
        (str(r), f"{n:03d}") for r in range(4) for n in range(100)
    }
    assert len(accesses) == 400
