"""`resnetlab doctor` and `resnetlab label-issues`: planted faults are named, and nothing else is."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = ("--model", "tiny", "--batch-size", 8, "--steps", 30, "--data.image-size", 16, "--data.val-fraction", 0.3)


def photo(seed: int) -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((40, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 training and 6 test images of each of two classes, all different."""
    seed = 0
    for split, count in (("train", 20), ("test", 6)):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for _ in range(count):
                photo(seed).save(place / f"{seed:04d}.png")
                seed += 1
    return tmp_path / "pets"


def kinds(command: Any, *words: object) -> dict[str, dict]:
    """The findings by kind, as JSON."""
    _, out, _ = command("doctor", *words, "--json")
    return {finding["kind"]: finding for finding in json.loads(out)["findings"]}


def test_sound_folder_can_be_trained_on(command: Any, folder: Path) -> None:
    code, out, err = command("doctor", "--data", folder, *SMALL)
    assert (code, err) == (0, "")
    assert "Nothing was found that makes scores wrong" in out
    assert "images/s" in out
    assert "16×16: as given" in out


def test_tiny_images_that_look_alike_are_no_copies(command: Any) -> None:
    assert kinds(command, "--data", "digits", *SMALL[:6], "--data.image-size", 8) == {}


def test_machine_is_examined_without_data(command: Any) -> None:
    code, out, _ = command("doctor", "--device", "cpu")
    assert code == 0
    assert "precision" in out
    assert "torchvision" in out
    assert "images" not in out.split("image formats")[0]


