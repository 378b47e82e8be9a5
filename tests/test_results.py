"""The README's figures are those of the stored runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import resnetlab

ROOT = Path(__file__).parents[1]


def test_the_readme_says_what_the_stored_runs_say() -> None:
    script = ROOT / "tools" / "results.py"
    done = subprocess.run([sys.executable, script, "readme", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_module_of_the_package_and_none_that_is_not_there() -> None:
    tree = (ROOT / "README.md").read_text().split("```")
    listed = {word for line in tree[-2].splitlines() for word in line.split() if word.endswith((".py", "/"))}
    source = ROOT / "src" / "resnetlab"
    there = {p.name + ("/" if p.is_dir() else "") for p in source.iterdir() if p.suffix == ".py" or p.is_dir()}
    there -= {"__pycache__/", "__main__.py"}
    assert there <= listed
    for name in listed:
        assert (source / name).exists() or (ROOT / name).exists(), name


def test_the_python_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, shortened to a few steps."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("picture.png")
    short = resnetlab.recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 2, "final_test": "never"})
    monkeypatch.setattr(resnetlab.recipes, "quickstart", lambda: short)
    examples = [part.split("```")[0] for part in (ROOT / "README.md").read_text().split("```python\n")[1:]]
    examples = [example for example in examples if example.startswith("import resnetlab\n")]
    assert len(examples) == 3
    for example in examples:
        names: dict[str, object] = {}
        exec(example.replace("epochs=5", "steps=2"), names)
    assert {path.name for path in Path("runs").iterdir() if path.is_dir()} == {"digits", "mine"}


def test_the_code_that_the_readme_shows_is_the_code() -> None:
    shown = next(part for part in (ROOT / "README.md").read_text().split("```python\n") if "def forward" in part)
    head, *body = shown.split("```")[0].rstrip().splitlines()
    code = (ROOT / "src" / "resnetlab" / head.partition("resnetlab/")[2]).read_text().splitlines()
    lines = [line.strip() for line in code]
    start = lines.index(body[0].strip())
    assert lines[start : start + len(body)] == [line.strip() for line in body]
