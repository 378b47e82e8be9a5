"""Shards are read by address through fsspec; what is wrong there is a sentence with the address."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.datasets import open_dataset
from resnetlab.data.pack import pack
from resnetlab.data.shard_index import index_of, read_index
from resnetlab.errors import BadInput

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            pixels = drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    list(pack(tmp_path / "photos", tmp_path / "shards", images_per_shard=7))
    return tmp_path / "shards"


@pytest.mark.parametrize("pattern", ["*.tar", "images-{00000..00003}-of-00004.tar"])
@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize("has_index", [True, False])
def test_shards_by_address_are_those_of_a_path(shards, pattern, store, has_index):
    here = open_dataset(shards)
    if not has_index:
        for path in shards.glob("*.json"):
            path.unlink()
    there = open_dataset(f"file://{shards}/{pattern}", store=store)
    for part in ("train", "val", "test"):
        one, other = getattr(here, part), getattr(there, part)
        assert one.names == other.names
        assert one.contents == other.contents
        assert torch.equal(one.images, other.images[:])
    assert any(shards.glob("*.json")) == has_index, "nothing is written there"


def test_an_index_is_made_once(shards, monkeypatch):
    path = shards / "images-00000-of-00004.tar"
    before = read_index(path)
    index_of(path).unlink()
    assert read_index(f"file://{path}") == before
    monkeypatch.setattr("resnetlab.data.shard_index.read_samples", None)
    assert read_index(f"file://{path}") == before


def test_what_is_missing_or_truncated_is_named(shards, monkeypatch):
    with pytest.raises(BadInput, match=r"file not found: file://.*images-00009"):
        open_dataset(f"file://{shards}/images-0000{{0,9}}-of-00004.tar")
    path = shards / "images-00000-of-00004.tar"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(BadInput, match=r"images-00000-of-00004.tar is truncated"):
        open_dataset(f"file://{shards}/*.tar")
    path.unlink()
    with pytest.raises(BadInput, match=r"lacks 1 shard of 4: images-00000-of-00004.tar"):
        open_dataset(f"file://{shards}/*.tar")
    with pytest.raises(BadInput, match=r"nowhere://x/a.tar cannot be read: Protocol not known: nowhere"):
        open_dataset("nowhere://x/a.tar")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(BadInput, match=r"pip install 'resnetlab\[remote\]'"):
        open_dataset("s3://x/a.tar")
