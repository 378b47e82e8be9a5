"""Tests run on one thread each: two of them at a time then do not fight over the cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from resnetlab.cli.main import main

torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def cifar10_jpeg() -> Path:
    """The folder of real CIFAR-10 images as JPEG files, where there is one."""
    folder = os.environ.get("RESNETLAB_CIFAR10_JPEG")
    if not folder:
        pytest.skip("RESNETLAB_CIFAR10_JPEG names no folder of CIFAR-10 images")
    return Path(folder)
