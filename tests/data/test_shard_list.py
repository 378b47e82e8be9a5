"""Shards are found by folder and by pattern, opened as training data, and give the bits of the folder they have."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.datasets import open_dataset
from resnetlab.data.folder import scan
from resnetlab.data.pack import pack
from resnetlab.data.shard_index import index_of, read_index
from resnetlab.data.shard_list import find_in_shards, is_shards, shards_in
from resnetlab.data.shards import read_member
from resnetlab.errors import BadInput, DiskTrouble


def photos(root: Path, splits: tuple[str, ...] = ("",), count: int = 12) -> Path:
    drawn = np.random.default_rng(0)
    for split in splits:
        for label in ("cat", "dog"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{label}.{i}.png")
    return root


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".tar")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    assert len(list(pack(photos(tmp_path / "photos"), tmp_path / "shards", images_per_shard=7))) == 4
    return tmp_path / "shards"


def inner(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.partition(".tar/")[2] for name in names)


def test_a_packed_folder_opens_as_the_same_data(shards, tmp_path):
    folder, packed = open_dataset(tmp_path / "photos"), open_dataset(shards)
    assert names_in(shards) == [f"images-{i:05d}-of-00004.tar" for i in range(4)]
    assert packed.classes == folder.classes == ("cat", "dog")
    assert packed.preprocessing == folder.preprocessing
    for part in ("train", "val", "test"):
        one, other = getattr(folder, part), getattr(packed, part)
        assert inner(other.names) == one.names
        assert torch.equal(other.images, one.images)
        assert torch.equal(other.labels, one.labels)
        assert other.contents == one.contents


def test_splits_stay(tmp_path):
    source = photos(tmp_path / "photos", ("train", "test"), count=3)
    assert len(list(pack(source, tmp_path / "shards", images_per_shard=4))) == 4
    packed, folder = scan(tmp_path / "shards"), scan(source)
    assert packed.layout == folder.layout == "train/test"
    assert inner(packed.train.names) == folder.train.names
    assert packed.test is not None
    assert folder.test is not None
    assert inner(packed.test.names) == folder.test.names
    assert packed.test.labels.tolist() == folder.test.labels.tolist()
    assert packed.val is None


@pytest.mark.parametrize(
    "pattern",
    ["*.tar", "images-0000?-of-00004.tar", "images-{00000..00003}-of-00004.tar", "images-0000{0,1}{,}*.tar", ""],
)
def test_patterns(shards, pattern):
    source = f"{shards}/{pattern}" if pattern else shards
    assert is_shards(source)
    if "{,}" in pattern:
        with pytest.raises(BadInput, match="twice"):
            shards_in(source)
    else:
        assert [path.name for path in shards_in(source)] == names_in(shards)


def test_ranges_count_with_and_without_zeros(tmp_path):
    for number in (8, 9, 10):
        (tmp_path / f"{number}.tar").touch()
        (tmp_path / f"{number:03}.tar").touch()
    assert [path.stem for path in shards_in(f"{tmp_path}/{{8..10}}.tar")] == ["8", "9", "10"]
    assert [path.stem for path in shards_in(f"{tmp_path}/{{008..010}}.tar")] == ["008", "009", "010"]
    for pattern in ("{3..1}", "{0..9999999}", "{0..999}{0..9999}"):
        with pytest.raises(BadInput, match=r"must count up|can be named"):
            shards_in(f"{tmp_path}/{pattern}.tar")


def test_missing_shards_are_named(shards):
    with pytest.raises(BadInput, match=r"2 shards of 6 in .* not found: images-00004-of-00004.tar, images-00005"):
        shards_in(f"{shards}/images-{{00000..00005}}-of-00004.tar")
    with pytest.raises(BadInput, match="no shard matches"):
        shards_in(f"{shards}/other-*.tar")
    (shards / "images-00002-of-00004.tar").unlink()
    for source in (shards, f"{shards}/*.tar"):
        with pytest.raises(BadInput, match=r"lacks 1 shard of 4: images-00002-of-00004.tar"):
            scan(source)
    assert len(scan(f"{shards}/images-{{00000..00001}}-of-00004.tar")) == 12  # a part, as given


def test_damaged_shards_are_named(shards):
    path = shards / "images-00002-of-00004.tar"
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(BadInput, match=r"images-00002-of-00004.tar is truncated or damaged"):
        open_dataset(shards)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadInput, match=r"images-00002-of-00004.tar is a pipe or a device"):
        open_dataset(shards)


def test_a_shard_that_changes_after_it_was_listed_is_named(shards):
    path = shards / "images-00002-of-00004.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"images-00002-of-00004.tar does not agree with its index"):
        open_dataset(shards)


def test_splits_must_be_in_all_names_or_in_none(shards):
    (shards / "images-00002-of-00004.tar").rename(shards / "train-7.tar")
    with pytest.raises(
        BadInput, match=r"images-00000-of-00004.tar has no split in its name, but .*train-7.tar has one"
    ):
        scan(f"{shards}/*-*{{0000[0-3]-of-00004,7}}.tar")


def test_folders_of_splits(tmp_path):
    for part in ("train", "val"):
        list(pack(photos(tmp_path / part, count=2), tmp_path / "shards" / part))
    listing = scan(f"{tmp_path}/shards/*/*.tar")
    assert listing.layout == "train/val"
    assert listing.train.names[0] == "train/images-00000-of-00001.tar/cat/cat.0.png"


def test_a_folder_of_classes_may_have_a_tar_file(tmp_path):
    folder = photos(tmp_path / "photos")
    (folder / "source.tar").touch()
    assert not is_shards(folder)
    assert len(scan(folder)) == 24


def test_packing_again_continues(shards, tmp_path, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    (shards / "images-00001-of-00004.tar").write_bytes(b"")
    index_of(shards / "images-00003-of-00004.tar").unlink()
    (shards / ".images-00001-of-00004.tar.abc.tmp").touch()
    list(pack(tmp_path / "photos", shards, images_per_shard=7))
    after = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert after.keys() == before.keys()
    assert {name[7:12] for name in after if after[name] != before[name]} == {"00001", "00003"}
    assert len(open_dataset(shards).train)
    with pytest.raises(BadInput, match=r"has other files \(images-00000-of-00004.tar and 7 more\)"):
        pack(tmp_path / "photos", shards, images_per_shard=5)


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    source = photos(tmp_path / "photos")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskTrouble, match=r"could not write .*tar: No space left on device"):
        list(pack(source, tmp_path / "shards"))
    assert list((tmp_path / "shards").iterdir()) == []


def test_what_cannot_be_packed(shards, tmp_path):
    with pytest.raises(BadInput, match="has shards already"):
        pack(shards, tmp_path / "again")
    with pytest.raises(BadInput, match="`images_per_shard` is 0"):
        pack(tmp_path / "photos", tmp_path / "again", images_per_shard=0)
    (tmp_path / "photos/cat/empty.png").touch()
    with pytest.raises(BadInput, match=r"empty.png is an empty file"):
        list(pack(tmp_path / "photos", tmp_path / "again"))


def test_a_tar_file_of_a_whole_folder_has_its_splits(tmp_path):
    folder = photos(tmp_path / "photos", ("train", "test"), count=3)
    for root, name in ((folder, "whole"), (folder / "train", "part"), (tmp_path, "wrapped")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(root, ".", filter=lambda info: None if info.name.endswith(".tar") else info)
    listing, plain = scan(tmp_path / "whole.tar"), scan(folder)
    assert listing.layout == plain.layout == "train/test"
    assert inner(listing.train.names) == plain.train.names
    assert scan(tmp_path / "wrapped.tar").layout == "train/test"
    assert scan(tmp_path / "part.tar").layout == "classes"
    assert scan(tmp_path / "part.tar").classes == ("cat", "dog")


def test_shards_without_images_are_named(tmp_path):
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    with pytest.raises(BadInput, match=r"none.tar has no images, but 0 other files"):
        scan(tmp_path / "none.tar")


def test_listing_shards_keeps_few_bytes_for_a_sample(tmp_path: Path) -> None:
    """A name has 49 bytes as an object besides its letters; a set of 1,000,000 images is listed in 0.15 GB."""
    count, per_shard = 4_000, 2_000
    (tmp_path / "shards").mkdir()
    for first in range(0, count, per_shard):
        shard = tmp_path / "shards" / f"{first // per_shard:03d}.tar"
        shard.write_bytes(bytes(per_shard))  # only its size is looked at, because it has an index
        samples = [
            [f"n{i % 100:08d}/{i:08d}.jpg", f"n{i % 100:08d}", i - first, 1, f"1-{i:032x}"]
            for i in range(first, first + per_shard)
        ]
        index = {"format": "resnetlab shard index, version 1", "size": per_shard, "skipped": 0, "samples": samples}
        index_of(shard).write_text(json.dumps(index))
    tracemalloc.start()
    try:
        listing = scan(tmp_path / "shards")
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(listing) == count
    assert kept < 160 * count


def test_eval_beside_val_and_test_is_refused(tmp_path: Path) -> None:
    """It replaced the val split."""
    folder = photos(tmp_path / "photos", ("train", "val", "eval", "test"), count=3)
    (tmp_path / "shards").mkdir()
    for split in ("train", "val", "eval"):
        with tarfile.open(tmp_path / "shards" / f"{split}-000.tar", "w") as archive:
            archive.add(folder / split, ".")
    listing = scan(tmp_path / "shards")
    assert {name.partition("-")[0] for name in listing.val.names} == {"val"}
    assert {name.partition("-")[0] for name in listing.test.names} == {"eval"}
    with tarfile.open(tmp_path / "shards" / "test-000.tar", "w") as archive:
        archive.add(folder / "test", ".")
    with pytest.raises(BadInput, match=r"has shards of val, test and a fourth split \(eval or holdout\)"):
        scan(tmp_path / "shards")


def test_packing_tells_what_is_skipped_and_that_groups_are_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resnetlab")
    folder = photos(tmp_path / "photos", count=3)
    (folder / "cat" / "notes.txt").touch()
    list(pack(folder, tmp_path / "shards"))
    assert "skipped: 1 .txt file in cat" in caplog.text
    assert "groups" not in caplog.text
    rows = [f"{name}/{name}.{i}.png,{name},g{i}" for name in ("cat", "dog") for i in range(3)]
    (folder / "pets.csv").write_text("\n".join(["file,label,group", *rows]))
    list(pack(folder / "pets.csv", tmp_path / "others"))
    assert "shards hold no groups, and the images have no test and no val split" in caplog.text


def test_a_folder_with_brackets_in_its_name_is_meant_as_it_is(shards: Path) -> None:
    odd = shards.rename(shards.with_name("shards [v2]"))
    assert len(shards_in(f"{odd}/*.tar")) == len(shards_in(f"{odd}/images-{{00000..00003}}-of-00004.tar")) == 4
    with pytest.raises(BadInput, match="no shard matches"):
        shards_in(f"{odd}/other-*.tar")


LISTING = """
import sys, time
from resnetlab.data import shard_index
from resnetlab.data.shard_list import find_in_shards
scan, made = shard_index.read_samples, []
def slowly(shard, *rest):
    made.append(shard)
    time.sleep(0.1)
    return scan(shard, *rest)
