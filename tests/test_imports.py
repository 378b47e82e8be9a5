"""Imports that would cost seconds, or may be broken on the user's machine, happen only where they are needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resnetlab.cli.commands import COMMANDS
from resnetlab.runs import recipes


def modules_after(code: str, cwd: Path) -> set[str]:
    """The top-level modules that are loaded in a fresh interpreter after `code`."""
    program = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stderr.split())


MAIN = "from resnetlab.cli.main import main; code = main({words!r}); assert code == 0, code"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--print-config"],
        ["train", "paper-resnet110", "--seed", "3", "--print-config"],
    ],
)
def test_help_version_and_print_config_import_no_torch(words: list[str], tmp_path: Path) -> None:
    loaded = modules_after(MAIN.format(words=words), tmp_path)
    assert not loaded & {"torch", "torchvision", "sklearn", "matplotlib", "numpy"}
    assert not list(tmp_path.iterdir())  # and no folder is made


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_torch(command: str, tmp_path: Path) -> None:
    code = f"""
from resnetlab.cli.main import main
try:
    main([{command!r}, "--help"])
except SystemExit as stop:
    assert not stop.code
"""
    assert not modules_after(code, tmp_path) & {"torch", "torchvision", "sklearn", "matplotlib", "numpy"}


def test_the_list_of_runs_imports_no_torch(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "unfinished"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(recipes.quickstart().to_json()))
    assert not modules_after(MAIN.format(words=["runs"]), tmp_path) & {"torch", "torchvision", "sklearn", "matplotlib"}


def test_importing_the_package_imports_no_torch(tmp_path: Path) -> None:
    assert "torch" not in modules_after("import resnetlab", tmp_path)


def test_training_and_predicting_import_no_torchvision(tmp_path: Path) -> None:
    """Figures are not drawn here, because that takes longer than the rest; their modules are imported below."""
    code = """
import numpy as np
import resnetlab
from resnetlab.runs import evaluation_files, experiment, recipes
evaluation_files.draw = experiment.draw_curves = lambda *_: None
config = recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 1})
run = resnetlab.train(config, "run")
resnetlab.load("run")(np.zeros((8, 8), np.uint8))
resnetlab.evaluate("run")
"""
    loaded = modules_after(code, tmp_path)
    assert "torch" in loaded
    assert "torchvision" not in loaded


def test_no_module_imports_torchvision_when_it_is_imported(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, resnetlab
for module in pkgutil.walk_packages(resnetlab.__path__, "resnetlab."):
    importlib.import_module(module.name)
"""
    loaded = modules_after(code, tmp_path)
    assert "matplotlib" in loaded
    assert "torchvision" not in loaded


def test_every_public_name_can_be_imported() -> None:
    import resnetlab

    for name in resnetlab.__all__:
        assert getattr(resnetlab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        resnetlab.nonsense  # noqa: B018
