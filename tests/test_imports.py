"""Imports that would cost seconds, or may be broken on the user's machine, happen only where they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resnetlab.cli.commands import COMMANDS


def modules_after(code: str, cwd: Path) -> set[str]:
    """The top-level modules that are loaded in a fresh interpreter after `code`."""
    program = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_only_what_computes_imports_torch(tmp_path: Path) -> None:
    """One interpreter for all: what one command imported, the next ones would be found with."""
    commands = [
        ["--version"],
        ["--help"],
        *([command, "--help"] for command in COMMANDS),
        ["train", "--print-config"],
        ["train", "paper-resnet110", "--seed", "3", "--print-config"],
    ]
    code = f"""
import resnetlab
from resnetlab.cli.main import main
assert "torch" not in sys.modules, "import resnetlab"
for words in {commands!r}:
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert not code, (words, code)
    heavy = sys.modules.keys() & {{"torch", "torchvision", "sklearn", "matplotlib", "numpy", "optuna"}}
    assert not heavy, (words, heavy)
"""
    assert "torch" not in modules_after(code, tmp_path)
    assert not list(tmp_path.iterdir())  # and no folder is made


@pytest.mark.slow
def test_nothing_but_cifar_imports_torchvision(tmp_path: Path) -> None:
    """Figures are not drawn here, because that takes longer than the rest; their modules are imported at the end."""
    code = """
import importlib, pkgutil
import numpy as np
import resnetlab
from resnetlab.runs import evaluation_files, experiment, recipes
evaluation_files.draw = experiment.draw_batch = experiment.draw_curves = lambda *_: None
config = recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 1})
run = resnetlab.train(config, "run")
resnetlab.load("run")(np.zeros((8, 8), np.uint8))
resnetlab.evaluate("run")
assert "torchvision" not in sys.modules, "train, predict and evaluate"
for module in pkgutil.walk_packages(resnetlab.__path__, "resnetlab."):
    importlib.import_module(module.name)
"""
    loaded = modules_after(code, tmp_path)
    assert {"torch", "matplotlib"} <= loaded
    assert "torchvision" not in loaded


def test_every_public_name_can_be_imported() -> None:
    import resnetlab

    for name in resnetlab.__all__:
        assert getattr(resnetlab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        resnetlab.nonsense  # noqa: B018


def test_every_public_function_has_an_example() -> None:
    import resnetlab

    public = [getattr(resnetlab, name) for name in resnetlab.__all__]
    assert [function.__name__ for function in public if callable(function) and ">>>" not in function.__doc__] == []
