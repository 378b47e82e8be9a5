"""Shards in an object store or on a server, read through fsspec by their address, such as s3://bucket/000.tar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from resnetlab.errors import BadInput, printable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")  # of two letters or more: C:/ is a drive
_ROOTED = ("file", "local", "memory")  # their addresses have no host


def is_remote(path: str) -> bool:
    """Return True for an address, also as a path with a single slash.

    >>> is_remote("s3://bucket/a.tar"), is_remote("s3:/bucket/a.tar"), is_remote("shards/a.tar")
    (True, True, False)
    """
    return _SCHEME.match(path) is not None or "::" in path


def address(path: str) -> str:
    """Return an address whose slashes were reduced to one, as in a path, with those that it needs.

    >>> address("s3:/bucket/a.tar"), address("file:/tmp/a.tar")
    ('s3://bucket/a.tar', 'file:///tmp/a.tar')
    """
    return _SCHEME.sub(lambda found: f"{found[1]}://{'/' * (found[1] in _ROOTED)}", path)


def size_of(path: str) -> int:
    """Return the bytes of a file. Raises BadInput if it is missing or has no size."""
    with _opened(path) as (system, place):
        size = system.info(place)["size"]
    if not isinstance(size, int):
        raise BadInput(f"{printable(address(path))} has no known size, so that it cannot be read in parts")
    return size


def read_range(path: str, offset: int, size: int) -> bytes:
    """Return a part of a file, in one request."""
    with _opened(path) as (system, place):
        return bytes(system.cat_file(place, start=offset, end=offset + size))


def read_small(path: str) -> bytes | None:
    """Return a whole file; None if it does not exist or cannot be read."""
    try:
        with _opened(path) as (system, place):
            return bytes(system.cat_file(place))
    except BadInput:
        return None


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading from its beginning to its end."""
    with _opened(path) as (system, place), system.open(place, "rb") as file:
        yield file


def matching(pattern: str) -> list[str]:
    """Return the addresses that match a pattern, sorted."""
    with _opened(pattern) as (system, place):
        return sorted(map(system.unstrip_protocol, system.glob(place)))


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, str]]:
    """Return the file system of an address and the path in it; raise all errors as BadInput with the address."""
    shown = printable(address(path))
    try:
        import fsspec
    except ImportError as error:
        raise BadInput(f"to read {shown}: pip install 'resnetlab[remote]'") from error
    try:
        yield fsspec.core.url_to_fs(address(path))
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"file not found: {shown}") from error
    except ImportError as error:  # the package for this kind of store
        raise BadInput(f"to read {shown}: {printable(error)}") from error
    except Exception as error:  # every store has errors of its own
        raise BadInput(f"{shown} cannot be read: {printable(error)[:300] or type(error).__name__}") from error
