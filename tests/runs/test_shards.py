"""A run from shards has the bits of a run from the folder that was packed, resumes, and is scored from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.files import read_sealed
from resnetlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

COMMON = ("--model", "tiny", "--stem", "cifar", "--epochs", "2", "--batch-size", "8", "--precision", "fp32")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0)
    for label, brightness in (("cat", 0), ("dog", 60)):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = drawn.integers(0, 190, (12, 12, 3), dtype=np.uint8) + np.uint8(brightness)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def weights(run: str) -> dict[str, bytes]:
    tensors, _ = read_sealed(RunFolder(Path(run)).best)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_run_from_shards_equals_one_from_the_folder(command, photos, tiny_network, monkeypatch):
    code, out, err = command("pack", photos, "--out", "shards", "--images-per-shard", "9")
    assert code == 0, err
    assert "40 images in 5 shards" in out
    assert command("train", "--data", photos, "--out", "folder", *COMMON)[0] == 0
    code, _, err = command("train", "--data", "shards/*.tar", "--out", "packed", *COMMON)
    assert code == 0, err
    assert weights("packed") == weights("folder")
    assert command("evaluate", "packed")[0] == 0
    assert command("resume", "packed", "--epochs", "3")[0] == 0
    model = shutil.copy(RunFolder(Path("packed")).best, "model.safetensors")
    code, out, err = command("evaluate", model, "--data", "shards/*.tar")
    assert code == 0, err
    assert "all 40 images" not in out + err  # the split of its training, drawn again
    shutil.move("shards", "moved")
    assert "no shard matches" in command.refuse("evaluate", "packed")
    assert command("evaluate", "packed", "--data", "moved/*.tar")[0] == 0


def test_a_run_is_refused_if_a_shard_is_gone_or_changed(command, photos, tiny_network):
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    assert command("train", "--data", "shards", "--out", "run", *COMMON)[0] == 0
    shard = Path("shards/images-00003-of-00005.tar")
    content = shard.read_bytes()
    shard.write_bytes(content[:9000])
    assert "images-00003-of-00005.tar is truncated" in command.refuse("evaluate", "run")
    shard.unlink()
    assert "lacks 1 shard of 5: images-00003-of-00005.tar" in command.refuse("evaluate", "run")


def test_bad_arguments_of_pack(command, photos):
    assert "FOLDER is missing" in command.refuse("pack")
    assert "folder not found" in command.refuse("pack", "nowhere", "--out", "shards")
    assert "--images-per-shard is 0" in command.refuse("pack", photos, "--out", "shards", "--images-per-shard", "0")
