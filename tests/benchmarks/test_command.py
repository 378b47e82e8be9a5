"""The whole command, with tiny sizes: it shows that everything runs, and measures nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=surroundings)


def stored() -> dict[str, float]:
    return {path.name: path.stat().st_mtime for path in (ROOT / "benchmarks" / "results").glob("training*")}


@pytest.mark.slow  # three processes that import torch
def test_training_ours_and_plain_pytorch() -> None:
    before = stored()
    done = benchmarks("training", "--quick", "--dry", "--only", "plain,bare", "--steps", "1")
    assert done.returncode == 0, done.stderr
    for words in ("images/s", "GB at the peak", "resnetlab", "plain script, bf16", "bare loop, fp32"):
        assert words in done.stdout
    assert "failed" not in done.stdout + done.stderr
    assert stored() == before  # it was a dry run


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(
            "evaluation",
            "data",
            "decoding",
            "inference",
            "predicting",
            "startup",
            "checkpoint",
            "notebook",
            "scaling",
            "numerics",
        ),
        *("decoding", "beside_script", "accelerate", "rounding", "distributed"),
    ],
)
def test_the_others(name: str) -> None:
    done = benchmarks(name, "--quick", "--dry", "--only", "plain")
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout + done.stderr
