"""tools/transfer.py compares three ways to learn from few images, on classes that the first training has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import resnetlab
from resnetlab.data.datasets import ImageData
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

ROOT = Path(__file__).parents[1]
SMALL = Architecture("basic", (1, 1), width=8, stem="cifar")


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, with a small network, few steps and few draws."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import transfer

    def small(name: str, classes: int, *, in_channels: int, seed: int, **_: Any) -> nn.Module:
        assert name == "resnet34"
        return build_model(SMALL, classes, in_channels=in_channels, seed=seed)

    monkeypatch.setattr(resnetlab, "build_model", small)
    for name, value in {"COUNTS": (2, 3), "DRAWS": 2, "FOR_CHOICE": 2, "STEPS": 2, "BATCH": 8}.items():
        monkeypatch.setattr(transfer, name, value)
    return transfer


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return resnetlab.open_dataset("digits", image_size=8)


def test_the_two_parts_share_no_class_and_no_image(transfer: ModuleType, digits: ImageData) -> None:
    known, new = transfer.only(digits, 0, 6), transfer.only(digits, 6, 10)
    assert known.classes + new.classes == digits.classes
    for split in ("train", "val", "test"):
        one, other, both = (getattr(data, split) for data in (known, new, digits))
        assert sorted(one.names + other.names) == sorted(both.names)
        assert one.labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
        assert other.labels.unique().tolist() == [0, 1, 2, 3]
        position = both.names.index(other.names[0])
        assert torch.equal(other.images[0], both.images[position])
        assert other.labels[0] == both.labels[position] - 6


def test_a_draw_has_equally_many_images_of_each_class_and_larger_draws_contain_smaller_ones(
    transfer: ModuleType, digits: ImageData
) -> None:
    new = transfer.only(digits, 6, 10).train
    few, more, others = transfer.draw(new, 3, 0), transfer.draw(new, 7, 0), transfer.draw(new, 3, 1)
    assert few.labels.bincount().tolist() == [3, 3, 3, 3]
    assert set(few.names) < set(more.names)
    assert len(set(more.names)) == 28
    assert set(few.names) != set(others.names)


def test_only_the_head_of_a_network_with_given_weights_is_new(transfer: ModuleType, digits: ImageData) -> None:
    new = transfer.only(digits, 6, 10)
    weights = build_model(SMALL, 6, in_channels=1, seed=3).state_dict()
    network = transfer.new_network(new, weights, seed=1)
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items() if not name.startswith("fc."))
    assert state["fc.weight"].shape[0] == 4


@pytest.mark.slow
def test_a_first_training_then_every_way_and_the_second_call_computes_nothing(
    transfer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "digits", "--epochs", "1", "--run", str(tmp_path / "run"), "--results", str(tmp_path / "stored")]
    monkeypatch.setattr("sys.argv", ["transfer.py", *words])
    transfer.main()
    stored = json.loads((tmp_path / "stored" / "scores.json").read_text())
    assert (stored["known"], stored["new"]) == (list("012345"), list("6789"))
    rows = stored["rows"]
    ways = {"from scratch": 2, "frozen": 4, "fine-tuned": 2}
    for way, settings in ways.items():
        for count in (2, 3):
            mine = [row for row in rows if (row["way"], row["count"]) == (way, count)]
            chosen, tested = ([row for row in mine if row["split"] == split] for split in ("val", "test"))
            assert len(chosen) == settings
            assert {row["draw"] for row in chosen} == {2}
            assert {row["draw"] for row in tested} == {0, 1}
            best = max(chosen, key=lambda row: row["right"])["setting"]
            assert {row["setting"] for row in tested} == {best}
    assert len((tmp_path / "stored" / "first_training.csv").read_text().splitlines()) == 2
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(rows)

    monkeypatch.setattr(transfer.Scores, "predictions", None)
    transfer.main()
    assert capsys.readouterr().out == printed
