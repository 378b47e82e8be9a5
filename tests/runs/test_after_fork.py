"""The library in a forked child of a process with two OpenMP threads, which do not exist in the child."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import os, torch, resnetlab, resnetlab.plots.style

resnetlab.plots.style.DPI = 30  # encoding pictures takes most of the time

large = torch.randn(512, 512)
float((large @ large).sum())  # the threads are running now
config = resnetlab.recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 2, "final_test": "never"})
child = os.fork()
if child == 0:
    run = resnetlab.train(config, "run")
    resnetlab.evaluate(run)
    resnetlab.compare([run, run], split="val")  # a run is accepted wherever its folder is
    resnetlab.resume(run, changes={"steps": 3})
    data = resnetlab.open_dataset("digits")
    resnetlab.fit(resnetlab.resnet20(10, in_channels=1), data.val, data.val, steps=1, batch_size=32)
    assert torch.get_num_threads() == 2
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_trains_scores_resumes_and_fits(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=environment | {"OMP_NUM_THREADS": "2"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
