"""The index of a shard is made once, and again if it is damaged or older than the shard."""

from __future__ import annotations

import os

import pytest
from tests.data.test_shard_layout import labels, pack, written

from resnetlab.data import shard_index
from resnetlab.data.shard_index import index_of, read_index
from resnetlab.data.shards import read_member
from resnetlab.errors import BadInput


def test_an_index_that_is_made_later_is_the_one_that_was_written(tmp_path):
    path = written(tmp_path / "a.tar")
    before = index_of(path).read_bytes()
    index_of(path).unlink()
    read_index(path)
    assert index_of(path).read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "a.tar.index.json"]


def test_classes_that_were_changed_in_a_shard_of_the_same_size_are_read(tmp_path, caplog):
    content = [("1.jpg", b"a"), ("1.cls", b"3"), ("2.jpg", b"b"), ("2.cls", b"4")]
    path = pack(tmp_path / "a.tar", content)
    assert labels(path) == {"1.jpg": "3", "2.jpg": "4"}
    made = index_of(path).stat().st_mtime_ns
    pack(path, [*content[:1], ("1.cls", b"5"), *content[2:]])
    os.utime(path, ns=(made + 10**12, made + 10**12))  # the clock of another machine
    assert labels(path) == {"1.jpg": "5", "2.jpg": "4"}
    assert "a.tar has 1 image in another class than its index, which is made again" in caplog.text
    assert read_member(str(path), "1.jpg") == b"a"
    before = index_of(path).stat().st_mtime_ns
    assert labels(path) == {"1.jpg": "5", "2.jpg": "4"}
    assert index_of(path).stat().st_mtime_ns == before, "it is not read a third time"
    pack(path, [("1.jpg", b"x"), *content[1:]])
    os.utime(path, ns=(made + 2 * 10**12, made + 2 * 10**12))
    with pytest.raises(BadInput, match=r"a.tar does not agree with its index: 1.jpg has other bytes"):
        read_index(path)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', None])
def test_an_index_that_is_damaged_is_made_again(tmp_path, damage):
    path = written(tmp_path / "a.tar")
    before = index_of(path).read_bytes()
    index_of(path).write_bytes(before.replace(b'"c0/', b'"../', 1) if damage is None else damage)
    read_index(path)
    assert index_of(path).read_bytes() == before


def test_where_an_index_cannot_be_written_it_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = written(tmp_path / "a.tar")
    index_of(path).unlink()
    index_of(path).mkdir()  # root may write into folders that are read-only
    made = read_index(path)
    assert len(list((tmp_path / "cache/resnetlab/shards").iterdir())) == 1
    monkeypatch.setattr(shard_index, "read_samples", None)
    assert read_index(path) == made
