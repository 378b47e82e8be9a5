"""Shards of ours and of others: which members are samples of which class; whatever is wrong is a sentence."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from resnetlab.data.digests import content_digest
from resnetlab.data.shard_index import index_of, read_index
from resnetlab.data.shard_layout import Member
from resnetlab.data.shards import open_image, read_member, write_shard
from resnetlab.errors import BadInput

Content = Sequence[tuple[str, bytes]]


def pack(path: Path, content: Content) -> Path:
    """A shard that another program made."""
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def labels(path: Path) -> dict[str, str]:
    return {sample.name: sample.label for sample in read_index(path).samples}


def written(path: Path, count: int = 5) -> Path:
    members = [(Member(f"c{i % 2}/img.{i}.PNG", f"c{i % 2}", i % 2), bytes([i]) * (100 * i + 1)) for i in range(count)]
    assert write_shard(path, members, 10_000) == count
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_index(path)
    assert str(path) in str(caught.value)
    assert not index_of(path).exists()
    return str(caught.value)


def test_the_same_samples_give_the_same_bytes(tmp_path):
    one, other = written(tmp_path / "a.tar"), tmp_path / "b.tar"
    one = one.rename(other)
    assert written(tmp_path / "a.tar").read_bytes() == one.read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the shard open
def test_webdataset_reads_what_we_write(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = written(tmp_path / "a.tar")
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["png"] for sample in found] == [bytes([i]) * (100 * i + 1) for i in range(5)]
    assert [sample["cls"] for sample in found] == [b"0", b"1", b"0", b"1", b"0"]
    assert json.loads(found[1]["json"]) == {"class": "c1", "file": "c1/img.1.PNG"}


def test_we_read_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"sample{i}", "png": b"image", "cls": i})
    assert labels(tmp_path / "a.tar") == {"sample0.png": "0", "sample1.png": "1", "sample2.png": "2"}


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"cls": b"7"}, "7"),
        ({"cls": b"tabby cat\n"}, "tabby cat"),
        ({"json": b'{"label": "cat"}'}, "cat"),
        ({"json": b'{"label": 3, "caption": "a cat"}'}, "3"),
        ({"json": b'"cat"'}, "cat"),
        ({"cls": b"3", "json": b'{"class_name": "cat"}'}, "cat"),
        ({"cls": b"3", "json": b'{"label": 4}'}, "3"),
        ({"cls": b"3", "txt": b"a cat", "json": b'{"width": 4}'}, "3"),
    ],
)
def test_labels_of_others(tmp_path, fields, label):
    content = [("train/001.jpg", b"image"), *((f"train/001.{name}", data) for name, data in fields.items())]
    path = pack(tmp_path / "a.tar", content)
    assert labels(path) == {"train/001.jpg": label}
    assert read_member(str(path), "train/001.jpg") == b"image"
    assert read_index(path).skipped == ("txt" in fields)


def test_a_folder_of_classes_that_tar_packed(tmp_path):
    names = ["./cat/a.b.jpg", "./cat/a.c.jpg", "./dog/x/1.PNG", "./dog/._1.png", "./README"]
    path = pack(tmp_path / "a.tar", [(name, b"image") for name in names])
    assert labels(path) == {"cat/a.b.jpg": "cat", "cat/a.c.jpg": "cat", "dog/x/1.PNG": "x"}
    assert read_index(path).skipped == 2


def test_hidden_and_system_folders_in_a_shard_are_no_classes(tmp_path):
    """As in a folder of images: thumbnails of a NAS, checkpoints of notebooks, and what macOS adds to archives."""
    names = ["cat/1.jpg", "dog/1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/1.jpg"]
    names += ["__MACOSX/cat/1.jpg", "dog/.cache/index.json", "cat/Thumbs.db"]
    path = pack(tmp_path / "a.tar", [(name, b"image") for name in names])
    assert labels(path) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    assert read_index(path).skipped == 5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([("1.jpg", b"a")], "1.jpg has no label"),
        ([("1.jpg", b"a"), ("1.cls", b"0"), ("2.jpg", b"b")], "the label of 2 is missing"),
        ([("1.jpg", b"a"), ("1.json", b"{}")], "the label of 1 is missing"),
        ([("1.jpg", b"a"), ("1.json", b"{")], "the label of 1 is no JSON"),
        ([("1.jpg", b"a"), ("1.cls", b"\xff\0")], "the label of 1 is not UTF-8 text"),
        ([("1.jpg", b"a"), ("1.cls", b" ")], "cannot be the name of a class"),
        ([("1.jpg", b"a"), ("1.cls", b"../x")], "cannot be the name of a class"),
        ([("1.jpg", b"a"), ("1.cls", b"0" * 2_000_000)], "too large for a label"),
        ([("1.jpg", b"a"), ("1.cls", b"0"), ("1.png", b"b")], "the key 1 twice"),
        ([("1.jpg", b"a"), ("1.cls", b"0"), ("1.jpg", b"b")], "1.jpg twice"),
        ([("c/1.jpg", b"a"), ("./c/1.jpg", b"b")], "c/1.jpg twice"),
        ([("c/1.jpg", b"")], "c/1.jpg is empty"),
        ([("c/../../1.jpg", b"a")], "c/../../1.jpg, which leads out of it"),
        ([("/etc/1.jpg", b"a")], "/etc/1.jpg, which leads out of it"),
        (
            [(f"{i}.{kind}", b'{"class": "a", "file": "a/1.jpg"}') for i in "12" for kind in ("jpg", "json")],
            "two samples of the file a/1.jpg",
        ),
    ],
)
def test_samples_that_are_refused(tmp_path, content, sentence):
    assert sentence in refusal(pack(tmp_path / "a.tar", content))


def test_the_name_of_a_file_in_json_never_leads_out(tmp_path):
    content = [("1.jpg", b"a"), ("1.json", b'{"class": "a", "file": "../../etc/passwd.jpg"}')]
    assert labels(pack(tmp_path / "a.tar", content)) == {"1.jpg": "a"}


def test_links_and_devices_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("c/1.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        assert "a link or a device" in refusal(tmp_path / "a.tar")


def test_a_shard_that_is_truncated_anywhere_is_refused(tmp_path):
    whole = written(tmp_path / "whole.tar").read_bytes()
    last = read_index(tmp_path / "whole.tar").samples[-1]
    end = last.offset + last.size
    for size in {0, 1, 511, 512, 600, last.offset, end - 1, *range(512, end, 512)}:
        path = tmp_path / "a.tar"
        path.write_bytes(whole[:size])
        assert "a.tar" in refusal(path)


@pytest.mark.parametrize("seed", range(20))
def test_damage_gives_a_sentence_or_the_bytes_of_the_index(tmp_path, seed):
    content = bytearray(written(tmp_path / "a.tar").read_bytes())
    index_of(tmp_path / "a.tar").unlink()
    drawn = random.Random(seed)
    for _ in range(3):
        content[drawn.randrange(4096)] = drawn.randrange(256)
    (tmp_path / "a.tar").write_bytes(content)
    path = tmp_path / "a.tar"
    with suppress(BadInput):
        for sample in read_index(path).samples:
            assert content_digest(read_member(str(path), sample.name)) == sample.content


def test_other_files_are_named_as_what_they_are(tmp_path):
    (tmp_path / "text.tar").write_text("no tar file\n" * 100)
    assert "is not a tar file" in refusal(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    assert "is compressed" in refusal(tmp_path / "packed.tar")
    assert "file not found" in refusal(tmp_path / "missing.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    assert "is a pipe or a device" in refusal(tmp_path / "pipe.tar")
    with pytest.raises(BadInput, match="file not found"):
        open_image(tmp_path / "missing.tar/c/1.jpg")
