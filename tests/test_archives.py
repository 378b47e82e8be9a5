"""Archives are unpacked whole or not at all, and only below the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from resnetlab.archives import unpack
from resnetlab.errors import BadInput, Damaged

GOOD = {"set/a/1.bin": b"one" * 1000, "set/b/2.bin": b"", "readme": b"text"}


def tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o4777
            packed.addfile(info, io.BytesIO(content))
        for info in more:
            packed.addfile(info)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_archive_replaces_what_has_its_names_and_nothing_else(tmp_path: Path, pack) -> None:
    archive, folder = pack(tmp_path / "x", GOOD), tmp_path / "out"
    (folder / "set" / "a").mkdir(parents=True)
    (folder / "set" / "a" / "old").touch()
    (folder / "mine").write_bytes(b"mine")
    unpack(archive, folder)
    unpack(archive, folder)
    assert files_in(folder) == {**GOOD, "mine": b"mine"}
    assert not os.access(folder / "readme", os.X_OK) or os.name != "posix"
    assert sorted(entry.name for entry in folder.iterdir()) == ["mine", "readme", "set"]


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        (entry("set/link", tarfile.SYMTYPE, "a/1.bin"), "link or a device: set/link"),
        (entry("set/link", tarfile.SYMTYPE, "/etc"), "link or a device"),
        (entry("set/hard", tarfile.LNKTYPE, "set/a/1.bin"), "link or a device"),
        (entry("set/pipe", tarfile.FIFOTYPE), "link or a device"),
        (entry("set/disk", tarfile.BLKTYPE), "link or a device"),
        (entry("../out", tarfile.REGTYPE), "refused|outside"),
        (entry("/etc/x", tarfile.REGTYPE), "refused|outside"),
        (entry("set/../../x", tarfile.DIRTYPE), "refused|outside"),
        (entry("..\\x", tarfile.REGTYPE), "outside"),
        (entry("C:x", tarfile.REGTYPE), "outside"),
        (entry("set/a/1.bin", tarfile.REGTYPE), "contains a name twice: 1.bin"),
    ],
)
def test_a_hostile_member_refuses_the_whole_archive(tmp_path: Path, member: tarfile.TarInfo, sentence: str) -> None:
    folder = tmp_path / "in" / "out"
    with pytest.raises(BadInput, match=sentence):
        unpack(tar(tmp_path / "x.tgz", GOOD, member), folder)
    assert list((tmp_path / "in").rglob("*")) == [folder]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_zip_paths_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="outside"):
        unpack(zipped(tmp_path / "x.zip", {**GOOD, name: b"x"}), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc")
    with pytest.raises(BadInput, match="link or a device: link"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_archive_that_is_too_large_leaves_nothing(tmp_path: Path, pack) -> None:
    archive = pack(tmp_path / "x", {"zeros": bytes(3_000_000), "more": b""})
    with pytest.raises(BadInput, match=r"unpacks to more than the 2\.0 MB allowed"):
        unpack(archive, tmp_path / "out", most_bytes=2_000_000)
    with pytest.raises(BadInput, match="more than the 1 files and folders"):
        unpack(archive, tmp_path / "out", most_files=1)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_damaged_archive_is_said_to_be_damaged(tmp_path: Path, pack) -> None:
    archive = pack(tmp_path / "x", {"noise": os.urandom(100_000)})
    content = archive.read_bytes()
    for damaged in (content[:50_000], b"nothing", b"", content[:5000] + bytes(100) + content[5100:]):
        archive.write_bytes(damaged)
        with pytest.raises(Damaged, match="cannot be unpacked"):
            unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"é.bin": b"x"})
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(Damaged, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
