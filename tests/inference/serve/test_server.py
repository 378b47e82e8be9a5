"""The server as a process: hostile clients, memory, and its end."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

Picture = Callable[..., bytes]
HEAD = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server(start_server: Any, model_file: Path) -> Iterator[Any]:
    with start_server(model_file, "--timeout", "2") as running:
        yield running


def post(server: Any, content: bytes, path: str = "/predict", **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, content=content, timeout=60, **options)


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_mutated_uploads_are_answered_with_a_sentence(server: Any, make_picture: Picture) -> None:
    """1,000 files: flipped bytes, cut ends, joined halves; and forms that were changed in the same ways."""
    chance = random.Random(0)
    kinds = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    files = [make_picture(seed, kind=kind) for seed, kind in enumerate(kinds)]
    boundary = b"----x"
    head = b'\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    seen = set()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(1000):
            body = bytearray(chance.choice(files))
            is_form = number % 4 == 0
            if is_form:
                body = bytearray(b"--" + boundary + head + bytes(body) + b"\r\n--" + boundary + b"--\r\n")
            for _ in range(chance.choice((1, 3, 30))):
                at = chance.randrange(min(len(body), 200 if is_form else 10_000))
                body[at] = chance.randrange(256)
            if chance.random() < 0.3:
                del body[chance.randrange(1, len(body)) :]
            if chance.random() < 0.1:
                body += chance.choice(files)
            kind = "multipart/form-data; boundary=----x" if is_form else "application/octet-stream"
            answer = client.post("/predict", content=bytes(body), headers={"content-type": kind})
            seen.add(answer.status_code)
            assert answer.status_code in (200, 400, 413), answer.text
            assert "internal" not in answer.text
            assert (answer.status_code == 200) == ("error" not in answer.json())
        assert seen >= {200, 400}
        assert client.post("/predict", content=files[0]).status_code == 200
    assert not any("Traceback" in line for line in server.errors)


def test_oversize_uploads_are_refused_whether_or_not_they_declare_it(server: Any, make_picture: Picture) -> None:
    assert post(server, bytes(30_000_000)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    assert httpx.post(server.url + "/predict", content=endless(), timeout=60).status_code == 413
    with connect(server) as connection:  # a client that asks first is answered before it sends anything
        connection.sendall(f"{HEAD}Content-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert post(server, make_picture()).status_code == 200


@pytest.fixture
def own_server(start_server: Any, model_file: Path) -> Iterator[Any]:
    """A server whose log has no lines of another test."""
    with start_server(model_file, "--timeout", "2") as running:
        yield running


def test_malformed_requests_are_refused(own_server: Any, make_picture: Picture) -> None:
    server = own_server
    requests = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the begin of TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        HEAD.encode() + b"Content-Length: -1\r\n\r\n",
        HEAD.encode() + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        HEAD.encode() + b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]
    for request in requests:
        with connect(server) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 4"), (request, answer)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert set(json.loads(body)) == {"error"}, (request, answer)
            assert b"x-content-type-options: nosniff" in head
    assert post(server, make_picture()).status_code == 200
    deadline = time.monotonic() + 10
    while len(server.log) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    logged = [json.loads(line) for line in server.log]
    assert [(line["method"], line["status"]) for line in logged[:3]] == [(None, 400), (None, 400), ("GET", 421)]
    assert sorted(line["status"] for line in logged) == [200, *[400] * 7, 421, 421]  # one line each
    assert [(line["method"], line["path"]) for line in logged[-4:-1]] == [
        *[("POST", "/predict")] * 2,  # their bodies end in nonsense
        ("GET", "/healthz"),
    ]
    assert not [line for line in server.errors if "HTTP" in line]


def test_an_upgrade_is_answered_without_one(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
        )
        assert received(connection).startswith(b"HTTP/1.1 200")
    assert not [line for line in server.errors if "upgrade" in line.lower()]


def test_an_upload_that_wants_an_upgrade_is_refused_with_the_remedy(server: Any, make_picture: Picture) -> None:
    """Java's client asks for HTTP/2 in this way; the parser would leave out the body."""
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    with connect(server) as connection:
        connection.sendall(f"{HEAD}{upgrade}Content-Length: 5\r\n\r\nhello".encode())
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"without the header Upgrade" in answer


