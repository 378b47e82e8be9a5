"""Imports flow one way. The order below is the architecture; a new import against it fails this test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = """
errors host files archives download models kernels distributed runtime data evaluation training interpret inference
plots runs report cli __init__ __main__
""".split()  # noqa: SIM905
BLIND = {("data", "models"), ("models", "kernels"), ("inference", "training")}  # neighbours that stay apart
SOURCE = Path(__file__).parents[1] / "src" / "resnetlab"


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "resnetlab":
                yield from (f"resnetlab.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for module in imported(ast.parse(path.read_text())):
        if not module.startswith("resnetlab."):
            continue
        there = module.split(".")[1]
        if there not in LAYERS:  # a name of the package itself, such as __version__
            continue
        assert there == here or LAYERS.index(there) < LAYERS.index(here), f"{here} must not import {there}"
        assert (here, there) not in BLIND, f"{here} must not know {there}"


def test_every_module_has_its_place() -> None:
    modules = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules - {"__pycache__"} == set(LAYERS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_states_its_purpose_first(path: Path) -> None:
    assert path.read_text().startswith('"""')
