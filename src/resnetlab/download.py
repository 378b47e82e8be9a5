"""Download a file from the first address that delivers it, and check its digest; it arrives whole or not at all.

What has arrived when a connection breaks is kept beside the file, under a hidden name that ends in .part, and the next
try asks for the rest only, of any mirror: whether the pieces fit together is decided by the digest.
"""

from __future__ import annotations

import contextvars
import hashlib
import http.client
import io
import logging
import os
import re
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import room, sync_folder

try:
    import fcntl
except ImportError:  # Windows: there a broken download begins anew
    fcntl = None  # type: ignore[assignment]

TIMEOUT = 30.0  # seconds for a connection, for an answer and for the next byte; and the time in which speed is measured
SLOWEST = 1000  # bytes per second; a server that sends fewer over TIMEOUT seconds stalls
RESUMPTIONS = 3  # how often the rest is asked for of one address; tries that bring WORTH bytes are not counted
WORTH = 4 * 10**6  # bytes
PAUSE = 1.0  # seconds before that
REPORT_EVERY = 10.0  # seconds between two lines of progress
MOST_BYTES = 20 * 10**9
BLOCK = 1 << 18

Algorithm = Literal["md5", "sha256"]

_LENGTH = re.compile("[0-9]{1,18}")
_RANGE = re.compile("bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|[*])")


@dataclass(frozen=True)
class Progress:
    """The progress of a download: bytes received, the total (None: unknown), and the mean speed of this connection."""

    name: str
    received: int
    total: int | None
    bytes_per_second: float

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest takes at this speed; None if the size or the speed is unknown.

        >>> Progress("a.zip", 50, 150, 20.0).seconds_left
        5.0
        """
        if self.total is None or not self.bytes_per_second:
            return None
        return (self.total - self.received) / self.bytes_per_second


_watcher: contextvars.ContextVar[Callable[[Progress | None], None] | None] = contextvars.ContextVar(
    "watcher", default=None
)

_log = logging.getLogger(__name__)


@contextmanager
def watched_by(watcher: Callable[[Progress | None], None]) -> Iterator[None]:
    """Call `watcher` for every block that a download in the `with` block receives, and with None at its end."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def download(
    addresses: str | Sequence[str], path: Path, *, algorithm: Algorithm, digest: str, most_bytes: int = MOST_BYTES
) -> bool:
    """Download a file to `path` unless it already has this digest; return True if it was downloaded.

    The addresses are tried in order. `digest` is hexadecimal, all of it or its beginning. The file is written under a
    temporary name and renamed after its digest has been checked, so `path` is never half a file. Processes that
    download one file at once do not share the temporary one. Progress goes to the log and to `watched_by`.

    Raises BadInput, with what each address did and the steps to do it by hand, if none delivers the file; DiskTrouble
    if it cannot be written.
    """
    if has_digest(path, algorithm, digest):
        return False
    addresses = [addresses] if isinstance(addresses, str) else list(addresses)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not create {printable(path.parent)}: {error.strerror or error}") from error
    failures: list[str] = []
    watcher = _watcher.get()
    try:
        with _Part(path) as part:
            if has_digest(path, algorithm, digest):  # another process has just finished it
                return False
            fetch = _Fetch(part, path.name, algorithm, digest, most_bytes)
            for address in addresses:
                try:
                    fetch.all_of(address)
                except _Failure as failure:
                    failures.append(str(failure))
                    _log.info("%s", failure)
                else:
                    part.publish()
                    return True
            kept = part.size()
    except OSError as error:
        if isinstance(error, DiskTrouble):
            raise
        raise DiskTrouble(f"could not write {printable(path)}: {error.strerror or error}{room(path, 0)}") from error
    finally:
        if watcher is not None:
            watcher(None)
    resume = f" {kept / 1e6:.1f} MB have arrived, and the next try asks for the rest." if kept and part.is_kept else ""
    raise BadInput(f"{'; '.join(failures)}.{resume} {by_hand(addresses, path, algorithm, digest)}")


