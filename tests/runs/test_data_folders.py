"""Training in and beside a folder of images: what is written never becomes data, and the run tells what was read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.runs import experiment, recipes
from resnetlab.runs.build import resolved

TINY = ("train", "--model", "tiny", "--batch-size", "16", "--precision", "fp32", "--steps", "1")


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs. The files that it would write are made empty."""

    def touch(folder: Path, *_: object) -> None:
        (folder / "samples.png").touch()

    monkeypatch.setattr("resnetlab.runs.evaluation_files.draw", touch)
    monkeypatch.setattr(experiment, "draw_batch", lambda *_: None)
    monkeypatch.setattr(experiment, "draw_curves", lambda _, run, __: (run.path / "curves.png").touch())


def pictures(folder: Path, *classes: str, count: int = 20) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(1000 * label + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_runs_inside_the_data_folder_never_become_a_class(command: Any, tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    words = (*TINY, "--data", ".")
    assert command(*words, "--max-minutes", 0)[0] == 6
    code, out, err = command("resume", "runs/folder-001")
    assert code == 0, err
    code, out, err = command(*words)
    assert code == 0, err
    assert "29 train, 3 val, 8 test; 2 classes" in out
    assert "classes  cat, dog\n" in out
    assert "skipped: output of resnetlab: runs" in out
    assert command("evaluate", "runs/folder-001")[0] == 0
    assert command(*words, "--seeds", 2)[0] == 0
    assert command(*words, "--folds", 2)[0] == 0
    assert json.loads((tmp_path / "runs/folder-004/summary.json").read_text())["pooled"]["images"] == 40


@pytest.mark.parametrize("out", ["f", "f/cat/run", "f/new", "f/cat/../dog/x", "f/cat/runs/x", "link/cat/run"])
@pytest.mark.parametrize("extra", [[], ["--seeds", "2"]])
def test_output_inside_the_data_is_refused_before_anything_is_written(
    command: Any, tmp_path: Path, out: str, extra: list[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "f" / name / "1.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "f")
    before = sorted(tmp_path.rglob("*"))
    assert "lies in the data folder" in command.refuse(*TINY, "--data", "f", "--out", out, *extra)
    assert sorted(tmp_path.rglob("*")) == before


def test_scores_and_figures_inside_the_data_are_refused(command: Any, tmp_path: Path) -> None:
    pictures(tmp_path / "f", "cat", "dog")
    assert command(*TINY, "--data", "f", "--out", "run")[0] == 0
    assert "lies in the data folder" in command.refuse("evaluate", "run", "--out", "f/cat/scores")
    assert "lies in the data folder" in command.refuse("find-lr", "--data", "f", "--out", "f/cat/rates.png")
    assert "lies in the data folder" in command.refuse("compare", "run", "run", "--out", "f/page")
    assert "lies in the data folder" in command.refuse("pack", "f", "--out", "f/shards")
    assert not list((tmp_path / "f/cat").glob("[a-z]*"))
    assert not (tmp_path / "f/page").exists()
    assert not (tmp_path / "f/shards").exists()


def test_a_run_prints_a_few_of_many_class_names(command: Any, tmp_path: Path) -> None:
    pictures(tmp_path / "f", *(f"c{i:02d}" for i in range(12)), count=3)
    code, out, err = command(*TINY, "--data", "f", "--data.merge", "low=c00,c01", "--out", "run", "--max-minutes", 0)
    assert code == 6, err
    assert "classes  c02, c03, c04, c05, c06, c07, c08, c09, c10, c11 and 1 more\n" in out
    assert "class low is c00, c01" in out


def test_a_manifest_is_trained_resumed_and_scored_from_another_folder(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "f", "cat", "dog")
    rows = [f"{c}/{i}.png,{c},p{i // 2}" for c in ("cat", "dog") for i in range(20)]
    (tmp_path / "f/pets.csv").write_text("\n".join(["file,label,group", *rows]))
    code, out, err = command(*TINY, "--data", "f/pets.csv", "--out", "run", "--max-minutes", 0)
    assert code == 6, err
    assert "data     pets: " in out
    assert "of 10 whole groups" in out
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    code, out, err = command("resume", "../run")
    assert code == 0, err
    code, out, err = command("evaluate", "../run", "--split", "test")
    assert code == 0, err


@pytest.mark.parametrize("beside", ["link", "table"])
def test_a_link_to_a_table_has_its_images_beside_the_link_or_beside_the_table(
    command: Any, tmp_path: Path, beside: str
) -> None:
    """The first as in a folder that a cache of downloads has filled with links, the second as on a user's desk."""
    (tmp_path / "link").mkdir()
    (tmp_path / "table").mkdir()
    pictures(tmp_path / beside, "cat", "dog")
    rows = [f"{c}/{i}.png,{c}" for c in ("cat", "dog") for i in range(20)]
    (tmp_path / "table/0123abc").write_text("\n".join(["file,label", *rows]))
    (tmp_path / "link/pets.csv").symlink_to(tmp_path / "table/0123abc")
    code, _, err = command(*TINY, "--data", "link/pets.csv", "--out", "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["name"] == str(tmp_path / "link/pets.csv")
    assert command("evaluate", "run")[0] == 0
    shutil.copy("run/best.safetensors", "model.safetensors")
    code, out, err = command("evaluate", "model.safetensors", "--data", "link/pets.csv")
    assert code == 0, err
    assert "all 40 images" not in out + err  # its own split, drawn again


def test_a_relative_folder_of_a_named_set_is_found_from_anywhere() -> None:
    config = recipes.folder().changed({"data": {"name": "cifar10", "root": "downloads"}})
    assert resolved(config).data.root == str(Path("downloads").absolute())
    for root in (None, "~/downloads"):
        assert resolved(config.changed({"data": {"root": root}})).data.root == root
