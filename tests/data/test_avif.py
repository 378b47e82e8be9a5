"""The size of the frames in AVIF files, with Pillow as the oracle."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, features

from resnetlab.data.avif import frame_size
from resnetlab.data.decode import read_image
from resnetlab.data.limits import TooManyPixels
from resnetlab.errors import BadInput

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def avif(mode: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "AVIF", **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (30, 24), (257, 129), (64, 2000)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_size_of_the_frame_is_that_of_the_image(mode, size):
    assert frame_size(avif(mode, size)) == size
    animated = avif(mode, size, save_all=True, append_images=[Image.new(mode, size, "white")])
    assert frame_size(animated) == size


def with_size(file: bytes, size: tuple[int, int]) -> bytes:
    changed = bytearray(file)
    at = changed.index(b"ispe") + 8
    changed[at : at + 8] = struct.pack(">II", *size)
    return bytes(changed)


def test_a_frame_that_is_larger_than_its_header_has_it_counts():
    file = with_size(avif("RGB", (300, 200)), (10, 10))
    with pytest.raises(
        TooManyPixels, match=r"a\.avif has 300×200 pixels in its frame; at most 59,999 pixels are decod"
    ):
        read_image(io.BytesIO(file), name="a.avif", max_pixels=59_999)


def test_what_is_no_avif_or_damaged_has_no_size_and_takes_no_time():
    whole = avif("RGB", (30, 24))
    for content in (b"", b"\0" * 100, b"\0\0\0\0moov" * 4000, whole[:50], b"\0\0\0\x08free" * 100_000 + whole):
        assert frame_size(content) in (None, (30, 24))
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for at in random.integers(0, min(len(changed), 350), 4):
            changed[at] = random.integers(256)
        frame_size(bytes(changed))


def test_nested_boxes_are_refused_like_other_damage():
    with pytest.raises(BadInput):
        read_image(io.BytesIO(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\0moov" * 5000))


class Stream(io.RawIOBase):
    """Bytes that arrive once, as from a socket."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.content.readinto(buffer)


def test_a_stream_that_cannot_be_rewound_is_read():
    assert read_image(Stream(avif("RGB", (30, 24)))).size == (30, 24)
