"""Real CIFAR-10 images, as JPEG files in folders: minutes, so these run in CI and with `make test-slow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resnetlab import load
from resnetlab.files import read_sealed
from resnetlab.runs.folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def all_threads() -> Any:
    """The other tests run on one thread each; these run alone."""
    torch.set_num_threads(torch.get_num_interop_threads())
    yield
    torch.set_num_threads(1)


def test_resnet20_learns_in_two_epochs_and_scores_every_test_image(
    cifar10_jpeg: Path, command: Any, tmp_path: Path
) -> None:
    """The paper's network and augmentation; two epochs of a short schedule reach 60 % with room to spare."""
    code, out, err = command(
        "train", "notebook-resnet18", "--data", cifar10_jpeg, "--model", "resnet20", "--epochs", 2, "--out", "run"
    )
    assert code == 0, err
    assert "45,000 train, 5,000 val, 5,000 test" in out
    test = RunFolder.open(tmp_path / "run").final_metrics("test")
    assert test is not None
    assert test["images"] == 5000
    assert [row["support"] for row in test["per_class"]] == [500] * 10
    assert test["accuracy"] > 0.5
    classifier = load(tmp_path / "run")
    pictures = sorted((cifar10_jpeg / "test" / "ship").iterdir())[:200]
    right = sum(prediction.predicted == "ship" for prediction in classifier(list(pictures)))
    recall = next(row["recall"] for row in test["per_class"] if row["name"] == "ship")
    assert abs(right / 200 - recall) < 0.12


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_real_images_a_stopped_run_resumes_to_the_same_bits_on_all_threads(
    cifar10_jpeg: Path, precision: str, command: Any, tmp_path: Path
) -> None:
    train = ("train", "cifar10-resnet18", "--data", cifar10_jpeg, "--steps", 6, "--precision", precision)
    train += ("--final-test", "never")
    assert command(*train, "--out", "straight")[0] == 0
    assert command(*train, "--out", "stopped", "--max-minutes", 0)[0] == 6
    assert command("resume", "stopped")[0] == 0
    one, other = (read_sealed(RunFolder(tmp_path / n).all_checkpoints()[0])[0] for n in ("straight", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