def test_planted_copies_are_found(command: Any, folder: Path) -> None:
    train, test = folder / "train", folder / "test"
    shutil.copy(train / "cat" / "0000.png", test / "cat" / "equal.png")
    photo(1).save(test / "cat" / "encoded.jpg", quality=50)
    photo(2).resize((90, 90)).save(test / "cat" / "larger.png")
    photo(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(test / "cat" / "mirrored.png")
    shutil.copy(train / "cat" / "0004.png", train / "dog" / "other.png")
    shutil.copy(train / "cat" / "0005.png", train / "cat" / "twice.png")

    found = kinds(command, "--data", folder, *SMALL)

    def files(kind: str) -> list[list[str]]:
        return [[image["file"].rpartition("/")[2] for image in group] for group in found.pop(kind)["images"]]

    assert files("exact copies in more than one split") == [["0000.png", "equal.png"]]
    assert files("exact copies with different labels") == [["0004.png", "other.png"]]
    assert files("exact copies inside a split") == [["0005.png", "twice.png"]]
    near = files("near copies in more than one split")
    assert near == [["0001.png", "encoded.jpg"], ["0002.png", "larger.png"], ["0003.png", "mirrored.png"]]
    assert found == {}


def test_broken_images_are_named_and_training_would_fail(command: Any, folder: Path) -> None:
    cats = folder / "train" / "cat"
    (cats / "empty.jpg").write_bytes(b"")
    os.mkfifo(cats / "pipe.jpg")
    code, out, err = command("doctor", "--data", folder, *SMALL)
    assert code == 2
    assert err.startswith("resnetlab: training would fail: ")
    assert "images/s" in out  # the estimate is for the others
    broken = [line.rpartition("/")[2] for line in out.splitlines() if line.startswith("broken   ")]
    assert broken == ["empty.jpg is an empty file", "pipe.jpg is a pipe or a device, not a file"]
    named = {
        image["file"]
        for group in kinds(command, "--data", folder, *SMALL)["broken images"]["images"]
        for image in group
    }
    assert {name.rpartition("/")[2] for name in named} == {"empty.jpg", "pipe.jpg"}


def test_folder_that_cannot_be_trained_on_is_exit_code_2(command: Any, tmp_path: Path) -> None:
    (tmp_path / "one" / "cat").mkdir(parents=True)
    photo(0).save(tmp_path / "one" / "cat" / "1.png")
    code, out, err = command("doctor", "--data", tmp_path / "one", *SMALL)
    assert code == 2
    assert "one class only" in err
    assert "precision" in out


def test_names_that_point_to_one_source_are_found(command: Any, folder: Path) -> None:
    photo(100).save(folder / "train" / "cat" / "IMG_7_jpg.rf.0123456789abcdef.png")
    photo(101).save(folder / "test" / "cat" / "IMG_7_jpg.rf.fedcba9876543210.png")
    photo(102).save(folder / "train" / "dog" / "0100.png")
    photo(103).save(folder / "test" / "dog" / "0100.png")  # a counter: no hint of anything
    found = kinds(command, "--data", folder, *SMALL)
    assert [len(found.pop("one source in more than one split, by name")["images"])] == [1]
    assert found == {}


def test_frames_of_videos_in_several_splits_are_found(command: Any, tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "films" / name).mkdir(parents=True)
        for film in range(3):
            for frame in range(8):
                seed = 1000 * label + 100 * film + frame
                photo(seed).save(tmp_path / "films" / name / f"film{film}_{frame:03d}.png")
    found = kinds(command, "--data", tmp_path / "films", *SMALL)
    assert "--data.group-by" in found["sequences in more than one split, by name"]["message"]
    grouped = kinds(command, "--data", tmp_path / "films", *SMALL, "--data.group-by", r"(\w+/film\d)")
    assert "sequences in more than one split, by name" not in grouped


def test_groups_in_several_given_splits_are_found(command: Any, folder: Path) -> None:
    for split, name, seed in (("train", "tom_1", 200), ("test", "tom_2", 201), ("train", "rex_1", 202)):
        photo(seed).save(folder / split / "cat" / f"{name}.png")
    words = ("--data", folder, *SMALL, "--data.group-by", r"([a-z]+_|\d{4})")
    found = kinds(command, *words).pop("groups in more than one split")
    assert found["severity"] == "warning"
    assert "1 of 54 groups is in more than one split ('tom_' in val and test)" in found["message"]
    assert [[image["file"] for image in group] for group in found["images"]] == [
        ["train/cat/tom_1.png", "test/cat/tom_2.png"]
    ]
    code, out, _ = command("train", *words, "--max-minutes", 0, "--out", "run")
    assert code == 6
    assert "note     1 of 54 groups is in more than one split ('tom_' in val and test)" in out


def test_12_bit_images_are_compared_and_their_range_is_shown(command: Any, tmp_path: Path) -> None:
    for label, name in enumerate(("low", "high")):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for i in range(20):
            grey = photo(100 * label + i).convert("L")
            values = np.asarray(grey).astype(np.uint16) * 8 + 1000
            values[0, 0] = 3000
            Image.fromarray(values).save(tmp_path / "scans" / name / f"{i}x.png")
    brighter = np.asarray(Image.open(tmp_path / "scans" / "low" / "3x.png")) + 7
    Image.fromarray(brighter).save(tmp_path / "scans" / "high" / "copy.png")
    _, out, _ = command("doctor", "--data", tmp_path / "scans", *SMALL, "--json")
    found = json.loads(out)
    assert found["can_train"]
    assert found["data"]["modes"] == "I;16 41"
    assert found["data"]["pixel values"].startswith(
        "0 to 4095 become black to white (12 bits are used; training images"
    )
    (near,) = (one for one in found["findings"] if one["kind"] == "near copies with different labels")
    assert [[image["file"] for image in group] for group in near["images"]] == [["high/copy.png", "low/3x.png"]]


def test_images_of_five_bands_are_examined(command: Any, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    random, samples = np.random.default_rng(0), {"photometric": "minisblack", "planarconfig": "contig"}
    for name in ("field", "forest"):
        (tmp_path / "land" / name).mkdir(parents=True)
        for i in range(20):
            values = random.integers(0, 4000, (20, 20, 5)).astype(np.uint16)
            tifffile.imwrite(tmp_path / "land" / name / f"{i}x.tif", values, **samples)
    shutil.copy(tmp_path / "land" / "field" / "1x.tif", tmp_path / "land" / "forest" / "other.tif")
    tifffile.imwrite(tmp_path / "land" / "forest" / "four.tif", values[..., :4], **samples)
    _, out, _ = command(
        "doctor", "--data", tmp_path / "land", *SMALL, "--data.channels", 5, "--json", "--out", "p.html"
    )
    found = json.loads(out)
    assert found["data"]["modes"] == "bands 41"
    by_kind = {one["kind"]: one for one in found["findings"]}
    assert "forest/four.tif has 4 bands; 5 are needed" in by_kind["broken images"]["message"]
    (group,) = by_kind["exact copies with different labels"]["images"]
    assert [image["file"] for image in group] == ["field/1x.tif", "forest/other.tif"]
    assert found["estimate"]["steps"] == 30
    assert Path("p.html").read_text().count("data:image/png;base64") == 2


def test_page_has_a_picture_of_every_finding_and_escapes_names(command: Any, folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "0000.png", folder / "train" / "dog" / "<b>.png")
    assert command("doctor", "--data", folder, *SMALL, "--out", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert ".html" in command.refuse("doctor", "--out", "page.txt")


def test_training_says_that_images_are_in_two_splits_or_have_two_labels(command: Any, folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "0000.png", folder / "test" / "cat" / "equal.png")
    shutil.copy(folder / "train" / "cat" / "0001.png", folder / "train" / "dog" / "other.png")
    code, out, _ = command("train", "--data", folder, *SMALL[:4], "--steps", 1, "--data.image-size", 16, "--out", "run")
    assert code == 0
    assert "note     1 image is in more than one split (train, test)" in out
    assert "note     1 image has different labels" in out
    copies = [line for line in out.splitlines() if line.startswith("note     1 image ")]
    _, again, _ = command("evaluate", "run")
    assert [line for line in again.splitlines() if line.startswith("note     1 image ")] == copies


def test_suspects_among_the_images_of_a_table_are_listed_beside_the_table(command: Any, folder: Path) -> None:
    pytest.importorskip("cleanlab")
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("train/*/*.png"))]
    (folder / "pets.csv").write_text("\n".join(["file,label", *rows]))
    words = (*SMALL[:4], "--data.image-size", 16, "--steps", 1)
    assert command("train", "--data", folder / "pets.csv", *words, "--out", folder / "run")[0] == 0
    code, _, err = command("label-issues", folder / "run", "--out", folder / "labels")
    assert code == 0, err
    assert (folder / "labels/labels.csv").exists()


def test_corrected_table_of_suspects_can_be_trained_on(command: Any, folder: Path) -> None:
    pytest.importorskip("cleanlab")
    words = (*SMALL[:4], "--data.image-size", 16)
    assert command("train", "--data", folder, *words, "--steps", 4, "--data.val-fraction", 0.4, "--out", "run")[0] == 0
    code, out, err = command("label-issues", "run", "--out", "labels")
    assert code == 0, err
    assert "note     image size 16×16 pixels: as given" in out
    rows = list(csv.DictReader(Path("labels/labels.csv").read_text().splitlines()))
    assert len(rows) == 52
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert Path("labels/label-issues.html").exists()
    assert "--data.root" in out
    assert "may hold corrections" in command.refuse("label-issues", "run", "--out", "labels")
    again = ("train", "--data", "labels/labels.csv", "--data.root", folder, *words, "--steps", 2, "--out", "again")
    assert command(*again)[0] == 0
    before, after = (json.loads(Path(run, "split.json").read_text()) for run in ("run", "again"))
    images = [{split: sorted(part["names"]) for split, part in record["splits"].items()} for record in (before, after)]
    assert images[0] == images[1]


def test_table_of_a_cross_validation_can_be_trained_on(command: Any, folder: Path) -> None:
    pytest.importorskip("cleanlab")
    words = (*SMALL[:4], "--data.image-size", 16, "--steps", 2)
    assert command("train", "--data", folder / "train", *words, "--folds", 2, "--out", "cv")[0] == 0
    assert command("label-issues", "cv", "--out", "labels")[0] == 0
    rows = list(csv.DictReader(Path("labels/labels.csv").read_text().splitlines()))
    assert len(rows) == 40  # every image once
    assert all(row["label_probability"] for row in rows)
    assert "split" not in rows[0]
    again = ("train", "--data", "labels/labels.csv", "--data.root", folder / "train", *words, "--out", "again")
    assert command(*again)[0] == 0


def test_table_of_a_cross_validation_keeps_the_groups(command: Any, folder: Path) -> None:
    """Without them, a training on the corrected table would have images of one group on both sides of a split."""
    pytest.importorskip("cleanlab")
    words = (*SMALL[:4], "--data.image-size", 16, "--steps", 1)
    pattern = r"(\d)\.png"  # ten groups
    grouped = ("train", "--data", folder / "train", *words, "--folds", 2, "--data.group-by", pattern, "--out", "cv")
    code, _, err = command(*grouped)
    assert code == 0, err
    assert command("label-issues", "cv", "--out", "labels")[0] == 0
    rows = list(csv.DictReader(Path("labels/labels.csv").read_text().splitlines()))
    assert {(row["file"][-5], row["group"]) for row in rows} == {(str(i), str(i)) for i in range(10)}
    again = ("train", "--data", "labels/labels.csv", "--data.root", folder / "train", *words, "--out", "again")
    code, out, err = command(*again)
    assert code == 0, err
    assert "images of one group stay in one split" in out


def test_table_of_shards_can_be_trained_on(command: Any, folder: Path) -> None:
    pytest.importorskip("cleanlab")
    words = (*SMALL[:4], "--data.image-size", 16, "--steps", 1)
    assert command("pack", folder, "--out", "shards")[0] == 0
    assert command("train", "--data", "shards", *words, "--out", "run")[0] == 0
    assert command("label-issues", "run", "--out", "labels")[0] == 0
    again = ("train", "--data", "labels/labels.csv", "--data.root", "shards", *words, "--out", "again")
    code, _, err = command(*again)
    assert code == 0, err
    assert command("evaluate", "again")[0] == 0


def test_table_has_folders_with_a_space_at_the_beginning(command: Any, folder: Path) -> None:
    pytest.importorskip("cleanlab")
    (folder / "train" / "cat").rename(folder / "train" / " cat ")
    words = (*SMALL[:4], "--data.image-size", 16, "--steps", 1)
    assert command("train", "--data", folder / "train", *words, "--out", "run")[0] == 0
    assert command("label-issues", "run", "--out", "labels")[0] == 0
    again = ("train", "--data", "labels/labels.csv", "--data.root", folder / "train", *words, "--out", "again")
    code, out, err = command(*again)
    assert code == 0, err
    assert "classes  cat, dog\n" in out


def test_folder_without_a_run_is_refused(command: Any) -> None:
    assert "neither a run nor a series of folds" in command.refuse("label-issues", ".")