def test_requests_before_a_malformed_one_are_answered(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3 + b"no request\r\n\r\n")
        answer = received(connection)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert b"HTTP/1.1 400" not in answer


def test_a_head_without_end_is_refused(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        sent = 0
        try:
            while sent < 100_000_000:
                connection.sendall(bytes(b"a" * 65536))
                sent += 65536
        except OSError:
            pass
        assert sent < 20_000_000


@pytest.mark.parametrize("pieces", [1, 3000], ids=["one header", "many headers"])
def test_a_head_of_more_than_64_kb_is_refused(server: Any, pieces: int) -> None:
    with connect(server) as connection:
        headers = "".join(f"X-{number}: {'a' * (90_000 // pieces)}\r\n" for number in range(pieces))
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode())
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 431"), answer
    assert b"larger than 64 KB" in answer


def test_trailers_without_end_are_refused(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ".encode())
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 100_000_000:
                connection.sendall(b"a" * 65536)
                sent += 65536
    assert sent < 20_000_000


def test_a_slow_body_is_given_up(server: Any, make_picture: Picture) -> None:
    with connect(server) as connection:
        connection.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n".encode())
        began = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - began < 20:
            connection.sendall(b"x")
            connection.settimeout(0.3)
            try:
                answer = connection.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")
        assert 1.5 < time.monotonic() - began < 10
    assert post(server, make_picture()).status_code == 200


def is_established(server: Any, connection: socket.socket) -> bool:
    """Return True if the server's end of a connection is open, by the table of the system."""
    ends = [f":{port:04X}" for port in (server.port, connection.getsockname()[1])]
    rows = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(own.endswith(ends[0]) and other.endswith(ends[1]) and state == "01" for own, other, state in rows)


def test_a_client_that_does_not_read_is_given_up(server: Any, make_picture: Picture) -> None:
    """Its connection is reset, or closed: the client's system may drop the news, as its buffer is full."""
    content = make_picture()
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /static/page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.settimeout(1)
        assert is_established(server, connection)
        began = time.monotonic()
        closed = False
        while time.monotonic() - began < 60 and not closed:
            try:
                connection.sendall(request)
                time.sleep(0.01)
                closed = not is_established(server, connection)
            except TimeoutError:
                assert post(server, content).status_code == 200
            except OSError:
                closed = True
        assert closed, time.monotonic() - began


def test_a_client_that_sends_thousands_of_requests_before_it_reads_is_given_up(
    server: Any, make_picture: Picture
) -> None:
    with connect(server) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100_000)
        assert received(connection).count(b"200 OK") < 10_000
    assert post(server, make_picture()).status_code == 200


def test_silent_connections_do_not_keep_others_out_and_are_closed(server: Any, make_picture: Picture) -> None:
    silent = [connect(server) for _ in range(200)]
    try:
        for _ in range(5):
            assert post(server, make_picture()).status_code == 200
        deadline = time.monotonic() + 40
        for connection in silent:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            assert received(connection) == b""  # closed; a time-out would raise
    finally:
        for connection in silent:
            connection.close()


def test_more_connections_than_files_are_refused_and_the_server_lives(server: Any, make_picture: Picture) -> None:
    connections = [connect(server) for _ in range(950)]
    for connection in connections:
        connection.close()
    for _ in range(50):
        if not (answer := post(server, make_picture())).is_error:
            break
        assert answer.status_code == 503
        time.sleep(0.1)
    assert post(server, make_picture()).status_code == 200


def test_a_client_that_leaves_in_the_middle_costs_nothing(server: Any, make_picture: Picture) -> None:
    for _ in range(50):
        with connect(server) as connection:
            connection.sendall(f"{HEAD}Content-Length: 1000\r\n\r\nhalf".encode())
    assert post(server, make_picture()).status_code == 200
    time.sleep(0.5)
    assert not any("Traceback" in line for line in server.errors)