shard_index.read_samples = slowly
print("ready", flush=True)
sys.stdin.readline()
print(find_in_shards(sys.argv[1])[1])
print(len(made), flush=True)
"""


@pytest.mark.parametrize("place", ["beside", pytest.param("cache", marks=pytest.mark.slow)])
def test_several_processes_share_the_making_of_indexes(
    shards: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard is read by one of them, and all find the same images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    list(pack(tmp_path / "photos", tmp_path / "many", images_per_shard=3))
    for index in tmp_path.glob("many/*.json"):
        index.unlink()
        if place == "cache":
            index.mkdir()  # root may write into folders that are read-only
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    words = [sys.executable, "-c", LISTING, str(tmp_path / "many")]
    processes = [
        subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "012"
    ]
    found, made = [], []
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            parts, count = process.communicate(timeout=60)[0].splitlines()
            found.append(parts)
            made.append(int(count))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sum(made) == 8, made
    assert min(made) >= 1, made
    assert found == [str(find_in_shards(tmp_path / "many")[1])] * 3
    assert not list(tmp_path.rglob("*.lock"))


def test_an_image_that_changed_is_packed_again(shards: Path, tmp_path: Path) -> None:
    """Also one of the same size, which its shard does not show."""
    (name,) = (s.name for s in read_index(shards / "images-00002-of-00004.tar").samples[:1])
    path = tmp_path / "photos" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    later = index_of(shards / "images-00002-of-00004.tar").stat().st_mtime_ns + 10**9  # whatever the clock counts in
    os.utime(path, ns=(later, later))
    before = {shard.name: shard.stat().st_mtime_ns for shard in shards.glob("*.tar")}
    list(pack(tmp_path / "photos", shards, images_per_shard=7))
    after = {shard.name: shard.stat().st_mtime_ns for shard in shards.glob("*.tar")}
    assert {shard for shard in after if after[shard] != before[shard]} == {"images-00002-of-00004.tar"}
    assert read_member(str(shards / "images-00002-of-00004.tar"), name) == content


def test_images_in_shards_are_not_packed_again(shards: Path, tmp_path: Path) -> None:
    rows = [f"{s.name},{s.label}" for path in sorted(shards.glob("*.tar")) for s in read_index(path).samples]
    shard = {s.name: path.name for path in shards.glob("*.tar") for s in read_index(path).samples}
    table = shards.parent / "pets.csv"
    table.write_text("\n".join(["file,label", *(f"shards/{shard[row.partition(',')[0]]}/{row}" for row in rows)]))
    with pytest.raises(BadInput, match=r"\.tar/cat/cat\.\d+\.png is in a shard already; give a table of image files"):
        pack(table, tmp_path / "again")
    assert not (tmp_path / "again").exists()
