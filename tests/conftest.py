"""For all tests: one thread each, so that two at a time do not fight over the cores, and folders in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from resnetlab.cli.main import main
from resnetlab.models.zoo import ARCHITECTURES, Architecture

torch.set_num_threads(1)

# Other examples are drawn each time, so that few of them in many runs see as much.
settings.register_profile("few", max_examples=25, deadline=None)
settings.load_profile("few")

# A run flushes some fifty files to the disk, which on a slow one takes longer than a tiny run computes.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # where pytest makes its temporary folders


class Commands:
    """Runs the command line in this process, and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of one command."""
        self.capsys.readouterr()
        code = main([str(word) for word in words])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def refuse(self, *words: object) -> str:
        """The one sentence with which a command refuses bad input."""
        code, _, err = self(*words)
        assert code == 2, err
        assert err.startswith("resnetlab: "), err
        assert err.count("\n") == 1, err
        return err.removeprefix("resnetlab: ").rstrip("\n")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The command line, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return Commands(capsys)


@pytest.fixture(scope="module")
def tiny_network() -> Iterator[str]:
    """A network of a few thousand weights by the name "tiny", for runs that take a fraction of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A"))
        yield "tiny"


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Runs draw no figures in this module: for a tiny network, drawing takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
        patch.setattr("resnetlab.runs.experiment.draw_curves", lambda *_: None)
        patch.setattr("resnetlab.runs.experiment.draw_batch", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def as_nobody() -> list[str]:
    """The words before a command that run it as a user without a name and a home; none where that cannot be done.

    Another user may be unable to read this installation, and a virtual environment in a private folder even starts and
    then finds no package. In a namespace of its own, this user goes by another number.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for words in (
        ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "env"],
        ["unshare", "--user", "--map-user", "54321", "--map-group", "54321"],
    ):
        probe = [*words, sys.executable, "-c", "import pydantic, resnetlab"]
        if (
            shutil.which(words[0])
            and not subprocess.run(probe, check=False, capture_output=True, env=environment).returncode
        ):
            return words
    return []


@pytest.fixture(scope="session")
def cifar10_jpeg() -> Path:
    """The folder of real CIFAR-10 images as JPEG files, where there is one."""
    folder = os.environ.get("RESNETLAB_CIFAR10_JPEG")
    if not folder:
        pytest.skip("RESNETLAB_CIFAR10_JPEG names no folder of CIFAR-10 images")
    return Path(folder)
