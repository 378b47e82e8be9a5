"""Two processes on one storage, one of them killed: the other one finishes all trials, none lost and none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnetlab.runs.folder import RunFolder
from resnetlab.runs.sweeps.study import INTERRUPTED, open_storage

optuna = pytest.importorskip("optuna")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TRIALS, EPOCHS = 4, 3


def begin(folder: Path, storage: str, number: int) -> subprocess.Popen[bytes]:
    words = ["sweep", "--space", "space.toml", "--trials", str(TRIALS), "--pruner", "none", "--out", "sweep"]
    words += ["--model", "resnet20", "--epochs", str(EPOCHS), "--batch-size", "128", "--storage", storage]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / f"output-{number}.txt").open("wb") as output:
        program = [sys.executable, "-m", "resnetlab", *words]
        return subprocess.Popen(program, cwd=folder, stdout=output, stderr=output, env=environment)


def in_the_middle(folder: Path, process: subprocess.Popen[bytes]) -> int | None:
    """The number of the trial that a process is training, if it has finished an epoch of it and not the last one."""
    for path in sorted((folder / "sweep").glob("trial-*")):
        lock = path / ".lock"
        is_its_own = lock.exists() and lock.read_text().startswith(f"process {process.pid} ")
        if is_its_own and 1 <= len(RunFolder(path).rows) < EPOCHS:
            return int(path.name.removeprefix("trial-"))
    return None


@pytest.mark.parametrize("storage", ["sqlite:///x.db", "x.journal"])
def test_the_other_process_finishes_all_trials(storage: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text('"optim.lr" = {low = 0.01, high = 0.1, log = true}\n"augment.crop" = [0, 1]\n')
    processes = [begin(tmp_path, storage, number) for number in range(2)]
    try:
        deadline = time.monotonic() + 100
        while (killed := in_the_middle(tmp_path, processes[0])) is None:
            assert time.monotonic() < deadline, (tmp_path / "output-0.txt").read_text()
            assert processes[0].poll() is None, (tmp_path / "output-0.txt").read_text()
            time.sleep(0.02)
        processes[0].send_signal(signal.SIGKILL)
        output = tmp_path / "output-1.txt"
        assert processes[1].wait(200) == 0, output.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert f"{TRIALS} trials: {TRIALS} complete" in output.read_text()
    address = storage.replace("///", f"///{tmp_path}/") if "///" in storage else str(tmp_path / storage)
    study = optuna.load_study(study_name="sweep", storage=open_storage(address, tmp_path))
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert [trial.user_attrs.get(INTERRUPTED, 0) for trial in study.trials] == [int(k == killed) for k in range(TRIALS)]
    assert len({trial.params["optim.lr"] for trial in study.trials}) == TRIALS
    for trial in study.trials:
        run = RunFolder.open(tmp_path / "sweep" / f"trial-{trial.number:04d}")
        assert [row["epoch"] for row in run.rows] == list(range(1, EPOCHS + 1))
        assert len(run.sessions) == (2 if trial.number == killed else 1), "trained once, and the killed one continued"
        assert trial.value == (run.final_metrics("val") or {})["accuracy"]
        assert list(trial.intermediate_values) == list(range(1, EPOCHS + 1))
    assert not list((tmp_path / "sweep").rglob("evaluation/test"))
    assert (tmp_path / "sweep" / "sweep.html").exists()
