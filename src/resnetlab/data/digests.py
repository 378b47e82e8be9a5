"""Digests of the contents of images, and of the lists of images that splits are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from xxhash import xxh3_128_hexdigest


def content_digest(content: bytes | bytearray | memoryview | np.ndarray) -> str:
    """Compute the digest of the bytes of a file, or of an array: their number and XXH3 (128 bits), hexadecimal.

    It finds changes and equal images. It is no protection against a person who wants two images to seem equal.

    >>> content_digest(b"abc")
    '3-06b05ab6733a618578af5f94892f3950'
    """
    view = np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else memoryview(content)
    return f"{view.nbytes}-{xxh3_128_hexdigest(view)}"


def names_digest(names: Sequence[str], labels: Sequence[int], contents: Sequence[str] = ()) -> str:
    """Compute the SHA-256, hexadecimal, of the sorted lines "name, tab, label[, tab, content digest]".

    >>> names_digest(["b", "a"], [1, 0]) == names_digest(["a", "b"], [0, 1])
    True
    """
    ends = [f"\t{content}\n" for content in contents] or ["\n"] * len(names)
    lines = sorted(f"{name}\t{label}{end}" for name, label, end in zip(names, labels, ends, strict=True))
    # surrogateescape: a file name on Linux need not be valid UTF-8
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