def test_memory_stays_bounded(start_server: Any, model_file: Path) -> None:
    """5,000 requests of mixed sizes, from 8×8 to 24 megapixels, from 8 clients."""
    chance = np.random.default_rng(0)
    files = []
    for width, height, kind in (
        *((8, 8, "PNG"), (32, 32, "JPEG"), (640, 480, "JPEG"), (700, 500, "PNG"), (1920, 1080, "JPEG")),
        *((4000, 3000, "JPEG"), (6000, 4000, "JPEG")),
    ):
        file = io.BytesIO()
        pixels = chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(file, kind)
        files.append(file.getvalue())
    shares = np.array([30, 30, 20, 10, 5, 0.7, 0.3]) / 96
    with start_server(model_file, "--no-access-log") as server:

        def send(count: int) -> None:
            draws = np.random.default_rng(count).choice(len(files), count, p=shares)
            with httpx.Client(base_url=server.url, timeout=120) as client:
                for draw in draws:
                    assert client.post("/predict", content=files[draw]).status_code == 200

        def load(each: int) -> None:
            threads = [threading.Thread(target=send, args=(each + number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        for content in files:  # buffers, decoders and primitives of their first use
            post(server, content)
        load(20)
        before = server.resident_mb()
        load(625)
        assert server.resident_mb() - before < 50


@pytest.mark.parametrize("keeps_connections", [True, False], ids=["kept connections", "new connections"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_loses_no_accepted_request(
    start_server: Any, model_file: Path, make_picture: Picture, workers: int, keeps_connections: bool
) -> None:
    content = make_picture()
    counts = {"answered": 0}
    problems: list[str] = []
    never_accepted: list[str] = []
    lock = threading.Lock()
    with start_server(model_file, "--workers", workers) as server:
        stopped = threading.Event()

        def send() -> None:
            connection: http.client.HTTPConnection | None = None
            while not stopped.is_set():
                is_new = connection is None
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                    connection.connect() if is_new else None
                except OSError:  # the server accepts no more
                    return
                try:
                    connection.request("POST", "/predict", content)
                    answer = connection.getresponse()
                    answer.read()
                    with lock:
                        counts["answered"] += answer.status == 200
                    if answer.status not in (200, 503):
                        problems.append(str(answer.status))
                    if not keeps_connections or answer.will_close:
                        connection.close()
                        connection = None
                except (OSError, http.client.HTTPException) as error:
                    is_reset = type(error) is ConnectionResetError  # a RemoteDisconnected was accepted, and is one, too
                    (never_accepted if is_new and is_reset else problems).append(repr(error))
                    connection.close()  # a socket that is left open is a ResourceWarning in whichever test runs then
                    return
            if connection is not None:
                connection.close()

        threads = [threading.Thread(target=send) for _ in range(16)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        seen = 1 if keeps_connections else workers  # the worker that is ready first may get all kept connections
        while len({json.loads(line)["worker"] for line in list(server.log)}) < seen and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        code = server.stop()
        stopped.set()
        for thread in threads:
            thread.join()
        time.sleep(0.2)
        logged = sum(json.loads(line)["status"] == 200 for line in server.log)
    assert code == 0
    assert counts["answered"] > 50
    assert logged == counts["answered"]  # every request that reached the application was answered, and received
    assert not problems
    assert len(never_accepted) <= 16  # they were in the queue of the operating system


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_a_killed_worker_is_replaced(start_server: Any, model_file: Path, make_picture: Picture) -> None:
    with start_server(model_file, "--workers", 2) as server:
        deadline = time.monotonic() + 60
        seen: set[int] = set()
        while len(seen) < 2 and time.monotonic() < deadline:
            assert post(server, make_picture()).status_code == 200
            seen = {json.loads(line)["worker"] for line in list(server.log)}
        assert seen == workers_of(server.process)
        victim = min(seen)
        os.kill(victim, signal.SIGSTOP)  # so that it is killed while it owes an answer to the supervisor
        time.sleep(1.5)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        while len(workers_of(server.process) - {victim}) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert time.monotonic() < killed + 20
        failures = 0
        for _ in range(100):
            try:
                assert post(server, make_picture()).status_code == 200
            except httpx.TransportError:
                failures += 1
        assert failures == 0
        new = workers_of(server.process)
        assert len(new) == 2
        assert victim not in new
        metrics = httpx.get(server.url + "/metrics").text
        answered = sum(json.loads(line)["path"] == "/predict" for line in server.log)
        assert float(re.findall(r'requests_total{route="/predict",status="200"} (\S+)', metrics)[0]) >= answered - 1
        assert server.stop() == 0
    assert any("was replaced" in line for line in server.errors)


def test_workers_end_with_the_process_that_started_them(start_server: Any, model_file: Path) -> None:
    with start_server(model_file, "--workers", 2) as server:
        deadline = time.monotonic() + 60
        while len(workers := workers_of(server.process)) < 2:
            time.sleep(0.1)
        assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
        server.process.kill()
        server.process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


READ_ONLY = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /tmp
mkdir /tmp/model && mount -t tmpfs tmpfs /tmp/model && cp "$1" /tmp/model/pets.safetensors && chmod -R a+rX /tmp/model
for folder in $(awk '$2 != "/tmp" && $2 !~ "^/(proc|sys|dev)($|/)" {print $2}' /proc/self/mounts); do
  mount -o remount,bind,ro "$folder" 2>/dev/null || true
done
for folder in /dev/shm /dev/mqueue; do mount -t tmpfs -o ro tmpfs $folder 2>/dev/null || true; done
touch /var/tmp/x 2>/dev/null && { echo "the root is not read-only" >&2; exit 9; }
chmod 1777 /tmp
shift
exec setpriv --reuid 54321 --regid 54321 --clear-groups env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" "$@"
"""


def test_the_server_runs_as_in_its_container(
    start_server: Any, model_file: Path, make_picture: Picture, as_nobody: list[str]
) -> None:
    """An unnamed user, no HOME, a read-only root, and one temporary folder."""
    able = shutil.which("unshare") and shutil.which("setpriv")
    if not able or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("unshare and setpriv need root here, to make a read-only root")
    if as_nobody[:1] != ["setpriv"]:
        pytest.skip("this Python is in a folder that other users cannot read")
    wrapper = ("unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(model_file))
    for workers in (1, 2):
        options = ("/tmp/model/pets.safetensors", "--workers", workers)
        with start_server(*options, wrapper=wrapper) as server:
            answer = post(server, make_picture())
            assert answer.status_code == 200
            assert post(server, make_picture(), "/explain").status_code == 200
            assert httpx.get(server.url + "/metrics").status_code == 200
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            assert "Uid:\t54321" in status
            assert server.stop() == 0


@pytest.mark.parametrize("is_ignored", [False, True], ids=["a closed terminal", "nohup"])
def test_a_closed_terminal_stops_the_server_in_good_order(
    is_ignored: bool, start_server: Any, model_file: Path, make_picture: Picture
) -> None:
    handler = "SIG_IGN" if is_ignored else "SIG_DFL"  # the tests themselves may run under nohup
    program = (
        f"import os, signal, sys; signal.signal(signal.SIGHUP, signal.{handler}); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    with start_server(model_file, wrapper=(sys.executable, "-c", program)) as server:
        server.process.send_signal(signal.SIGHUP)
        if is_ignored:
            assert post(server, make_picture()).status_code == 200
            assert server.stop() == 0
        else:
            assert server.process.wait(60) == 0


def test_a_log_that_cannot_be_written_is_one_warning(
    start_server: Any, model_file: Path, make_picture: Picture
) -> None:
    with start_server(model_file, wrapper=("sh", "-c", 'exec "$@" >/dev/full', "sh")) as server:
        assert [post(server, make_picture()).status_code for _ in range(3)] == [200] * 3
        server.stop()
    text = "".join(server.errors)
    assert text.count("the access log cannot be written: [Errno 28] No space left on device") == 1
    assert "Traceback" not in text
