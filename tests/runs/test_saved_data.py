"""The images that a run is scored on: those that were recorded, or other data taken whole; never a new draw."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.data import contents
from resnetlab.errors import BadInput
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.runs import experiment, recipes, resume
from resnetlab.runs.export import export
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.label_issues import examine_labels
from resnetlab.runs.saved_data import stored_splits
from resnetlab.runs.score import evaluate

pytestmark = pytest.mark.usefixtures("no_pictures")

Change = Callable[[Path], object]


def fill(folder: Path, seed: int = 0, **classes: int) -> Path:
    """A folder of classes with images of noise, as many as are given for each."""
    draw = np.random.default_rng(seed)
    for name, number in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


def config_for(data: Path, **settings: Any) -> Any:
    changes = {"data": {"name": str(data), "image_size": 8, **settings}, "model": {"name": "tiny"}, "steps": 2}
    return recipes.folder().changed({**changes, "batch_size": 16, "precision": "fp32"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    experiment.train(config_for(fill(root / "pets", cat=20, dog=20, owl=20)), root / "run")
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the run and of its data, which the copy is about."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LEAST_FILES", 1)
    copy = Path(shutil.copytree(trained, tmp_path / "work"))
    config = json.loads((copy / "run" / "config.json").read_text())
    config["data"]["name"] = str(copy / "pets")
    (copy / "run" / "config.json").write_text(json.dumps(config))
    return copy


def stored(root: Path, split: str) -> list[str]:
    names: list[str] = RunFolder(root / "run").read_json("split.json")["splits"][split]["names"]
    return names


def as_written_before(root: Path) -> None:
    """Make split.json what older versions wrote: names and a digest of names."""
    file = root / "run" / "split.json"
    record = json.loads(file.read_text())
    splits = {
        name: {key: split[key] for key in ("images", "digest", "names")} for name, split in record["splits"].items()
    }
    file.write_text(json.dumps({key: record[key] for key in ("data", "classes", "split_seed")} | {"splits": splits}))


def swap(data: Path) -> None:
    (data / "cat" / "00.png").rename(data / "swap.png")
    (data / "dog" / "00.png").rename(data / "cat" / "00.png")
    (data / "swap.png").rename(data / "dog" / "00.png")


CHANGES: dict[str, tuple[Change, str]] = {
    "gone": (lambda data: (data / "cat" / "00.png").unlink(), r"1 image is gone \(cat/00.png\)"),
    "new": (lambda data: shutil.copy(data / "cat" / "01.png", data / "cat" / "!.png"), r"1 image is new \(cat/!.png\)"),
    "changed": (
        lambda data: Image.new("RGB", (8, 8)).save(data / "dog" / "05.png"),
        r"1 image is changed \(dog/05.png\)",
    ),
    "swapped": (swap, r"2 images are changed \((cat|dog)/00.png, (cat|dog)/00.png\)"),
    "moved": (
        lambda data: (data / "cat" / "00.png").rename(data / "dog" / "x.png"),
        r"1 image is in another class \(cat/00.png, now dog/x.png\)",
    ),
    "renamed": (
        lambda data: (data / "cat" / "00.png").rename(data / "cat" / "x.png"),
        r"1 image is under another name \(cat/00.png, now cat/x.png\)",
    ),
    "a class is gone": (lambda data: shutil.rmtree(data / "owl"), r"20 images are gone .* and 17 more\)"),
    "a class is new": (lambda data: fill(data, 5, fox=2), r"2 images are new \(fox/00.png, fox/01.png\)"),
    "unreadable": (lambda data: (data / "cat" / "00.png").write_text("bad"), r"1 image is changed \(cat/00.png\)"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_data_is_named_and_refused(root: Path, kind: str) -> None:
    change, sentence = CHANGES[kind]
    before = RunFolder(root / "run").final_metrics("test")
    change(root / "pets")
    with pytest.raises(BadInput, match=sentence):
        evaluate(root / "run", split="test")
    with pytest.raises(BadInput, match=sentence):
        resume.resume(root / "run", changes={"steps": 4})
    assert RunFolder(root / "run").final_metrics("test") == before


@pytest.mark.parametrize("kind", ["gone", "changed", "swapped", "moved", "a class is gone", "unreadable"])
def test_the_recorded_images_that_are_the_same_can_be_scored(root: Path, kind: str) -> None:
    run, names = RunFolder(root / "run"), stored(root, "test")
    before = run.final_metrics("test")
    contents_before = {name: (root / "pets" / name).read_bytes() for name in names}
    CHANGES[kind][0](root / "pets")
    same = [n for n, c in contents_before.items() if (p := root / "pets" / n).exists() and p.read_bytes() == c]
    scores = evaluate(run.path, split="test", allow_changed_data=True)
    assert scores["images"] == len(same)
    assert sum(scores["changed_data"].values()) > 0
    assert run.final_metrics("test") == before
    folder = run.path / "evaluation" / "changed-test"
    assert json.loads((folder / "metrics.json").read_text()) == scores
    rows = (folder / "predictions.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(same)


def test_unchanged_data_is_scored_as_at_the_end_of_the_run(root: Path) -> None:
    run = RunFolder(root / "run")
    final = run.final_metrics("test")
    assert final is not None
    assert evaluate(run.path, split="test") == final == evaluate(run.path, split="test", allow_changed_data=True)
    assert evaluate(run.best, data=str(root / "pets"), split="test") == final
    assert not (run.path / "evaluation" / "changed-test").exists()


def test_a_moved_folder_is_named_and_accepted_at_its_new_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(root / "run")
    final = run.final_metrics("test")
    (root / "pets").rename(root / "animals")
    with pytest.raises(
        BadInput, match=r"was not found: .*pets; if it was moved, give its new place \(`data='FOLDER'`\)"
    ):
        evaluate(run.path, split="test")
    scores = evaluate(run.path, str(root / "animals"), "test")
    assert {**scores, "data": "pets"} == final
    fill(root / "pets", 7, cat=20, dog=20, owl=20)  # another folder with the same names
    with pytest.raises(BadInput, match="60 images are changed"):
        evaluate(run.path, split="test")
    monkeypatch.chdir(root)
    resume.resume(run.path, changes={"steps": 4, "data": {"name": "animals"}})
    assert RunFolder(run.path).config.data.name == str(root / "animals")
    (root / "animals" / "cat" / "00.png").unlink()
    (root / "animals").rename(root / "third")
    with pytest.raises(BadInput, match=r"1 image is gone \(cat/00.png\)"):
        resume.resume(run.path, changes={"steps": 6, "data": {"name": str(root / "third")}})


def test_other_data_is_scored_whole(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(root / "run")
    before = run.final_metrics("test")
    other = fill(root / "other", 3, cat=5, dog=4, owl=3)
    caplog.set_level("INFO", "resnetlab")
    scores = evaluate(run.path, str(other), "test")
    assert (scores["images"], scores["images_seen_in_training"]) == (12, 0)
    shutil.copy(root / "pets" / stored(root, "train")[0], other / "cat" / "seen.png")
    assert evaluate(run.path, str(other), "test")["images_seen_in_training"] == 1
    assert "1 of these 13 images are images that the run was trained or validated on (cat/seen.png)" in caplog.text
    parts = root / "parts"
    shutil.copytree(other, parts / "test")
    assert evaluate(run.path, str(parts), "test")["images"] == 13
    with pytest.raises(BadInput, match=r"has test, but no folder named val; .* give `split='test'`"):
        evaluate(run.path, str(parts), "val")
    assert run.final_metrics("test") == before
    with pytest.raises(BadInput, match="is for other scores of the run"):
        evaluate(run.path, str(other), "test", out=run.evaluation("test"))
    with pytest.raises(BadInput, match="is for other scores of the run"):
        evaluate(run.path, split="val", out=run.evaluation("test"))
    caplog.clear()
    shutil.copy(root / "pets" / stored(root, "test")[0], other / "cat" / "tested.png")
    assert evaluate(run.path, str(other), "val")["images"] == 14
    assert "1 of these 14 images are test images of the run (cat/tested.png): score them with" in caplog.text
    assert stored(root, "test")[0].startswith("cat/")


@pytest.mark.parametrize("classes", [("cat", "owl"), ("owl",)])
def test_a_class_without_images_in_other_data_is_undefined(root: Path, classes: tuple[str, ...]) -> None:
    other = fill(root / "other", 3, **dict.fromkeys(classes, 4))
    (other / "dog").mkdir()
    scores = evaluate(root / "run", str(other), "test")
    rows = {row["name"]: row for row in scores["per_class"]}
    assert scores["images"] == 4 * len(classes)
    for name, row in rows.items():
        assert (row["recall"] is None) == (name not in classes)
        assert name in classes or row["f1"] is row["precision"] is row["roc_auc"] is None
    assert scores["macro"]["recall"] == pytest.approx(scores["accuracy"])


def test_unknown_classes_and_unlabelled_images_are_refused(root: Path) -> None:
    other = fill(root / "other", 3, cat=4, fox=2, emu=1)
    with pytest.raises(BadInput, match="3 images of classes that the model does not have: emu, fox; it has cat, dog"):
        evaluate(root / "run", str(other), "test")
    loose = root / "loose"
    shutil.copytree(other / "cat", loose)
    with pytest.raises(BadInput, match=r"4 images without labels: .* `resnetlab predict`"):
        evaluate(root / "run", str(loose), "test")
    (root / "empty").mkdir()
    with pytest.raises(BadInput, match="no images"):
        evaluate(root / "run", str(root / "empty"), "test")
    fill(root / "spelled", 3, Cat=2, dog=1)
    with pytest.raises(BadInput, match=r"does not have: Cat; .* \('Cat' and 'cat' differ only in case, spaces or Unic"):
        evaluate(root / "run", str(root / "spelled"), "test")


def test_a_table_without_images_of_the_split_names_the_ways_to_score_it(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = fill(root / "other", 3, cat=1, dog=1)
    table = other / "other.csv"
    table.write_text("file,label,split\ncat/00.png,cat,test\ndog/00.png,dog,train\n")
    sentence = r"other.csv has train, test, but no val images; give `split='test'` or a table without splits, all of"
    with pytest.raises(BadInput, match=sentence):
        evaluate(root / "run", str(table), "val")
    caplog.set_level("INFO", "resnetlab")
    assert evaluate(root / "run", str(table), "test")["images"] == 1
    assert f"all 1 test images of {table} are scored" in caplog.text


def test_images_that_all_have_other_names_are_named(root: Path) -> None:
    (root / "outer").mkdir()
    (root / "pets").rename(root / "outer" / "pets")
    sentence = (
        r"none of the .* val images is as it was in outer: 60 images are under another name \(cat/00.png, now pets/"
    )
    with pytest.raises(BadInput, match=sentence):
        evaluate(root / "run", str(root / "outer"), "val", allow_changed_data=True)


def test_a_run_of_an_older_version_is_scored_as_before(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(root / "run")
    final = run.final_metrics("test")
    as_written_before(root)
    caplog.set_level("INFO", "resnetlab")
    assert evaluate(run.path, split="test") == final
    assert caplog.text.count("did not record the contents of images: they are not checked") == 1
    resume.resume(run.path, changes={"steps": 3})
    (root / "pets" / "cat" / "00.png").rename(root / "pets" / "cat" / "x.png")
    sentence = r"1 image is gone \(cat/00.png\), 1 image is new \(cat/x.png\)"
    for fails in (lambda: evaluate(run.path, split="test"), lambda: resume.resume(run.path, changes={"steps": 4})):
        with pytest.raises(BadInput, match=sentence):
            fails()


def test_a_model_file_alone_recognises_its_data(root: Path) -> None:
    final = RunFolder(root / "run").final_metrics("test")
    assert final is not None
    alone = root / "models" / "pets.safetensors"
    alone.parent.mkdir()
    shutil.copy(root / "run" / "best.safetensors", alone)
    scores = evaluate(alone, str(root / "pets"), "test")
    assert (scores["split_digest"], scores["accuracy"]) == (final["split_digest"], final["accuracy"])
    assert evaluate(alone, str(fill(root / "other", 3, cat=5, owl=3)), "test")["images"] == 8
    (root / "pets" / "cat" / "00.png").unlink()
    with pytest.raises(BadInput, match="has the name of the data that this model was trained on, but other images"):
        evaluate(alone, str(root / "pets"), "test")
    assert evaluate(alone, str(root / "pets"), "test", allow_changed_data=True)["images"] == 59


@pytest.mark.parametrize("kind", ["file", "row", "file and row", "label"])
def test_a_manifest_that_changed_is_named_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data, table = fill(tmp_path / "pets", cat=15, dog=15), tmp_path / "pets.csv"
    rows = {f"{name}/{i:02d}.png": name for name in ("cat", "dog") for i in range(15)}

    def write() -> None:
        table.write_text("\n".join(["file,label", *(f"{file},{label}" for file, label in rows.items())]))

    write()
    run = experiment.train(config_for(table, root=str(data)), tmp_path / "run")
    first = stored(tmp_path, "test")[0]
    if "file" in kind:
        (data / first).unlink()
    if "row" in kind:
        del rows[first]
    if kind == "label":
        rows[first] = "dog" if rows[first] == "cat" else "cat"
    write()
    what = "in another class" if kind == "label" else "gone"
    with pytest.raises(BadInput, match=rf"1 image is {what} \({first}\)"):
        evaluate(run.path, split="test")
    with pytest.raises(BadInput, match=rf"1 image is {what} \({first}\)"):
        resume.resume(run.path, changes={"steps": 4})
    scores = evaluate(run.path, split="test", allow_changed_data=True)
    assert scores["images"] == len(stored(tmp_path, "test")) - 1
    other = tmp_path / "other.csv"  # its files are relative to the same root
    other.write_text("file,label\ncat/03.png,cat\ndog/04.png,dog")
    others = evaluate(run.path, str(other), "test")
    assert (others["images"], others["whole_folder"]) == (2, str(other))
    assert scores["changed_data"]["moved" if kind == "label" else "gone"] == 1


@pytest.mark.slow
def test_an_export_and_an_examination_of_labels_find_moved_data(root: Path) -> None:
    run = RunFolder(root / "run")
    (root / "pets").rename(root / "animals")
    for use in (export, examine_labels):
        with pytest.raises(BadInput, match="if it was moved, give its new place"):
            use(run.path)
    exported = export(run.path, "onnx", data=root / "animals")
    assert exported.facts["verified_with"] == "validation images of the run"
    examined = examine_labels(run.path, data=root / "animals")
    assert examined.data == str(root / "animals")
    assert examined.root == root / "animals"
    with pytest.raises(BadInput, match="a model file has no run; give `images`"):
        export(shutil.copy(run.best, root / "alone.safetensors"), data=root / "animals")


def test_moved_images_of_a_manifest_are_found_by_a_table_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, table = fill(tmp_path / "pets", cat=15, dog=15), tmp_path / "pets.csv"
    rows = [f"{name}/{i:02d}.png,{name}" for name in ("cat", "dog") for i in range(15)]
    table.write_text("\n".join(["file,label", *rows]))
    run = experiment.train(config_for(table, root=str(data)), tmp_path / "run")
    final = run.final_metrics("test")
    data.rename(tmp_path / "moved")
    for call in (lambda: evaluate(run.path, split="test"), lambda: resume.resume(run.path, changes={"steps": 4})):
        with pytest.raises(BadInput, match=r"the images of .*run were not found: .*pets; .* a copy of .*pets\.csv"):
            call()
    shutil.copy(table, tmp_path / "moved")
    new = str(tmp_path / "moved" / "pets.csv")
    assert evaluate(run.path, new, "test") == final
    resume.resume(run.path, changes={"steps": 4, "data": {"name": new}})
    assert (RunFolder(run.path).config.data.name, RunFolder(run.path).config.data.root) == (new, None)


def test_images_that_were_skipped_count_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, number in (("train", 40), ("val", 3), ("test", 4)):
        fill(tmp_path / "pets" / part, number, cat=number, dog=number)
    for name in ("val/dog/00.png", "val/dog/01.png", "val/dog/02.png", "test/cat/00.png"):
        (tmp_path / "pets" / name).write_text("bad")
    run = experiment.train(config_for(tmp_path / "pets", bad_images="skip"), tmp_path / "run")
    log = run.log.read_text()
    assert "val has no image of class 'dog': its scores there are undefined" in log
    assert "16 of the 80 training images" not in log  # 80 is 5 batches
    val = run.final_metrics("val")
    assert val is not None
    assert (val["images"], val["skipped_images"]) == (3, 3)
    caplog.set_level("INFO", "resnetlab")
    scores = evaluate(run.path, split="test")
    assert (scores["images"], scores["skipped_images"]) == (7, 1)
    notes = [line.partition("note     ")[2] for line in log.splitlines() if "note     " in line]
    for note in (note for note in notes if not note.startswith("augment.policy")):
        assert note in caplog.text
    Image.new("RGB", (8, 8)).save(tmp_path / "pets" / "test" / "cat" / "00.png")
    with pytest.raises(BadInput, match=r"1 image is changed \(test/cat/00.png\)"):
        evaluate(run.path, split="test")


def test_names_that_a_run_of_an_older_version_knows_are_pointed_out(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_written_before(root)
    (root / "pets").rename(root / "animals")
    caplog.set_level("INFO", "resnetlab")
    scores = evaluate(root / "run", str(root / "animals"), "test")
    assert (scores["images"], scores["images_seen_in_training"]) == (60, None)
    assert "48 of these 60 images have names of images that the run was trained or validated on" in caplog.text
    assert evaluate(root / "run", str(root / "animals"), "test", allow_changed_data=True)["images"] == 12


def test_a_run_of_an_older_version_resumes_with_the_preprocessing_of_its_model(root: Path) -> None:
    """Another one might be chosen today: for deep images, or colour files that are all grey."""
    run = RunFolder(root / "run")
    model = read_model(run.best)
    unlike = dataclasses.replace(model.preprocessing, std=(0.5, 0.5, 0.5))
    save_model(run.best, model.network, model.classes, unlike, model.provenance)
    as_written_before(root)
    assert resume.saved_data(run, run.config.data, stored_splits(run)).preprocessing == unlike


@pytest.mark.parametrize("record", [7, [1], {"more": "1"}, {"train": 1}])
def test_a_damaged_record_of_digests_in_a_model_file_is_that_of_other_splits(root: Path, record: Any) -> None:
    model, alone = read_model(root / "run" / "best.safetensors"), root / "alone.safetensors"
    for name in ("split_digests", "contents_digests"):
        save_model(alone, model.network, model.classes, model.preprocessing, {**model.provenance, name: record})
        with pytest.raises(BadInput, match="has the name of the data that this model was trained on, but other images"):
            evaluate(alone, str(root / "pets"))
