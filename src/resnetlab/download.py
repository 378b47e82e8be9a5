"""A file from the network: whole, with the right digest and under its own name, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tempfile
import urllib.request
from pathlib import Path

from resnetlab.errors import BadInput, DiskTrouble

PATIENCE = 30.0  # seconds without a byte after which a connection counts as dead

_log = logging.getLogger(__name__)


def fetch(url: str, target: Path, *, md5: str, help_by_hand: str) -> None:
    """Download `url` to `target`, by way of a temporary file beside it.

    BadInput, with `help_by_hand`, where the network fails or the digest differs; DiskTrouble where writing fails.
    """
    _log.info("downloading %s to %s", url, target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            digest = _stream(url, file.fileno(), help_by_hand)
            os.fsync(file.fileno())
        if digest != md5:
            raise BadInput(f"{url} sent a file with MD5 {digest}, not {md5}: damaged, or not the file. {help_by_hand}")
        Path(temporary).replace(target)
        temporary = None
    except BadInput:
        raise
    except OSError as error:
        raise DiskTrouble(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _stream(url: str, descriptor: int, help_by_hand: str) -> str:
    """The body of `url` into an open file; its MD5, hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        response = urllib.request.urlopen(url, timeout=PATIENCE)
    except (OSError, http.client.HTTPException) as error:
        raise BadInput(f"{url} cannot be reached ({error}). {help_by_hand}") from error
    with response:
        while True:
            try:
                block = response.read(1 << 20)
            except (OSError, http.client.HTTPException) as error:
                raise BadInput(f"{url} broke off ({error}). {help_by_hand}") from error
            if not block:
                return digest.hexdigest()
            digest.update(block)
            while block:
                block = block[os.write(descriptor, block) :]
