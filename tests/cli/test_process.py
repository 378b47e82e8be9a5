"""The settings of the process: they are changed by commands that compute, and the number of threads fits the quota."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resnetlab.cli import process


@pytest.mark.parametrize(
    ("quota", "variable", "threads", "expected"),
    [
        (1.5, None, 4, 1),
        (0.2, None, 4, 1),
        (3.0, None, 4, 3),
        (8.0, None, 4, 4),
        (None, None, 4, 4),
        (1.5, "4", 4, 4),
        (1.5, "", 4, 1),
    ],
)
def test_threads_fit_the_quota_unless_omp_num_threads_is_set(
    quota: float | None, variable: str | None, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [threads]
    monkeypatch.setattr(process, "cpu_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    process.fit_threads_to_quota()
    assert chosen[-1] == expected


@pytest.mark.parametrize(
    "words",
    [["train"], ["find-lr"], ["evaluate", "gone.safetensors"], ["baseline", "--data", "gone"]],
    ids=lambda words: words[0],
)
def test_commands_that_compute_tune_the_process(
    words: list[str], command: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Reached(Exception): ...

    def tune() -> None:
        raise Reached

    monkeypatch.setattr(process, "tune", tune)
    with pytest.raises(Reached):
        command(*words, "--debug")  # type: ignore[operator]
