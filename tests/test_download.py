"""A download is complete and has the right digest, or leaves no file; nothing is printed."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from resnetlab import download as module
from resnetlab.download import Progress, download, has_digest, watched_by
from resnetlab.errors import BadInput, DiskTrouble

CONTENT = bytes(range(256)) * 10_000  # 2.56 MB
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 1_000_000
REDIRECTIONS = {
    "moved": "/file",
    "loop": "/loop",
    "to-file": "file:///etc/hostname",
    "to-port": "http://127.0.0.1:99999/",
}


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; the path says how it fails. With "once" in the path, it fails at the first request only."""

    requests: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        how, wanted = self.path.strip("/"), self.headers["Range"]
        self.requests.append((how, wanted))
        if how.startswith("once-"):
            how = how.removeprefix("once-") if len(self.requests) == 1 else "file"
        if how.isdecimal():
            self.send_error(int(how))
        elif how in REDIRECTIONS:
            self.send_response(302)
            self.send_header("Location", REDIRECTIONS[how])
            self.end_headers()
        elif how == "garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        elif how == "silent":
            time.sleep(0.3)
        else:
            self.send_body(how, wanted)

    def send_body(self, how: str, wanted: str | None) -> None:
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        start = 0 if how == "ignores-ranges" else start
        if start >= SIZE:
            self.send_error(416)
            return
        stop = min(SIZE, start + CUT) if how == "parts" and start else SIZE
        self.send_response(206 if start else 200)
        if start:
            told = start + 7 if how == "other-range" else start
            self.send_header("Content-Range", f"bytes {told}-{stop - 1}/{SIZE}")
        if how == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if how not in ("unsized", "endless", "gzip"):
            lengths = {"huge": str(10**12), "digits": "9" * 5000}
            self.send_header("Content-Length", lengths.get(how, str(stop - start)))
        self.end_headers()
        body = CONTENT[start:stop]
        if how == "corrupt":
            body = body[:-1] + b"x"
        if how in ("broken", "parts", "other-range", "ignores-ranges"):
            body = body[:CUT]
        if how == "more":
            body += b"more"
        if how == "gzip":
            body = gzip.compress(body)
        if how == "endless":
            body *= 3
        if how in ("stalls", "drips"):
            self.wfile.write(body[:CUT] if how == "stalls" else b"")
            for place in range(10):
                time.sleep(0.04)
                self.wfile.write(body[place : place + 1] if how == "drips" else b"")
        elif how == "slow":
            for place in range(0, len(body), 640_000):
                self.wfile.write(body[place : place + 640_000])
                time.sleep(0.02)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:  # a client that went away
        pass


