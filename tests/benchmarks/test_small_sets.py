"""The small sets of `out_of_box`: the same files every time, and in every split images of every class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from benchmarks.out_of_box import report
from benchmarks.rounds import Outcome
from benchmarks.small_sets import cifar, digits, letters, part_of
from PIL import Image

from resnetlab.errors import BadInput


@pytest.mark.parametrize(
    ("fill", "side", "classes", "images"), [(partial(letters, each=12), 28, 26, 312), (digits, 8, 10, 1797)]
)
def test_the_sets_are_the_same_every_time_and_have_three_splits(fill, side, classes, images, tmp_path: Path) -> None:
    found = []
    for name in ("first", "again"):
        fill(tmp_path / name, None)
        files = {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.png")}
        found.append(files)
    assert found[0] == found[1]
    assert len(found[0]) == images
    assert {
        len({path.parent.name for path in found[0] if path.parts[0] == part}) for part in ("train", "val", "test")
    } == {classes}
    with Image.open(next((tmp_path / "first").rglob("*.png"))) as image:
        assert (image.size, image.mode) == ((side, side), "L")


def test_each_image_is_in_one_split() -> None:
    parts = [part_of(number, 208) for number in range(208)]
    assert [parts.count(part) for part in ("train", "val", "test")] == [149, 17, 42]


def test_cifar_needs_its_files() -> None:
    with pytest.raises(BadInput, match="give --data FOLDER"):
        cifar(Path("nowhere"), None)


def test_the_report_has_seconds_and_accuracy_of_each_set() -> None:
    samples = [{"seed": 0, "accuracy": 0.9, "process_seconds": 20.0}]
    found = report({"letters": {"resnetlab": Outcome(samples), "fastai": Outcome([{**samples[0], "accuracy": 0.8}])}})
    assert [(group["subject"], group["unit"]) for group in found["groups"]] == [
        ("letters", "seconds of the process"),
        ("letters", "% of test images"),
    ]
    assert found["groups"][1]["contenders"][1]["first_against_it"] == pytest.approx(0.9 / 0.8)
