"""Measure start-up: seconds to import the package, to show the help, to finish the first training step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.contenders import run
from benchmarks.options import Options
from benchmarks.rounds import Sample, details, group, interleaved

# Ends the process after the first step of `resnetlab train`.
FIRST_STEP = """
import os, tempfile
import resnetlab.training.loop as loop
train_step = loop.train_step
def first_step(*given, **named):
    train_step(*given, **named)
    os._exit(0)
loop.train_step = first_step
from resnetlab.cli.main import main
with tempfile.TemporaryDirectory() as folder:
    main(["train", "quickstart", "--out", folder + "/run"])
raise SystemExit("no training step was done")
"""
PYTHON = sys.executable
COMMANDS = {
    "import": (
        "importing the package",
        {
            "import resnetlab": [PYTHON, "-c", "import resnetlab"],
            "import torch, torchvision": [PYTHON, "-c", "import torch; import torchvision"],
            "Python alone": [PYTHON, "-c", "pass"],
        },
    ),
    "command": (
        "the command's first sign of life",
        {
            "resnetlab train: first step done": [PYTHON, "-c", FIRST_STEP],
            "resnetlab --help": [PYTHON, "-m", "resnetlab", "--help"],
            "import torch, torchvision": [PYTHON, "-c", "import torch; import torchvision"],
        },
    ),
}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for subject, (title, commands) in COMMANDS.items():
        contenders: dict[str, Callable[[], Sample]] = {
            name: partial(seconds_of, command) for name, command in commands.items()
        }
        outcomes = interleaved(contenders, options.rounds, options.say)
        result["groups"].append(
            group(subject, title, "seconds", outcomes, lambda sample: sample["seconds"], more_is_better=False)
        )
        result["samples"][subject] = details(outcomes)
    return result


def seconds_of(command: list[str]) -> Sample:
    """Seconds of a process from start to exit."""
    return {"seconds": run(command).seconds}
