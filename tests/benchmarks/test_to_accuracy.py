"""Time to accuracy: the peer's script runs unchanged on the CPU, and both sides end in one report and one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.images import make_folder
from benchmarks.options import Options
from benchmarks.peers import airbench
from benchmarks.peers.cuda_on_cpu import Clock, cpu_for_cuda

from benchmarks import to_accuracy

# As small as a script can be that wants from CUDA, and offers the adapter, what the real one does.
SCRIPT = """
import sys
with open(sys.argv[0]) as itself:
    source = itself.read()
from math import ceil
import torch
from torch import nn

@torch.compile
def zeropower_via_newtonschulz5(matrix):
    assert matrix.dtype == torch.bfloat16
    return matrix

class CifarLoader:
    def __init__(self, part):
        found = torch.load(f"cifar10/{part}.pt", map_location=torch.device("cuda"))
        self.images = found["images"].half().permute(0, 3, 1, 2) / 255
        self.labels = found["labels"]

    def __len__(self):
        return 2

    def __iter__(self):
        yield from zip(self.images.chunk(2), self.labels.chunk(2))

class CifarNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Conv2d(3, 10, 3)
        self.half()

    def forward(self, images, whiten_bias_grad=True):
        return self.filters(images).mean((2, 3))

def print_training_details(variables, is_final_entry):
    raise AssertionError("not to be heard")

def evaluate(model, loader, tta_level=0):
    return (model(loader.images).argmax(1) == loader.labels).float().mean().item()

def main(run, model):
    print("this is not the report")
    batch_size = 2000
    train, test = CifarLoader("train"), CifarLoader("test")
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    total_train_steps = ceil(8 * len(train))
    step = seconds = 0

    def stop():
        nonlocal seconds
        end.record()
        torch.cuda.synchronize()
        seconds += 1e-3 * begin.elapsed_time(end)

    begin.record()
    stop()
    for epoch in range(ceil(total_train_steps / len(train))):
        begin.record()
        for images, labels in train:
            nn.functional.cross_entropy(model(images), labels).backward()
            step += 1
            if step >= total_train_steps:
                break
        stop()
        val_acc, tta_val_acc = evaluate(model, test), None
        print_training_details(locals(), is_final_entry=False)
    begin.record()
    tta_val_acc = evaluate(model, test, tta_level=2)
    stop()
    print_training_details(locals(), is_final_entry=True)

if __name__ == "__main__":
    CifarNet().cuda()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "airbench94_muon.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images to train on and 10 to test with, of ten classes."""
    return make_folder(tmp_path_factory.mktemp("data") / "images", 40, (32, 32))


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What the adapter says of a run."""
    airbench.main([str(word) for word in words])
    said = capsys.readouterr().out
    assert said.count("\n") == 1, "one line, whatever the peer prints"
    return dict(json.loads(said))


@pytest.mark.slow
def test_a_script_for_cuda_trains_on_the_cpu_and_its_own_clock_is_reported(
    checkout: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "--peer-path", checkout, "--data", images, "--seed", 3)
    assert (found["seed"], found["train_images"], found["test_images"]) == (3, 40, 10)
    assert (found["steps"], len(found["epochs"])) == (16, 8)
    assert 0 < found["step_seconds"] < found["train_seconds"] == found["epochs"][-1]["train_seconds"]
    assert 0 <= found["test_accuracy"] == found["epochs"][-1]["accuracy"] == found["test_accuracy_tta"]
    assert told(capsys, "--peer-path", checkout, "--data", images, "--epochs", 2)["steps"] == 4


@pytest.mark.slow
def test_a_run_of_steps_is_only_timed(checkout: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--peer-path", checkout, "--data", images, "--steps", 3)
    assert found["steps"] == 3
    assert found["images_per_second"] > 0
    assert found["test_accuracy"] is None


def test_a_script_whose_length_cannot_be_found_is_refused_with_a_sentence(checkout: Path) -> None:
    file = checkout / "airbench94_muon.py"
    file.write_text("total = 8\n")
    with pytest.raises(SystemExit, match="unsupported version"):
        airbench.load_peer(file, epochs=2)


def test_nothing_of_torch_stays_patched() -> None:
    def seen() -> tuple[object, ...]:
        return torch.Tensor.half, torch.Tensor.cuda, torch.nn.Module.half, torch.cuda.Event, torch.load, torch.compile

    before = seen()
    with cpu_for_cuda(Clock(), torch.bfloat16, compiled=False):
        assert torch.ones(1).cuda().half().dtype == torch.bfloat16
        assert torch.nn.Linear(1, 1).cuda().half().weight.dtype == torch.bfloat16
        assert torch.compile(len) is torch.compile(mode="default")(len) is len
    assert seen() == before


def test_the_peer_gets_every_image_in_mixed_order(images: Path, tmp_path: Path) -> None:
    assert airbench.write_tensors(images, tmp_path / "cifar10") == {"train": 40, "test": 10}
    found = torch.load(tmp_path / "cifar10" / "train.pt")
    assert found["images"].shape == (40, 32, 32, 3)
    assert found["images"].dtype == torch.uint8
    assert found["labels"].bincount().tolist() == [4] * 10
    assert len(found["labels"][:10].unique()) > 4, "the first images whiten the input, so they must not be of one class"


@pytest.mark.slow
def test_both_sides_end_in_one_report_and_one_picture(
    checkout: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_accuracy, "RECIPE", "quickstart")
    monkeypatch.setattr(Options, "small_images", lambda *_: images)
    kept: list[dict[str, Any]] = []
    options = Options(
        rounds=1, scratch=tmp_path, quick=True, peer_path={"airbench": checkout}, say=lambda _: None, keep=kept.append
    )
    result = to_accuracy.measure(options)
    assert kept == [result]
    assert [group["unit"] for group in result["groups"]] == [
        "seconds of training",
        "% of test images",
        "% with six views",
    ]
    for group in result["groups"]:
        for row in group["contenders"]:
            assert "failed" not in row
            assert row["extra"] == {"mean": row["values"][0], "standard deviation": 0}
    assert [sample["train_images"] for (sample,) in result["samples"].values()] == [30, 40]
    to_accuracy.draw(result, tmp_path / "to_accuracy.png")
    assert (tmp_path / "to_accuracy.png").stat().st_size > 10_000


def test_without_a_checkout_the_peer_fails_with_a_sentence() -> None:
    with pytest.raises(to_accuracy.Failed, match="--peer-path airbench=FOLDER"):
        to_accuracy.airbench(None, Path(), (), 0)
