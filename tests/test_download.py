"""A download is complete and has the right digest, or leaves no file; nothing is printed."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from resnetlab import download as module
from resnetlab.download import download, has_digest
from resnetlab.errors import BadInput, DiskTrouble

CONTENT = bytes(range(256)) * 10_000  # 2.56 MB: three blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; the path says how it fails."""

    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path == "/broken" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Server, "requests", 0)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["file", "unsized"])
@pytest.mark.parametrize(
    ("algorithm", "digest"), [("sha256", SHA256), ("sha256", SHA256[:8]), ("md5", hashlib.md5(CONTENT).hexdigest())]
)
def test_a_file_is_downloaded_once(address: str, tmp_path: Path, algorithm, digest: str, name: str) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    assert download(f"{address}/{name}", path, algorithm=algorithm, digest=digest)
    assert path.read_bytes() == CONTENT
    assert not download(f"{address}/{name}", path, algorithm=algorithm, digest=digest)
    assert Server.requests == 1
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_a_damaged_file_is_downloaded_again(address: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT[:-1])
    assert not has_digest(path, "sha256", SHA256)
    assert download(f"{address}/file", path, algorithm="sha256", digest=SHA256)
    assert has_digest(path, "sha256", SHA256)


@pytest.mark.parametrize(
    ("name", "digest", "sentence"),
    [
        ("missing", SHA256, r"cannot reach .*404"),
        ("broken", SHA256, "(broke off|sent a file with SHA256)"),
        ("file", "0123abcd", "sent a file with SHA256 .*, which does not begin with 0123abcd"),
    ],
)
def test_a_failed_download_leaves_the_old_file_and_gives_the_steps_by_hand(
    address: str, tmp_path: Path, name: str, digest: str, sentence: str
) -> None:
    path = tmp_path / "file.bin"
    path.write_text("old")
    by_hand = f"By hand: download {address}/{name}, check that its SHA256 begins with {digest}, put it at {path}"
    with pytest.raises(BadInput, match=f"(?s){sentence}.*{by_hand}"):
        download(f"{address}/{name}", path, algorithm="sha256", digest=digest)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_a_server_that_cannot_be_reached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for url in ("http://127.0.0.1:9/x", "http://127.0.0.1:port/x"):
        with pytest.raises(BadInput, match="cannot reach"):
            download(url, tmp_path / "x", algorithm="md5", digest="00")


def test_a_folder_that_cannot_be_created_is_disk_trouble(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskTrouble, match="could not create"):
        download(f"{address}/file", tmp_path / "file" / "x", algorithm="sha256", digest=SHA256)


def test_progress_goes_to_the_log_and_nothing_is_printed(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY", 0.0)
    caplog.set_level(logging.INFO, "resnetlab")
    download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert caplog.messages[0] == f"downloading {address}/file (2.6 MB) to {tmp_path / 'x'}"
    assert caplog.messages[1] == "downloaded 1.0 of 2.6 MB"
    assert capfd.readouterr() == ("", "")
