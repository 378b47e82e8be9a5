"""A sealed file is read back whole or refused, and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from resnetlab import files
from resnetlab.cli.config_file import read_settings
from resnetlab.data.manifest import read_manifest
from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.files import KEY, UNSEALED, read_sealed, write_json, write_sealed, write_text
from resnetlab.runs.evaluation_files import read_metrics
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import read_rows
from resnetlab.runs.log import RunLog

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "steps": torch.tensor(5),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
}
FACTS: dict[str, Any] = {"format": "test", "classes": ["naïve", "猫", 'quo"te', "line\nbreak"], "none": None, "x": 0.1}


def small(path: Path) -> bytes:
    """A sealed file of a few hundred bytes, and what it contains."""
    write_sealed(path, {"w": torch.tensor([1.0, 2.0])}, {"format": "test"})
    return path.read_bytes()


def alone(path: Path) -> bool:
    """Whether there is no other file, hidden ones included."""
    return [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_was_sealed_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    digest = write_sealed(path, TENSORS, FACTS)
    tensors, facts = read_sealed(path)
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert len(digest) == 64
    assert digest.encode() in path.read_bytes()
    assert alone(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_digest_is_that_of_the_file_with_its_own_place_zeroed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    digest = write_sealed(path, TENSORS, FACTS)
    content = path.read_bytes()
    assert content.count(digest.encode()) == 1
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "a.bin", tmp_path / "b.bin"
    write_sealed(one, TENSORS, FACTS)
    write_sealed(other, dict(reversed(TENSORS.items())), FACTS)
    assert one.read_bytes() == other.read_bytes()


def test_memory_layout_does_not_matter(tmp_path: Path) -> None:
    kernel = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    one, other = tmp_path / "a.bin", tmp_path / "b.bin"
    write_sealed(one, {"k": kernel}, {})
    write_sealed(other, {"k": kernel.to(memory_format=torch.channels_last)}, {})
    assert one.read_bytes() == other.read_bytes()
    assert torch.equal(read_sealed(other)[0]["k"], kernel)


@pytest.mark.parametrize("change", [1, 0x20], ids=["lowest bit", "letter case"])
def test_every_flipped_bit_is_noticed_at_every_byte(change: int, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = small(path)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= change
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match="damaged"):
            read_sealed(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = small(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BadInput, match="damaged"):
            read_sealed(path)


@pytest.mark.parametrize("more", [b"\0", b" ", b"\n", b"x" * 1000])
def test_bytes_at_either_end_are_noticed(more: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = small(path)
    for changed in (content + more, more + content):
        path.write_bytes(changed)
        with pytest.raises(BadInput, match="damaged"):
            read_sealed(path)


def header(text: str | bytes, rest: bytes = b"") -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return len(encoded).to_bytes(8, "little") + encoded + rest


def resealed(content: bytes) -> bytes:
    """What someone makes who knows how the digest is computed."""
    return content.replace(UNSEALED.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def metadata(facts: object, **tensors: Any) -> str:
    return json.dumps({"__metadata__": {KEY: json.dumps(facts)}, **tensors})


WELL = {"digest": UNSEALED}
FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x01",
    "zeros": bytes(1000),
    "text": b"this is no model at all, but a letter to you\n" * 9,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a zip, as torch.save makes it": b"PK\x03\x04" + bytes(200),
    "a length beyond the file": (2**62).to_bytes(8, "little") + b"{}",
    "a length beyond any sense": b"\xff" * 40,
    "no JSON": header("{no json"),
    "JSON too deep": header("[" * 100_000),
    "a number too long": header("9" * 10_000),
    "no UTF-8": header(b'{"\xff\xfe": 1}'),
    "a list": header("[]"),
    "no metadata": header("{}"),
    "metadata that are a list": header('{"__metadata__": []}'),
    "facts that are no JSON": header(json.dumps({"__metadata__": {KEY: "{"}})),
    "facts that are no text": header(json.dumps({"__metadata__": {KEY: 5}})),
    "facts that are a list": header(metadata([1, 2])),
    "no digest": header(metadata({"format": "test"})),
    "a digest that is a number": header(metadata({"digest": 5})),
    "a digest that is too short": header(metadata({"digest": "00"})),
    "a digest that is no text": header(metadata({"digest": "\ud800" * 64}), b"?" * 64),
    "a digest of foreign letters": header(metadata({"digest": "é" * 64})),
    "safetensors from elsewhere": save({"w": torch.zeros(3)}),
    "safetensors with notes from elsewhere": save({"w": torch.zeros(3)}, {"format": "pt"}),
    "resealed, tensors beyond the end": resealed(
        header(metadata(WELL, w={"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}), b"1234")
    ),
    "resealed, shape and size differ": resealed(
        header(metadata(WELL, w={"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}), b"1234")
    ),
    "resealed, of an unknown type": resealed(
        header(metadata(WELL, w={"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}), b"1234")
    ),
    "resealed, of a type torch has not": resealed(
        header(metadata(WELL, w={"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}), b"123")
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(BadInput, match="damaged") as error:
        read_sealed(path)
    assert len(str(error.value).removeprefix(str(path))) < 120
    assert "\n" not in str(error.value)


def test_foreign_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="is not a file that resnetlab wrote"):
        read_sealed(tmp_path / "a.safetensors")


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(BadInput, match="could not read"):
            read_sealed(path)


def test_json_is_utf_8_whatever_the_names_and_reads_back_the_same(tmp_path: Path) -> None:
    value = {"naïve 猫": ["not utf-8 \udcff", "\\udcff", "\x1b\n", None, 0.1, 2**70]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "naïve 猫" in text  # for people to read
    write_text(tmp_path / "a.txt", "猫 \udcff\n")
    assert os.fsdecode((tmp_path / "a.txt").read_bytes()) == "猫 \udcff\n"


def write_model(path: Path) -> None:
    write_sealed(path, {"w": torch.zeros(50_000)}, {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "new" * 100),
    "json": lambda path: write_json(path, {"new": list(range(100))}),
    "a small file": lambda path: write_sealed(path, {"w": torch.zeros(1)}, {}),
    "a large file": write_model,
}


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes, as on a disk that is full: the write fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_fails_half_way_leaves_the_older_file(writer: str, older: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    if older:
        path.write_bytes(b"older")
    with file_size_limit(20), pytest.raises(DiskTrouble, match=r"could not write .*a\.bin: File too large"):
        WRITERS[writer](path)
    require_untouched(path, older)


def require_untouched(path: Path, older: bool) -> None:
    if older:
        assert path.read_bytes() == b"older"
        assert alone(path)
    else:
        assert not list(path.parent.iterdir())


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_failing_call_of_the_system_leaves_the_older_file(
    call: str, older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    if older:
        path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DiskTrouble, match=r"could not write .*a\.bin: Input/output error"):
        write_model(path)
    monkeypatch.undo()
    require_untouched(path, older)


def test_a_folder_that_is_not_there_is_trouble_with_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskTrouble, match=r"could not write .*: No such file or directory"):
        write_text(tmp_path / "none" / "a.txt", "")


def test_an_interrupted_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"older")

    def interrupted() -> None:
        with files.replacing(path, 5) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    require_untouched(path, older=True)


def test_the_file_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could leave the new name on an empty file, or the old file under the name."""
    path = tmp_path / "a.bin"
    done: list[tuple[str, object]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "file"
        done.append((f"flush {kind}", status.st_ino if kind == "folder" else status.st_size))
        fsync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        done.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_model(path)
    assert done == [
        ("flush file", path.stat().st_size),  # all of it had been handed over
        ("rename", str(path)),
        ("flush folder", tmp_path.stat().st_ino),
    ]


def test_the_cache_is_in_the_first_folder_that_can_be_used(tmp_path, monkeypatch):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(files.tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "resnetlab"
    for unset in ("", "relative", "/proc/nowhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert files.cache_folder() == home / ".cache" / "resnetlab"
    assert not list(temporary.iterdir())
    for unusable in ("/proc/nowhere", "relative"):
        monkeypatch.setenv("HOME", unusable)
        private = files.cache_folder()
        assert private == temporary / f"resnetlab-{os.getuid()}"
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_a_user_without_a_name_or_a_home_has_a_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(files.Path, "lstat", lambda self: os.stat_result((0o40700, 0, 0, 0, 54321, 0, 0, 0, 0, 0)))
    assert files.cache_folder() == tmp_path / "resnetlab-54321"


@pytest.mark.parametrize("trap", ["link", "writable by all"])
def test_a_temporary_cache_that_others_can_write_to_is_refused(tmp_path, monkeypatch, trap):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"resnetlab-{os.getuid()}"
    if trap == "link":
        folder.symlink_to(tmp_path, target_is_directory=True)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(DiskTrouble, match="not a private folder of this user"):
        files.cache_folder()


READERS = {
    "settings.json": read_settings,
    "settings.toml": read_settings,
    "config.json": lambda path: RunFolder(path.parent).read_json(path.name),
    "metrics.jsonl": lambda path: read_rows(path.parent),
    "metrics.json": lambda path: read_metrics(path.parent),
    "labels.csv": lambda path: read_manifest(path, path.parent, None),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_whatever_reads_a_text_file_refuses_what_is_no_regular_file_without_waiting(tmp_path, name, kind):
    path = tmp_path / name
    make = {"pipe": os.mkfifo, "device": lambda place: place.symlink_to("/dev/zero"), "folder": Path.mkdir}
    make[kind](path)
    with pytest.raises(BadInput, match=r"(it is not a regular file|Is a directory)$") as refusal:
        READERS[name](path)
    assert str(path) in str(refusal.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path, caplog):
    os.mkfifo(tmp_path / "log.txt")
    log = RunLog(tmp_path / "log.txt")
    log.info("one")
    assert log.file is None
    assert "it is not a regular file" in caplog.text
