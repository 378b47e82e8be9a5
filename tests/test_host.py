"""The library changes nothing of the process that uses it (promise 31)."""

from __future__ import annotations

import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from resnetlab.host import warnings_ignored
from resnetlab.runs import recipes
from resnetlab.runs.experiment import draw_curves
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import COLUMNS, History


def host() -> dict[str, Any]:
    """All settings of the process that a library could be tempted to change."""
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        "signal handlers": signals,
        "warnings filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global one must stay as it is
        "python generator": random.getstate(),
        "precision of products": torch.get_float32_matmul_precision(),
        "root logger": (list(logging.root.handlers), logging.root.level),
        "environment": dict(os.environ),
        "working directory": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
    }


def use(folder: Path) -> None:
    """Train, load, predict and evaluate."""
    config = recipes.quickstart().changed(
        {"model": {"name": "resnet20"}, "steps": 2, "batch_size": 64, "final_test": "never", "deterministic": True}
    )
    resnetlab.train(config, folder)
    resnetlab.load(folder)(np.zeros((8, 8), np.uint8))
    resnetlab.evaluate(folder / "best.safetensors", "digits")  # the pictures of a run have been drawn by train


@pytest.mark.slow
def test_training_predicting_and_evaluating_in_a_thread_change_nothing_of_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetlab.plots.style.DPI", 30)  # encoding pictures takes most of the time
    use(tmp_path / "first")  # what is imported now may register something of its own
    before = host()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(use, tmp_path / "second").result()
    after = host()
    for name, value in before.items():
        assert after[name] == value, name
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


THREAD = """
import threading, resnetlab
def work():
    data = resnetlab.open_dataset("pictures", image_size=100)
    resnetlab.fit(resnetlab.resnet20(2), data, steps=1, batch_size=4, precision="fp32")
threading.Thread(target=work).start()
"""


@pytest.mark.slow
def test_a_thread_that_outlives_the_main_thread_reads_and_trains(tmp_path: Path) -> None:
    """Python imports some of its modules no more and starts no more threads then."""
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (100, 100), (0, 40 * number, 90)).save(tmp_path / "pictures" / name / f"{number}.png")
    command = [sys.executable, "-c", THREAD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_threads_that_ignore_warnings_at_once_leave_the_filters_alone() -> None:
    before = list(warnings.filters)
    is_in, may_leave, may_end = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with warnings_ignored():
            is_in.set()
            may_leave.wait(10)

    def second() -> None:
        is_in.wait(10)
        with warnings_ignored("second"):
            may_end.wait(10)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    is_in.wait(10)
    time.sleep(0.05)  # the second begins
    may_leave.set()
    threads[0].join()
    may_end.set()
    threads[1].join()
    assert list(warnings.filters) == before


@pytest.mark.slow
def test_runs_that_draw_at_once_leave_matplotlibs_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each restored the settings that it had found, and these were those of the other one."""
    monkeypatch.setattr("resnetlab.plots.style.DPI", 30)
    history = History(None, [dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": epoch} for epoch in (1, 2, 3)])

    def draw(name: str) -> bytes:
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        for _ in range(3):
            draw_curves(recipes.quickstart(), run, history)
        return (run.path / "curves.png").read_bytes()

    alone, before = draw("alone"), dict(mpl.rcParams)
    with ThreadPoolExecutor(3) as threads:
        drawn = list(threads.map(draw, "abc"))
    assert dict(mpl.rcParams) == before
    assert drawn == [alone] * 3
