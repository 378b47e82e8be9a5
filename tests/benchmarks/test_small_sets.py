"""The small sets of `out_of_box`: the same files every time, and in every split images of every class."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks.options import Options
from benchmarks.out_of_box import report
from benchmarks.results import merged
from benchmarks.rounds import Failed, Outcome
from benchmarks.small_sets import cifar, digits, letters, part_of
from PIL import Image

from benchmarks import out_of_box
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


def test_in_minutes_a_peer_has_the_epochs_that_fill_them_and_ours_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, object, int]] = []

    def peer(name: str, _python: object, _job: object, epochs: int, seed: int) -> dict[str, float]:
        trained.append((name, epochs, seed))
        return {"accuracy": 0.5, "process_seconds": 10 + 5.0 * epochs}

    def own(_folder: Path, length: tuple[str, ...], seed: int) -> dict[str, float]:
        trained.append(("resnetlab", length, seed))
        return {"accuracy": 0.5, "process_seconds": 60}

    monkeypatch.setattr(out_of_box, "theirs", peer)
    monkeypatch.setattr(out_of_box, "ours", own)
    options = Options(rounds=2, scratch=tmp_path, minutes=1.0, only=("fastai",), say=lambda _: None)
    *_, found = out_of_box.contest(options, "digits", tmp_path, 8)
    assert trained == [
        ("resnetlab", ("--minutes", "1"), 0),
        ("fastai", 1, 0),  # not counted
        ("fastai", 8, 0),
        ("fastai", 10, 0),
        ("resnetlab", ("--minutes", "1"), 1),
        ("fastai", 10, 1),
    ]
    assert [sample["epochs"] for sample in found["fastai"].samples] == [10, 10]
    assert list(found) == ["resnetlab train --data FOLDER --minutes 1", "fastai"]


def test_resuming_runs_the_missing_seeds_and_stores_after_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def sample(name: str, seed: int) -> dict[str, float]:
        trained.append((name, seed))
        return {"accuracy": 0.5, "process_seconds": 10.0}

    monkeypatch.setattr(out_of_box, "theirs", lambda name, _python, _job, _epochs, seed: sample(name, seed))
    monkeypatch.setattr(out_of_box, "ours", lambda _folder, _length, seed: sample("ours", seed))
    monkeypatch.setattr(out_of_box, "SETS", {"digits": (8, lambda _folder, _data: None)})
    here = {"device_name": "a processor", "threads": 2}
    kept: list[dict[str, Any]] = []

    def options(rounds: int, **given: Any) -> Options:
        now = {**here, "commit": f"commit {rounds}"}
        return Options(
            rounds, tmp_path, only=("fastai",), environment=now, say=lambda _: None, keep=kept.append, **given
        )

    first = out_of_box.measure(options(1))
    stored = [{"environment": here, **merged({}, first, {**here, "commit": "commit 1"})}]
    found = out_of_box.measure(options(3, stored=stored, resume=True))
    assert trained == [("ours", 0), ("fastai", 0), ("ours", 1), ("fastai", 1), ("ours", 2), ("fastai", 2)]
    assert [result["groups"][0]["contenders"][0]["values"] for result in kept] == [
        [10.0],
        [10.0],
        [10.0] * 2,
        [10.0] * 3,
    ]
    assert [(one["seed"], one["commit"]) for one in found["samples"]["digits"]["fastai"]] == [
        (0, "commit 1"),
        (1, "commit 3"),
        (2, "commit 3"),
    ]
    other = {**here, "threads": 1, "commit": "commit 1"}
    elsewhere = [{"environment": other, **merged({}, first, other)}]
    out_of_box.measure(options(1, stored=elsewhere, resume=True))
    out_of_box.measure(options(1, stored=stored))
    assert trained[6:] == [("ours", 0), ("fastai", 0)] * 2  # another machine, and without --resume


def test_a_time_too_short_for_an_epoch_gives_one() -> None:
    assert out_of_box.epochs_within(5.0, {1: 20.0, 4: 50.0}) == 1
    with pytest.raises(Failed, match=r"4 epochs took 19.0 s and 1 took 20.0 s; measure on a quiet machine"):
        out_of_box.epochs_within(60.0, {1: 20.0, 4: 19.0})