@pytest.fixture
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "RESUMPTIONS", 1)
    node = request.node.name
    monkeypatch.setattr(module, "TIMEOUT", 0.12 if any(how in node for how in ("silent", "stalls", "drips")) else 20.0)
    monkeypatch.setattr(Server, "requests", [], raising=False)
    with Quiet(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("name", ["file", "unsized"])
@pytest.mark.parametrize(
    ("algorithm", "digest"), [("sha256", SHA256), ("sha256", SHA256[:8]), ("md5", hashlib.md5(CONTENT).hexdigest())]
)
def test_a_file_is_downloaded_once(address: str, tmp_path: Path, algorithm, digest: str, name: str) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    assert download(f"{address}/{name}", path, algorithm=algorithm, digest=digest)
    assert path.read_bytes() == CONTENT
    assert not download(f"{address}/{name}", path, algorithm=algorithm, digest=digest)
    assert len(Server.requests) == 1
    assert names(path.parent) == ["file.bin"]
    assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_file_is_downloaded_again(address: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT[:-1])
    assert not has_digest(path, "sha256", SHA256)
    assert download(f"{address}/file", path, algorithm="sha256", digest=SHA256)
    assert has_digest(path, "sha256", SHA256)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("slow", None),
        ("more", None),
        ("digits", None),
        ("moved", "/file"),
        ("once-broken", f"bytes={CUT}-"),
        ("once-stalls", f"bytes={CUT}-"),
        ("once-drips", "bytes="),
    ],
)
def test_a_download_succeeds_in_spite_of(address: str, tmp_path: Path, name: str, second: str | None) -> None:
    """In spite of a slow server, more bytes than declared, a length that is no number, a redirection, a truncation, a
    stall; only the rest is asked for after a break."""
    assert download(f"{address}/{name}", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert names(tmp_path) == ["x"]
    asked = [wanted for _, wanted in Server.requests]
    assert asked[0] is None
    assert len(asked) == (1 if second is None else 2)
    if second and "=" in second:
        assert asked[1] is not None
        assert asked[1].startswith(second)


@pytest.mark.parametrize("name", ["broken", "parts"])
def test_tries_that_bring_much_are_not_counted(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A server that breaks off again and again, and one whose answers are shorter than the range that was asked for."""
    monkeypatch.setattr(module, "WORTH", SIZE - 2 * CUT)
    monkeypatch.setattr(module, "RESUMPTIONS", 0)
    assert download(f"{address}/{name}", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [wanted for _, wanted in Server.requests] == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]


FAILURES = {
    "404": "answers 404 Not Found",
    "500": "answers 500 Internal Server Error",
    "loop": "answers 302",
    "to-file": "answers 302 .*not allowed",
    "to-port": "cannot reach",
    "gzip": "sent a file with SHA256 .* or another file",
    "parts": "broke off after 2,000,000 of 2,560,000 bytes",
    "garbage": r"cannot reach .* \(",
    "silent": r"cannot reach .*timed out",
    "broken": "broke off after 2,000,000 of 2,560,000 bytes",
    "ignores-ranges": "broke off after 1,000,000 of 2,560,000 bytes",
    "other-range": "answers with another part than the one asked for",
    "stalls": "broke off after 2,000,000 bytes .*timed out",
    "drips": "stalls: it sent fewer than 1,000 bytes per second for 0.12 seconds",
    "corrupt": f"sent a file with SHA256 [0-9a-f]{{64}}, which does not begin with {SHA256}",
    "huge": "1,000,000.0 MB, more than the 5.0 MB allowed",
    "endless": "sends more than the 5.0 MB allowed",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_download_leaves_the_old_file_and_gives_the_steps_by_hand(
    address: str, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "file.bin"
    path.write_text("old")
    with pytest.raises(BadInput, match=FAILURES[name]) as caught:
        download(f"{address}/{name}", path, algorithm="sha256", digest=SHA256, most_bytes=5_000_000)
    by_hand = f"By hand: download {address}/{name}, check that its SHA256 begins with {SHA256}, put it at {path}"
    assert by_hand in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    keeps = name in ("broken", "parts", "ignores-ranges", "stalls", "drips")
    assert ("have arrived, and the next try asks for the rest" in str(caught.value)) == keeps
    assert names(tmp_path) == ([".file.bin.part"] if keeps else []) + ["file.bin"]


@pytest.mark.parametrize("name", [name for name in FAILURES if name not in ("silent", "stalls")])
def test_the_next_mirror_is_asked_for_what_is_missing(address: str, tmp_path: Path, name: str) -> None:
    mirrors = ["http://127.0.0.1:9/x", f"{address}/{name}", f"{address}/file"]
    assert download(mirrors, tmp_path / "x", algorithm="sha256", digest=SHA256, most_bytes=5_000_000)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        (CONTENT[:CUT], [f"bytes={CUT}-"]),
        (CONTENT, []),
        (b"x" * CUT, [f"bytes={CUT}-", None]),
        (CONTENT + b"x", [f"bytes={SIZE + 1}-", None]),
    ],
    ids=["begun", "whole", "another file", "too long"],
)
def test_the_part_of_an_earlier_try_is_used_if_the_digest_agrees(
    address: str, tmp_path: Path, part: bytes, asked: list[str | None]
) -> None:
    (tmp_path / ".x.part").write_bytes(part)
    download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [wanted for _, wanted in Server.requests] == asked
    assert names(tmp_path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="links, and locks")
def test_a_link_in_the_place_of_the_part_is_not_followed(address: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".x.part").symlink_to(tmp_path / "mine")
    download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_downloads_of_one_file_at_once_do_not_damage_each_other(address: str, tmp_path: Path) -> None:
    """Threads: each opens the part on its own, and locks belong to open files, so it is as with processes."""
    errors: list[Exception] = []

    def one() -> None:
        try:
            download(f"{address}/slow", tmp_path / "x", algorithm="sha256", digest=SHA256)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert names(tmp_path) == ["x"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(address: str, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom resnetlab import download\n"
        "download.download(sys.argv[1], pathlib.Path(sys.argv[2]), algorithm='sha256', digest=sys.argv[3])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{address}/stalls", str(tmp_path / "x"), SHA256])
    part = tmp_path / ".x.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert names(tmp_path) == [".x.part"]
    arrived = part.stat().st_size
    download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert Server.requests[-1] == ("file", f"bytes={arrived}-")
    assert names(tmp_path) == ["x"]


def test_a_server_that_cannot_be_reached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for url in ("http://127.0.0.1:9/x", "http://127.0.0.1:port/x"):
        with pytest.raises(BadInput, match="cannot reach"):
            download(url, tmp_path / "x", algorithm="md5", digest="00")
    with pytest.raises(BadInput, match=r"is no http\(s\) address"):
        download("file:///etc/hostname", tmp_path / "x", algorithm="md5", digest="00")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_disk_trouble(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskTrouble, match="could not create"):
        download(f"{address}/file", tmp_path / "file" / "x", algorithm="sha256", digest=SHA256)


def test_a_name_that_is_taken_by_a_folder_is_disk_trouble(address: str, tmp_path: Path) -> None:
    (tmp_path / "x" / "mine").mkdir(parents=True)
    with pytest.raises(DiskTrouble, match="could not write"):
        download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    assert (tmp_path / "x" / "mine").is_dir()


def test_progress_goes_to_the_log_and_to_a_watcher_and_nothing_is_printed(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY", 0.0)
    caplog.set_level(logging.INFO, "resnetlab")
    seen: list[Progress | None] = []
    with watched_by(seen.append):
        download(f"{address}/file", tmp_path / "x", algorithm="sha256", digest=SHA256)
    download(f"{address}/file", tmp_path / "y", algorithm="sha256", digest=SHA256)
    assert caplog.messages[0] == f"downloading {address}/file (2.6 MB) to {tmp_path / 'x'}"
    assert re.fullmatch(r"downloaded 0\.\d of 2\.6 MB, [\d.]+ MB/s, \d s left", caplog.messages[1])
    assert capfd.readouterr() == ("", "")
    *blocks, last = seen
    assert last is None
    received = [block.received for block in blocks if block is not None]
    assert received == sorted(received)
    assert received[-1] == SIZE
    assert all(block is not None and block.name == "x" and block.total == SIZE for block in blocks)
