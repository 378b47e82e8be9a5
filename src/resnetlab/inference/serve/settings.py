"""Settings of the server, with the limits that bound what a client can cost."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular

MB = 1_000_000
HEAD_BYTES = 64 * 1024  # of request line and headers
HOST = re.compile(r"(\[[^\[\]\s]+\]|[^\s\[\]:/?#@\\*]+)(?::\d*)?")  # of a header: a name or [address], and the port


@dataclass(frozen=True)
class Settings:
    """The limits and names of a server. Sizes are in bytes, times in seconds.

    `max_body` bounds one request, `max_bodies` the requests that are being received, all together. `max_images` is the
    number of images that may be waiting or computed at once; beyond it, requests are refused with 503. `max_batch`
    bounds the images that go through the network at once, and those of one request.

    `body_seconds` is the time to send a request's body, `idle_seconds` the time in which a connection must send the
    head of a request or take the answer. `hosts` are the names that the server has; an empty tuple allows every IP
    address and this machine's name.

    `reject` is the risk of the rejection threshold; None: no prediction is rejected unless a request asks for it.
    """

    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    any_address: bool = False
    token: bytes | None = None
    reject: float | None = None
    max_body: int = 20 * MB
    max_bodies: int = 400 * MB
    max_images: int = 256
    max_batch: int = 64
    body_seconds: float = 30.0
    idle_seconds: float = 15.0
    access_log: bool = True

    def is_token(self, given: str) -> bool:
        """Compare in a time that does not depend on where the two differ."""
        return self.token is None or hmac.compare_digest(given.encode(), self.token)


def host_name(text: str) -> str | None:
    """Return the name in a Host header, without its port: in lower case, an address in its shortest form.

    None for anything else, such as an address with a scheme, or a pattern.

    >>> host_name("Birds.Example.org.:8443"), host_name("[0:0::1]:8000"), host_name("https://birds.example.org")
    ('birds.example.org', '::1', None)
    """
    found = HOST.fullmatch(text)
    name = found[1].strip("[]").lower().removesuffix(".") if found else text  # an IPv6 address without brackets
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name if found and name and not found[1].startswith("[") else None


def read_token(file: Path) -> bytes:
    """Read a bearer token: the only word in a text file. Raises BadInput for anything else."""
    try:
        with open_regular(file) as opened:
            words = opened.read(4096).split()
    except OSError as error:
        raise BadInput(f"{printable(file)} cannot be read: {error.strerror or error}") from error
    if len(words) != 1 or not words[0].isascii() or len(words[0]) < 16:
        raise BadInput(f"{printable(file)} must contain one word of at least 16 ASCII characters: the token")
    return words[0]


def cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
