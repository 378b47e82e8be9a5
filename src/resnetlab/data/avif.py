"""Find the size of the frames in an AVIF file, which may be larger than its header has it.

libavif decodes a frame whole and then scales it to the size in the header. The size of the frame is in the sequence
header of its AV1 data. References: ISO/IEC 14496-12 (boxes), AV1 Bitstream & Decoding Process Specification, 5.5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice

_CONTAINERS = {b"meta": 4, b"iinf": 6, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}  # bytes before boxes
_SEQUENCE_HEADER, _SKIPPED = 1, (2, 5, 15)  # types of AV1 units: temporal delimiter, metadata, padding
_MOST_BYTES = 1000  # of a sequence header; the longest are shorter
_MOST = 10_000  # boxes, items and chunks; a file with more is made to waste time, and its first ones are examined


def frame_size(content: bytes) -> tuple[int, int] | None:
    """Return the largest (width, height) that the AV1 data of an AVIF file may have; None if it is not found."""
    sizes: list[tuple[int, int]] = []
    with contextlib.suppress(IndexError, RecursionError):  # damaged; the decoder gives the reason
        sizes.extend(size for place in _places(content) if (size := _size_at(content, place)))
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


class _Reader:
    """Reads unsigned integers, from the highest bit to the lowest."""

    def __init__(self, content: bytes, start: int, end: int | None = None) -> None:
        self.content, self.at = content, 8 * start
        self.end = 8 * (len(content) if end is None else min(end, len(content)))

    def bits(self, count: int) -> int:
        """Return the next `count` bits as an integer. Raises IndexError at the end."""
        first, last = self.at, self.at + count
        if last > self.end:
            raise IndexError
        self.at = last
        value = int.from_bytes(self.content[first // 8 : -(-last // 8)], "big")
        return value >> -last % 8 & (1 << count) - 1

    def bytes(self, count: int) -> int:
        return self.bits(8 * count)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start of the body and the end of each box, and of those inside the containers."""
    while start + 8 <= end:
        reader = _Reader(content, start, end)
        length, name = reader.bytes(4), content[start + 4 : start + 8]
        reader.at += 32
        length = reader.bytes(8) if length == 1 else length or end - start
        body, after = reader.at // 8, start + length
        if not body <= after <= end:
            return
        yield name, body, after
        if name in _CONTAINERS:
            yield from _boxes(content, body + _CONTAINERS[name], after)
        start = after


def _places(content: bytes) -> Iterator[int]:
    """Yield the places at which AV1 data may begin: those of images, and those of the chunks of a sequence."""
    images: set[int] = set()
    located: list[tuple[int, int, int]] = []
    inside = 0
    for name, body, end in islice(_boxes(content, 0, len(content)), _MOST):
        reader = _Reader(content, body, end)
        if name == b"infe":
            version = reader.bytes(1)
            reader.bytes(3)
            number = reader.bytes(2 if version < 3 else 4)
            if content[reader.at // 8 + 2 : reader.at // 8 + 6] == b"av01":
                images.add(number)
        elif name == b"iloc":
            located += _located(reader)
        elif name == b"idat":
            inside = body
        elif name in (b"stco", b"co64"):
            reader.bytes(4)
            yield from [reader.bytes(4 if name == b"stco" else 8) for _ in range(min(_MOST, reader.bytes(4)))]
    for number, method, place in located:
        if number in images and method in (0, 1):
            yield place + inside * method


def _located(reader: _Reader) -> list[tuple[int, int, int]]:
    """Return the number, the construction method and the first place of each item, from a box "iloc"."""
    version = reader.bytes(1)
    reader.bytes(3)
    of_offset, of_length, of_base, of_index = (reader.bits(4) for _ in range(4))
    found = []
    for _ in range(min(_MOST, reader.bytes(2 if version < 2 else 4))):
        number = reader.bytes(2 if version < 2 else 4)
        method = reader.bytes(2) & 15 if version else 0
        reader.bytes(2)
        base, extents = reader.bytes(of_base), reader.bytes(2)
        for extent in range(min(_MOST, extents)):
            reader.bytes(of_index if version else 0)
            offset = reader.bytes(of_offset)
            reader.bytes(of_length)
            if not extent:
                found.append((number, method, base + offset))
    return found


def _size_at(content: bytes, place: int) -> tuple[int, int] | None:
    """Return the size in the first sequence header of AV1 data; None if it does not begin with one."""
    reader = _Reader(content, place)
    while True:
        unit, has_extension, has_size = reader.bits(5), reader.bits(1), reader.bits(1)
        reader.bits(1 + 8 * has_extension)
        length = _leb128(reader) if has_size else None
        if unit == _SEQUENCE_HEADER:
            return _sequence_size(_Reader(content, reader.at // 8, reader.at // 8 + _MOST_BYTES))
        if unit not in _SKIPPED or length is None:
            return None
        reader.at += 8 * length


def _leb128(reader: _Reader) -> int:
    value = 0
    for place in range(8):
        byte = reader.bytes(1)
        value |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return value


def _sequence_size(reader: _Reader) -> tuple[int, int]:
    """Read the largest size of a frame in a sequence header (5.5.1)."""
    reader.bits(4)  # profile, still picture
    if reader.bits(1):  # reduced header
        reader.bits(5)
    else:
        delay_bits = _decoder_model(reader) if reader.bits(1) else 0
        has_display_delay = reader.bits(1)
        for _ in range(reader.bits(5) + 1):
            reader.bits(12)
            if reader.bits(5) > 7:
                reader.bits(1)
            if delay_bits and reader.bits(1):
                reader.bits(2 * delay_bits + 1)
            if has_display_delay and reader.bits(1):
                reader.bits(4)
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    return reader.bits(width_bits) + 1, reader.bits(height_bits) + 1


def _decoder_model(reader: _Reader) -> int:
    """Read the timing and the decoder model (5.5.3, 5.5.4); return the bits of its delays, 0 without a model."""
    reader.bits(64)
    if reader.bits(1):  # equal intervals, whose length follows as a universal code
        zeros = 0
        while not reader.bits(1):
            zeros += 1
        reader.bits(zeros if zeros < 32 else 0)
    if not reader.bits(1):
        return 0
    delay_bits = reader.bits(5) + 1
    reader.bits(32 + 5 + 5)
    return delay_bits
