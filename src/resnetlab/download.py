"""Download a file and check its digest; it is written whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import replacing

TIMEOUT = 30.0  # seconds without a byte after which a connection is given up
REPORT_EVERY = 10.0  # seconds between two lines of progress

Algorithm = Literal["md5", "sha256"]

_log = logging.getLogger(__name__)


def download(url: str, path: Path, *, algorithm: Algorithm, digest: str) -> bool:
    """Download `url` to `path` unless it already has this digest; return True if it was downloaded.

    `digest` is hexadecimal, all of it or its beginning. The file is written under a temporary name and renamed after
    its digest has been checked, so `path` is never half a file. Progress goes to the log.

    Raises BadInput, with the steps to do it by hand, if the server cannot be reached, the connection breaks, or
    another file arrives; DiskTrouble if the file cannot be written.
    """
    if has_digest(path, algorithm, digest):
        return False
    by_hand = (
        f"By hand: download {printable(url)}, check that its {algorithm.upper()} begins with {digest}, "
        f"put it at {printable(path)}, and try again"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not create {printable(path.parent)}: {error.strerror or error}") from error
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "resnetlab"})
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BadInput(f"cannot reach {printable(url)} ({printable(error)}). {by_hand}") from error
    found = hashlib.new(algorithm, usedforsecurity=False)
    with response:
        size = int(response.headers.get("Content-Length") or 0)
        _log.info("downloading %s (%s) to %s", url, f"{size / 1e6:.1f} MB" if size else "size unknown", path)
        with replacing(path, size) as file:
            for block in _blocks(response, size, f"{printable(url)} broke off", by_hand):
                found.update(block)
                file.write(block)
            if not found.hexdigest().startswith(digest):
                raise BadInput(
                    f"{printable(url)} sent a file with {algorithm.upper()} {found.hexdigest()}, which does not begin "
                    f"with {digest}: it is damaged, or another file. {by_hand}"
                )
    return True


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


def _blocks(response: http.client.HTTPResponse, size: int, failure: str, by_hand: str) -> Iterator[bytes]:
    """The body of a response in blocks of at most 1 MiB, with a line of progress in the log from time to time."""
    received, reported = 0, time.monotonic()
    while True:
        try:
            block = response.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise BadInput(f"{failure} ({printable(error)}). {by_hand}") from error
        if not block:
            return
        yield block
        received += len(block)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            _log.info("downloaded %.1f%s MB", received / 1e6, f" of {size / 1e6:.1f}" if size else "")
