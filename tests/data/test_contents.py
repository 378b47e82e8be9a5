"""Content digests: what changes them, and the cache that spares reading a file again."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from resnetlab.data import contents, open_dataset
from resnetlab.data.contents import contents_of, remember
from resnetlab.data.digests import content_digest


@pytest.fixture(autouse=True)
def with_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LEAST_FILES", 1)
    monkeypatch.setattr(contents, "SETTLED", -(10**15))  # as if all files were old


def test_a_digest_is_the_size_and_xxh3_of_the_bytes() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    assert content_digest(pixels.tobytes()) == f"12-{xxhash.xxh3_128_hexdigest(bytes(range(12)))}"
    assert content_digest(pixels) == content_digest(pixels.tobytes())
    assert content_digest(pixels.transpose(2, 0, 1)) == content_digest(pixels.transpose(2, 0, 1).tobytes())


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    first = contents_of(tmp_path, ["a", "b"])
    assert first == {name: content_digest(name.encode()) for name in "ab"}
    read: list[bytes] = []
    monkeypatch.setattr(contents, "content_digest", lambda content: read.append(content) or content_digest(content))
    assert contents_of(tmp_path, ["a", "b"]) == first
    assert not read
    (tmp_path / "b").write_text("c")  # the same size
    assert contents_of(tmp_path, ["a", "b"])["b"] == content_digest(b"c")
    assert read == [b"c"]


def test_a_change_that_keeps_the_time_of_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    contents_of(tmp_path, ["a"])
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("b")
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents_of(tmp_path, ["a"])["a"] == content_digest(b"b")


def test_files_that_changed_a_moment_ago_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SETTLED", 2 * 10**9)
    (tmp_path / "a").write_text("a")
    contents_of(tmp_path, ["a"])
    remember(tmp_path, {"a": "1-made up"}, time.time_ns())
    assert contents_of(tmp_path, ["a"]) == {"a": content_digest(b"a")}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    assert contents_of(tmp_path, ["pipe", "folder", "link", "nothing"]) == {}


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "other"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a").write_text("a")
    contents_of(tmp_path, ["a"])
    (cache,) = (tmp_path / "cache" / "resnetlab" / "contents").iterdir()
    whole, right = cache.read_bytes(), content_digest(b"a")
    assert right.encode() in whole
    wrong = whole.replace(right.encode(), b"1-" + 32 * b"0")
    cache.write_bytes({"empty": b"", "cut": whole[:-1], "changed": wrong, "other": b'{"a": [1, 2, 3, "4"]}'}[damage])
    assert contents_of(tmp_path, ["a"]) == {"a": right}
    assert cache.read_bytes() == whole


def test_any_name_can_be_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a b", "line\nfeed", "tab\t1 2 3", "é", os.fsdecode(b"not utf-8 \xff"), "1 2 3 4-5"]
    for name in names:
        (tmp_path / name).write_text(name, errors="surrogateescape")
    first = contents_of(tmp_path, names)
    monkeypatch.setattr(contents, "content_digest", lambda _: "read again")
    assert contents_of(tmp_path, names) == first
    assert len(set(first.values())) == len(names)


def test_an_opened_folder_has_the_digest_of_every_file(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(12):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "a" / "12.png").write_bytes(b"not an image")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    data = open_dataset(tmp_path / "data", image_size=8, bad_images="skip", val_fraction=0.3, test_fraction=0.3)
    for split in (data.train, data.val, data.test):
        paths = [tmp_path / "data" / name for name in split.names]
        assert split.contents == tuple(content_digest(path.read_bytes()) for path in paths)
        assert split.subset([1]).contents == split.contents[1:2]
    # equal images have equal digests, whatever their names
    by_name = {n: c for s in (data.train, data.val, data.test) for n, c in zip(s.names, s.contents, strict=True)}
    assert by_name["a/3.png"] == by_name["b/3.png"] != by_name["a/2.png"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_a_named_data_set_has_the_digests_of_its_published_pixels() -> None:
    small, large = open_dataset("digits"), open_dataset("digits", image_size=16)
    assert len(set(small.train.contents)) > 1200
    assert small.train.contents == large.train.contents
    assert small.train.contents_digest == large.train.contents_digest != small.train.digest


def test_opening_a_folder_remembers_large_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        for i in range(12):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "data" / name / f"{i}.png")
    written: list[Path] = []
    monkeypatch.setattr(contents, "replacing", lambda file, _: written.append(file) or io.BytesIO())
    for least, caches in ((10**9, 0), (1, 1)):
        monkeypatch.setattr(contents, "LEAST_BYTES", least)
        open_dataset(tmp_path / "data", image_size=8, val_fraction=0.3, test_fraction=0.3)
        assert len(written) == caches
