"""A run from shards has the bits of a run from the folder that was packed, resumes, and is scored from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.datasets import open_dataset
from resnetlab.data.shard_index import read_index
from resnetlab.data.shuffle import WINDOW
from resnetlab.errors import BadInput
from resnetlab.files import read_sealed
from resnetlab.runs.config import DataConfig
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


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_images_in_shards_need_not_be_in_memory(*, command, photos, tiny_network, monkeypatch, tmp_path, store):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    assert command("train", "--data", "shards", "--out", "memory", "--steps", "3", *COMMON[:4], *COMMON[6:])[0] == 0
    words = ("train", "--data", "shards", "--out", "run", "--steps", "3", "--data.store", store)
    code, out, err = command(*words, *COMMON[:4], *COMMON[6:])
    assert code == 0, err
    assert "40 decoded images" in out
    assert weights("run") == weights("memory")


def test_a_run_is_refused_if_a_shard_is_gone_or_changed(command, photos, tiny_network):
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    assert command("train", "--data", "shards", "--out", "run", *COMMON)[0] == 0
    shard = Path("shards/images-00003-of-00005.tar")
    content = shard.read_bytes()
    shard.write_bytes(content[:9000])
    assert "images-00003-of-00005.tar is truncated" in command.refuse("evaluate", "run")
    shard.unlink()
    assert "lacks 1 shard of 5: images-00003-of-00005.tar" in command.refuse("evaluate", "run")


def test_the_window_changes_the_order_and_not_the_data(command, photos, tiny_network):
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    for run, window in (("a", 16384), ("b", 9), ("c", 9)):
        assert command("train", "--data", "shards", "--out", run, *COMMON, "--data.shuffle-window", window)[0] == 0
    assert weights("a") != weights("b") == weights("c")
    assert command("evaluate", "b")[0] == 0
    assert DataConfig().shuffle_window == WINDOW


def test_bad_arguments_of_pack(command, photos):
    assert "FOLDER is missing" in command.refuse("pack")
    assert "folder not found" in command.refuse("pack", "nowhere", "--out", "shards")
    assert "--images-per-shard is 0" in command.refuse("pack", photos, "--out", "shards", "--images-per-shard", "0")


@pytest.mark.parametrize("store", ["cache", "stream"])
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.usefixtures("tiny_network", "own_cache")
def test_any_store_and_number_of_workers_gives_the_same_bits(command, photos, monkeypatch, store, workers):
    monkeypatch.setattr("resnetlab.data.workers.usable_cores", lambda: workers)
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    words = ("train", "--data", "shards", *COMMON, "--data.shuffle-window", "9", "--out")
    assert command(*words, "memory")[0] == 0
    code, _, err = command(*words, "run", "--data.store", store)
    assert code == 0, err
    assert weights("run") == weights("memory")
    assert command("evaluate", "run")[0] == 0


@pytest.mark.usefixtures("own_cache")
def test_a_shard_that_is_damaged_during_streaming_is_named(command, photos):
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    data = open_dataset("shards", store="stream")
    shard = Path("shards/images-00001-of-00005.tar")
    content = bytearray(shard.read_bytes())
    for sample in read_index(shard).samples:
        content[sample.offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadInput, match=r"images-00001-of-00005.tar does not agree with its index"):
        data.train.images[:]


@pytest.mark.usefixtures("tiny_network", "own_cache")
def test_a_run_from_an_address_can_be_resumed_from_anywhere(command, photos, monkeypatch, tmp_path):
    pytest.importorskip("fsspec")
    assert command("pack", photos, "--out", "shards", "--images-per-shard", "9")[0] == 0
    assert command("train", "--data", "shards", "--out", "here", *COMMON)[0] == 0
    code, _, err = command("train", "--data", f"file://{tmp_path}/shards/*.tar", "--out", "there", *COMMON)
    assert code == 0, err
    assert weights("here") == weights("there")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert command("evaluate", "../there")[0] == 0
    assert command("resume", "../there", "--epochs", "3")[0] == 0
