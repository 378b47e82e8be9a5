"""Images of more than 8 bits are read with every bit, from every kind of file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.decode import decode, read_image, to_image
from resnetlab.errors import BadInput

COLOURS = np.random.default_rng(1).integers(0, 4096, (5, 7, 4)).astype(np.uint16)


def png_of_16_bits(values: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write: kind 2 is RGB, 4 grey with opacity, 6 RGBA."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: object) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: png_of_16_bits(COLOURS[..., :3], 2),
        lambda: tiff(COLOURS[..., :3]),
        lambda: tiff(COLOURS[..., :3].astype(">u2"), byteorder=">"),
        lambda: tiff(COLOURS[..., :3], compression="zlib"),
        lambda: tiff(np.moveaxis(COLOURS[..., :3], 2, 0), planarconfig="separate"),
        lambda: tiff(COLOURS[..., :3], rowsperstrip=2),
    ],
    ids=["png", "tiff", "big-endian", "deflate", "planes", "strips"],
)
def test_every_bit_of_16_bit_colours_is_read(make):
    image = read_image(io.BytesIO(make()), value_range=(0, 4095))
    assert np.abs(np.asarray(image) - COLOURS[..., :3] * (255 / 4095)).max() <= 0.5


def test_16_bits_with_opacity_are_composited_over_white():
    opacity = COLOURS.copy()
    opacity[..., 3] = 65535
    opacity[0, 0, 3] = 0
    pixels = np.asarray(read_image(io.BytesIO(png_of_16_bits(opacity, 6)), value_range=(0, 4095)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[1:] - opacity[1:, :, :3] * (255 / 4095)).max() <= 0.5
    image = read_image(io.BytesIO(png_of_16_bits(opacity[..., 2:], 4)), value_range=(0, 4095))
    assert image.mode == "L"
    assert image.getpixel((0, 0)) == 255
    assert np.abs(np.asarray(image)[1:] - opacity[1:, :, 2] * (255 / 4095)).max() <= 0.5


def test_16_bit_ppm_uses_the_range():
    values = COLOURS[..., :3]
    header = b"P6 7 5 65535\n"
    image = read_image(io.BytesIO(header + values.astype(">u2").tobytes()), value_range=(0, 4095))
    assert np.abs(np.asarray(image) - values * (255 / 4095)).max() <= 0.5


@pytest.mark.parametrize("top", [200, 60_000])
def test_32_bits_without_a_range_are_read_by_the_depth_that_is_used(top):
    """A model of 8-bit images has no range; 32 bits do not tell how many are used, and 0..255 would become black."""
    values = np.linspace(0, top, 12).astype(np.int32).reshape(3, 4)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    expected = values if top == 200 else np.rint(values / 257)
    assert np.array_equal(np.asarray(read_image(file)), expected)
    assert np.array_equal(np.asarray(to_image(Image.fromarray(values))), expected)


def test_16_bit_pgm_keeps_the_scale_in_its_header():
    """Pillow opens it with 32 bits per pixel; dark values are dark, whatever the largest one is."""
    file = io.BytesIO(b"P5 2 1 4095\n" + np.array([4095, 10], ">u2").tobytes())
    assert np.asarray(read_image(file)).tolist() == [[255, 1]]
    file = io.BytesIO(b"P5 2 1 4095\n" + np.array([10, 5], ">u2").tobytes())
    assert np.asarray(read_image(file)).tolist() == [[1, 0]]


def test_16_bit_grey_with_a_transparent_value_is_composited_over_white():
    content = png_of_16_bits(np.array([[500, 60_000]], np.uint16), 0)
    key = b"tRNS" + (500).to_bytes(2, "big")
    at = content.index(b"IDAT") - 4
    chunk = (2).to_bytes(4, "big") + key + zlib.crc32(key).to_bytes(4, "big")
    pixels = np.asarray(read_image(io.BytesIO(content[:at] + chunk + content[at:])))
    assert pixels.tolist() == [[255, round(60_000 / 257)]]


KINDS_OF_NUMBERS = ["int16", "uint32", "int32", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", KINDS_OF_NUMBERS)
@pytest.mark.parametrize("colour", [False, True])
def test_every_kind_of_number_in_tiff_files_is_read_as_stored(dtype, colour):
    tifffile = pytest.importorskip("tifffile")
    ends = (0, 1) if dtype.startswith("f") else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.resize(np.asarray([*ends, 1, ends[1] / 2, ends[1] / 3], dtype), (4, 6, 3))
    values = values if colour else np.ascontiguousarray(values[..., 0])
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb" if colour else "minisblack")
    found = decode(file, keep_depth=True)
    assert np.array_equal(found.values, values)
    assert found.to_8bit(found.limits).min() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: png_of_16_bits(COLOURS[..., :3], 2),
        lambda: png_of_16_bits(COLOURS, 6),
        lambda: png_of_16_bits(COLOURS[..., 2:], 4),
        lambda: tiff(COLOURS[..., :3]),
        lambda: tiff(np.moveaxis(COLOURS[..., :3], 2, 0), planarconfig="separate"),
        lambda: b"P6 7 5 65535\n" + COLOURS[..., :3].astype(">u2").tobytes(),
    ],
    ids=["png", "with opacity", "grey with opacity", "tiff", "planes", "ppm"],
)
def test_an_opened_image_of_16_bits_gives_the_pixels_of_its_file(make):
    """Pillow would keep the high bytes, so that 12 bits become nearly black."""
    content = make()
    file = io.BytesIO(content)
    expected = np.asarray(read_image(io.BytesIO(content), value_range=(0, 4095)))
    opened = Image.open(file)
    assert np.array_equal(np.asarray(to_image(opened, value_range=(0, 4095))), expected)
    assert np.array_equal(np.asarray(opened), np.asarray(Image.open(io.BytesIO(content))))  # it is as it was
    plain = np.asarray(read_image(io.BytesIO(content)))
    assert np.array_equal(np.asarray(to_image(Image.open(io.BytesIO(content)))), plain)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 2}, {"byteorder": ">"}])
def test_planes_of_16_bits_without_a_range_are_read_like_pixels(options):
    """For a model of 8-bit images. Pillow reads the planes as if they had 8 bits."""
    planes = tiff(np.moveaxis(COLOURS[..., :3] * 16, 2, 0), planarconfig="separate", **options)
    pixels = tiff(COLOURS[..., :3] * 16)
    found, expected = (np.asarray(read_image(io.BytesIO(content))).astype(int) for content in (planes, pixels))
    assert np.abs(found - expected).max() <= 1
    assert np.array_equal(np.asarray(to_image(Image.open(io.BytesIO(planes)))), found)


def test_an_open_file_is_read_from_its_beginning_with_a_range_too(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_of_16_bits(COLOURS[..., :3], 2))
    expected = np.asarray(read_image(path, value_range=(0, 4095)))
    with path.open("rb") as file:
        for _ in range(2):
            assert np.array_equal(np.asarray(read_image(file, value_range=(0, 4095))), expected)


@pytest.mark.parametrize("order", "<>")
def test_colours_that_are_multiplied_by_their_opacity_use_the_range_too(order):
    """Pillow keeps the high bytes, so that 12 bits become nearly black."""
    opacity = np.full((5, 7, 1), 65535)
    opacity[0] = 0x8080
    colours = COLOURS[..., :3]
    multiplied = np.concatenate([np.rint(colours * (opacity / 65535)), opacity], axis=2).astype(f"{order}u2")
    content = tiff(multiplied, extrasamples=["assocalpha"], byteorder=order)
    pixels = np.asarray(read_image(io.BytesIO(content), value_range=(0, 4095)))
    over_white = colours * (255 / 4095) * (opacity / 65535) + 255 * (1 - opacity / 65535)
    assert np.abs(pixels - over_white).max() <= 1.5


def test_every_bit_of_compressed_planes_is_read():
    """Pillow reads the high bytes only, so that 12 bits become 16 levels."""
    content = tiff(np.moveaxis(COLOURS[..., :3], 2, 0), planarconfig="separate", compression="zlib")
    image = read_image(io.BytesIO(content), value_range=(0, 4095))
    assert np.abs(np.asarray(image) - COLOURS[..., :3] * (255 / 4095)).max() <= 0.5


@pytest.mark.parametrize("value_range", [None, (0, 4095)])
def test_inks_of_16_bits_in_planes_are_refused_and_no_noise(value_range):
    tifffile = pytest.importorskip("tifffile")
    for compression in (None, "zlib"):
        file = io.BytesIO()
        planes = np.full((4, 5, 7), 4000, np.uint16)
        tifffile.imwrite(file, planes, photometric="separated", planarconfig="separate", compression=compression)
        with pytest.raises(BadInput, match=r"has inks \(CMYK\) of 16 bits in planes, .*; convert it to RGB"):
            read_image(file, name="x.tif", value_range=value_range)
