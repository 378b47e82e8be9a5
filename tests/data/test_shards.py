"""Images in shards are read by their paths, and are the ones that were written."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_shard_layout import labels, pack, written

from resnetlab.data import shard_index
from resnetlab.data.digests import content_digest
from resnetlab.data.shard_index import read_index
from resnetlab.data.shard_layout import Member
from resnetlab.data.shards import contents_in_shards, open_image, read_member, write_shard
from resnetlab.errors import BadInput


@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=20))
def test_what_is_written_is_read_by_name_and_by_offset(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    members = [Member(f"c/{i}.png", f"class {i % 3}", i % 3) for i in range(len(contents))]
    write_shard(path, zip(members, contents, strict=True), 0)
    samples = read_index(path).samples
    assert [(s.name, s.label) for s in samples] == [(member.name, member.label) for member in members]
    raw = path.read_bytes()
    for sample, content in zip(samples, contents, strict=True):
        assert raw[sample.offset : sample.offset + sample.size] == content
        assert read_member(str(path), sample.name) == content
        assert sample.content == content_digest(content)


def test_a_shard_that_was_replaced(tmp_path):
    path = written(tmp_path / "a.tar")
    name = read_index(path).samples[2].name
    content = bytearray(path.read_bytes())
    content[read_index(path).samples[2].offset] ^= 1
    path.write_bytes(content)  # of the same size
    with pytest.raises(BadInput, match=r"a.tar does not agree with its index: c0/img.2.PNG has other bytes"):
        read_member(str(path), name)
    written(path, 9)
    assert len(read_index(path).samples) == 9
    written(path, 9)
    pack(path, [("c/1.jpg", b"a")])  # of another size
    assert labels(path) == {"c/1.jpg": "c"}
    with pytest.raises(BadInput, match=r"a.tar has no image named c0/img.2.PNG"):
        read_member(str(path), name)


def test_slow_shards_are_named(tmp_path, monkeypatch, caplog):
    path = written(tmp_path / "a.tar")
    with caplog.at_level(logging.WARNING):
        read_member(str(path), "c0/img.0.PNG")
        assert not caplog.messages
        monkeypatch.setattr(shard_index, "SLOW", -1.0)
        read_member(str(path), "c0/img.0.PNG")
    (message,) = caplog.messages
    assert message == f"{path} is slow: reading 1 bytes took 0 s"


def test_a_folder_may_be_called_like_a_shard(tmp_path):
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.tar/1.jpg").write_bytes(b"image")
    with open_image(tmp_path / "x.tar/1.jpg") as file:
        assert file.read() == b"image"
    written(tmp_path / "x.tar/a.tar")
    with open_image(tmp_path / "x.tar/a.tar/c0/img.0.PNG") as file:
        assert file.read() == b"\0"


def test_contents_come_from_the_index(tmp_path):
    path = written(tmp_path / "a.tar")
    names = ["a.tar/c0/img.0.PNG", "a.tar/other.png", "b.tar/1.png", "c/1.png"]
    assert contents_in_shards(str(tmp_path), names) == {"a.tar/c0/img.0.PNG": content_digest(b"\0")}
    assert path.exists()