def by_hand(addresses: Sequence[str], path: Path, algorithm: Algorithm, digest: str) -> str:
    """Return the sentence that says how to fetch a file without this program."""
    return (
        f"By hand: download {' or '.join(printable(address) for address in addresses)}, check that its "
        f"{algorithm.upper()} begins with {digest}, put it at {printable(path)}, and try again"
    )


def has_digest(path: Path, algorithm: Algorithm, digest: str) -> bool:
    """Return True if a file exists and its digest (hexadecimal) begins with `digest`.

    >>> has_digest(Path("no such file"), "sha256", "e3b0")
    False
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest().startswith(digest)
    except OSError:
        return False


class _Failure(Exception):
    """The failure of one address to deliver a file."""


class _Part:
    """The file in which a download is collected: that of an earlier try, unless another process writes to it now."""

    file: io.BufferedRandom
    place: Path

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_kept = False  # for the next try
        self.is_published = False

    def __enter__(self) -> _Part:
        self.place = self.path.with_name(f".{self.path.name}.part")
        file = None if fcntl is None else self._locked()
        if file is None:
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp")
            self.place, self.file = Path(name), os.fdopen(descriptor, "r+b")
        else:
            self.file, self.is_kept = file, True
        return self

    def _locked(self) -> io.BufferedRandom | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        for _ in range(10):
            try:
                file = os.fdopen(os.open(self.place, flags, 0o600), "r+b")
            except OSError:  # not this user's, a link, a folder
                return None
            with suppress(OSError):  # locked by another process; or gone
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                opened, named = os.fstat(file.fileno()), self.place.lstat()
                if not stat.S_ISREG(opened.st_mode):
                    file.close()
                    return None
                if (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino):
                    return file
                file.close()  # its owner has just renamed it: it is the finished file of that process
                continue
            file.close()
            return None
        return None

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(OSError):  # the disk is full, the folder gone
                if not self.is_published and not (self.is_kept and self.size()):
                    self.place.unlink()  # before the lock is released, or it could be another process's by then
        finally:
            with suppress(OSError):
                self.file.close()

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def digest(self, algorithm: Algorithm) -> str:
        self.file.seek(0)
        return hashlib.file_digest(self.file, algorithm).hexdigest()

    def publish(self) -> None:
        """Flush the file to disk and give it its name, before the lock is released."""
        self.file.flush()
        if os.name == "posix":
            os.fchmod(self.file.fileno(), 0o644)
        os.fsync(self.file.fileno())
        if os.name != "posix":
            self.file.close()  # Windows renames no open file
        self.place.replace(self.path)
        self.is_published = True
        sync_folder(self.path.parent)


class _Fetch:
    """The attempts to fill a part."""

    def __init__(self, part: _Part, name: str, algorithm: Algorithm, digest: str, most_bytes: int) -> None:
        self.part, self.name, self.algorithm, self.digest, self.most_bytes = part, name, algorithm, digest, most_bytes

    def all_of(self, address: str) -> None:
        """Receive the file from one address, with a few resumptions. Raises _Failure."""
        if self.part.size() and self.part.digest(self.algorithm).startswith(self.digest):
            return
        left = RESUMPTIONS
        while True:
            had = self.part.size()
            problem, may_help = self.rest_of(address, had)
            found = self.part.digest(self.algorithm)
            if found.startswith(self.digest):
                return
            if not problem:  # a file has arrived, and it is another one: no part of it is of use
                self.part.file.truncate(0)
                problem = (
                    f"{printable(address)} sent a file with {self.algorithm.upper()} {found}, which does not begin "
                    f"with {self.digest}: it is damaged, or another file"
                )
                may_help = had > 0  # the old part may be what is wrong
            left -= self.part.size() - had < WORTH
            if not may_help or left < 0:
                raise _Failure(problem)
            _log.info("%s; trying again", problem)
            time.sleep(PAUSE)

    def rest_of(self, address: str, had: int) -> tuple[str, bool]:
        """Receive what comes after `had` bytes; return what went wrong ("": nothing) and if another try may help."""
        shown = printable(address)
        if not address.startswith(("http://", "https://")):
            return f"{shown} is no http(s) address", False
        headers = {"User-Agent": "resnetlab", "Accept-Encoding": "identity"}
        if had:
            headers["Range"] = f"bytes={had}-"
        try:
            response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and had:  # Range Not Satisfiable: the part is longer than the file
                self.part.file.truncate(0)
                return f"{shown} has fewer bytes than have arrived", True
            return f"{shown} answers {error.code} {printable(error.reason)}", False
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"cannot reach {shown} ({printable(error)})", False
        with response:
            try:
                return self.receive(response, shown, had), True
            except _Failure as failure:
                return str(failure), False

    def receive(self, response: http.client.HTTPResponse, shown: str, had: int) -> str:
        """Write the body of a response behind the part, or over it if the server sends everything."""
        file = self.part.file
        given = _RANGE.fullmatch(response.headers.get("Content-Range", "")) if response.status == 206 else None
        start = int(given[1]) if given else 0
        if response.status != 200 and (not given or start != had):
            file.truncate(0)
            return f"{shown} answers with another part than the one asked for ({response.status})"
        file.truncate(start)
        file.seek(start)
        length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        total = start + int(length[0]) if length else None
        if given and given[2] != "*":  # an answer may be shorter than the rest
            total = int(given[2])
        if total is not None and total > self.most_bytes:
            raise _Failure(f"{shown} has {total / 1e6:,.1f} MB, more than the {self.most_bytes / 1e6:,.1f} MB allowed")
        size = "size unknown" if total is None else f"{total / 1e6:.1f} MB"
        behind = f", the first {start / 1e6:.1f} MB are here" if start else ""
        _log.info("downloading %s (%s%s) to %s", shown, size, behind, self.part.path)
        received = start
        clock = _Clock(self.name, start, total)
        while True:
            try:
                block = response.read1(BLOCK)
            except (OSError, http.client.HTTPException, ValueError) as error:
                return f"{shown} broke off after {received:,} bytes ({printable(error)})"
            if not block:
                break
            if received + len(block) > self.most_bytes:
                file.truncate(0)
                raise _Failure(f"{shown} sends more than the {self.most_bytes / 1e6:,.1f} MB allowed")
            file.write(block)
            received += len(block)
            if not clock.moves(received):
                file.flush()
                return f"{shown} stalls: it sent fewer than {SLOWEST:,} bytes per second for {TIMEOUT:g} seconds"
        file.flush()
        if total is not None and received < total:
            return f"{shown} broke off after {received:,} of {total:,} bytes"
        return ""


class _Clock:
    """Reports progress, and notices a stall."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        self.name, self.start, self.total = name, start, total
        self.began = self.reported = self.measured = time.monotonic()
        self.at_measured = start
        self.watcher = _watcher.get()

    def moves(self, received: int) -> bool:
        """Report; return False if the last TIMEOUT seconds brought too little."""
        now = time.monotonic()
        progress = Progress(self.name, received, self.total, (received - self.start) / max(now - self.began, 1e-9))
        if self.watcher is not None:
            self.watcher(progress)
        if now - self.reported > REPORT_EVERY:
            self.reported = now
            left = progress.seconds_left
            _log.info(
                "downloaded %.1f%s MB, %.2f MB/s%s",
                received / 1e6,
                "" if self.total is None else f" of {self.total / 1e6:.1f}",
                progress.bytes_per_second / 1e6,
                "" if left is None else f", {left:.0f} s left",
            )
        if now - self.measured < TIMEOUT:
            return True
        is_fast = received - self.at_measured >= SLOWEST * (now - self.measured)
        self.measured, self.at_measured = now, received
        return is_fast or received == self.total
