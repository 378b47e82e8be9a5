"""TIFF files with any number of bands, with tifffile as the oracle."""

import io
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnetlab
from resnetlab.data import open_dataset
from resnetlab.data.bands import read_bands
from resnetlab.data.decode import decode, read_image
from resnetlab.data.limits import TooManyPixels
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput

tifffile = pytest.importorskip("tifffile")

BANDS = np.random.default_rng(0).integers(0, 10_000, (6, 8, 5)).astype(np.uint16)


def tiff(values: np.ndarray, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (BANDS, {"planarconfig": "contig", "photometric": "minisblack"}),
        (np.moveaxis(BANDS, 2, 0), {"planarconfig": "separate", "photometric": "minisblack"}),
        (np.moveaxis(BANDS, 2, 0), {"photometric": "minisblack"}),
        (BANDS.astype(">u2"), {"planarconfig": "contig", "photometric": "minisblack", "byteorder": ">"}),
        (BANDS, {"planarconfig": "contig", "photometric": "minisblack", "bigtiff": True, "compression": "zlib"}),
        (BANDS, {"planarconfig": "contig", "photometric": "rgb"}),
    ],
    ids=["samples", "planes", "pages", "big-endian", "bigtiff", "rgb and more"],
)
def test_bands_are_samples_planes_or_pages(values, options):
    assert np.array_equal(read_bands(tiff(values, **options), 5).values, BANDS)


def test_files_without_these_bands_are_refused(tmp_path):
    for source, channels, sentence in (
        (tiff(BANDS, planarconfig="contig", photometric="minisblack"), 4, "has more bands; 4 are needed"),
        (tiff(BANDS[..., :4], planarconfig="contig", photometric="minisblack"), 6, "has 4 bands; 6 are needed"),
        (tiff(BANDS[..., :4].astype(np.uint8), photometric="separated"), 4, r"has inks \(CMYK\)"),
        (io.BytesIO(b"II*\0" + bytes(40)), 4, "the file "),
        (io.BytesIO(b"\x89PNG" + bytes(40)), 4, "is not a TIFF file"),
        (Image.new("CMYK", (3, 3)), 4, "as a TIFF file or an array"),
    ):
        with pytest.raises(BadInput, match=sentence):
            read_bands(source, channels)
    with pytest.raises(BadInput, match="at most 10 pixels"):
        read_bands(tiff(BANDS, planarconfig="contig", photometric="minisblack"), 5, max_pixels=10)


@pytest.mark.parametrize("bands", ["samples", "pages"])
def test_pixels_of_many_bands_count_more_than_those_of_colour(bands):
    values, options = (BANDS, {"planarconfig": "contig"}) if bands == "samples" else (np.moveaxis(BANDS, 2, 0), {})
    with pytest.raises(TooManyPixels, match=r"has 8×6 pixels of 5 bands, which count as 80; at most 79 pixels are"):
        read_bands(tiff(values, photometric="minisblack", **options), 5, max_pixels=79)
    assert read_bands(tiff(values, photometric="minisblack", **options), 5, max_pixels=80).values.shape == (6, 8, 5)


def test_a_small_image_in_a_huge_tile_is_refused_before_it_is_decoded(tmp_path):
    file = bytearray(tiff(BANDS[..., 0], tile=(16, 16), compression="zlib", metadata=None).getvalue())
    for tag in (322, 323):  # TileWidth, TileLength
        at = file.index(struct.pack("<HHI", tag, 4, 1))
        file[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 40_000)
    for read in (read_image, lambda source: read_bands(source, 1)):
        with pytest.raises(TooManyPixels, match=r"has 40000×40000 pixels in a tile; at most 64,000,000 pixels are"):
            read(io.BytesIO(file))


@pytest.mark.parametrize("rows", [6, 2**32 - 1])
@pytest.mark.parametrize(("kind", "compress"), [("zlib", zlib.compress), ("lzma", lzma.compress)])
def test_a_strip_with_more_pixels_than_the_image_is_refused(kind, compress, rows):
    file = bytearray(tiff(BANDS, planarconfig="contig", photometric="minisblack", compression=kind).getvalue())
    strip = compress(np.random.default_rng(0).bytes(20_000))
    for tag, value in ((273, len(file)), (279, len(strip)), (278, rows)):  # StripOffsets, StripByteCounts, RowsPerStrip
        at = next(at for kind in (3, 4) if (at := file.find(struct.pack("<HHI", tag, kind, 1))) >= 0)
        file[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    with pytest.raises(BadInput, match="is a damaged TIFF image: it has more pixels than it should have"):
        read_bands(io.BytesIO(bytes(file) + strip), 5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["bands", "floats of 64 bits"])
def test_orientation_is_that_of_pillow(orientation, kind):
    colours = (BANDS[..., :3] % 256).astype(np.uint8)
    extra = [(274, 3, 1, orientation, True)]
    expected = np.asarray(Image.open(tiff(colours, photometric="rgb", extratags=extra)))
    if kind == "bands":
        values = np.concatenate([colours, colours[..., :1]], 2)
        found = read_bands(tiff(values, photometric="minisblack", planarconfig="contig", extratags=extra), 4).values
        assert np.array_equal(found, np.concatenate([expected, expected[..., :1]], 2))
    else:
        file = tiff(colours[..., 0].astype(np.float64), photometric="minisblack", extratags=extra)
        assert np.array_equal(decode(file).values, expected[..., 0])


def folder_of(root: Path, channels: int) -> Path:
    random = np.random.default_rng(0)
    for label, name in enumerate(("field", "water")):
        (root / name).mkdir(parents=True)
        for i in range(8):
            values = random.integers(0, 1000, (12, 12, channels)).astype(np.uint16)
            values[..., channels - 1] += 2000 * label
            options = {"planarconfig": "contig", "photometric": "minisblack"}
            tifffile.imwrite(root / name / f"{i}.tif", values, **options)
    return root


@pytest.mark.slow
def test_a_network_with_as_many_channels_is_trained_and_used(command, tmp_path, tiny_network):
    data = folder_of(tmp_path / "land", 6)
    words = ("--data.channels", 6, "--model", tiny_network, "--steps", 4, "--batch-size", 8, "--out", "run")
    words = (*words, "--final-test", "never")
    code, out, err = command("train", "--data", data, *words)
    assert code == 0, err
    assert "6 channels" in out + Path("run/log.txt").read_text()
    classifier = resnetlab.load("run")
    assert classifier.model.network.in_channels == 6
    assert classifier.model.preprocessing.range == (0, 4095)
    found = [classifier(data / name / "1.tif").predicted for name in ("field", "water")]
    assert set(found) <= {"field", "water"}
    image = np.random.default_rng(1).integers(0, 255, (12, 12, 6), dtype=np.uint8)
    assert classifier(image).predicted in classifier.classes
    Image.new("RGB", (9, 9)).save("photo.jpg")
    with pytest.raises(BadInput, match=r"photo\.jpg is not a TIFF file; 6 channels are read from"):
        classifier("photo.jpg")


def test_channels_of_8_bits_need_no_range():
    values = (BANDS[:, :6] % 256).astype(np.uint8)
    preprocessing = Preprocessing(6, 6, 5, (0.5,) * 5, (0.2,) * 5)
    file = tiff(values, planarconfig="contig", photometric="minisblack")
    assert np.array_equal(preprocessing.read(file), values)
    assert np.array_equal(preprocessing.read(values), values)


def test_grey_or_colour_can_be_given(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (i, 2 * i, 90)).save(tmp_path / name / f"{i}.png")
    assert open_dataset(tmp_path).preprocessing.channels == 3
    assert open_dataset(tmp_path, channels=1).train.images.shape[-1] == 1
    assert open_dataset("digits", channels=3).train.images.shape[-1] == 3
    with pytest.raises(BadInput, match=r"digits has 1 channels; data\.channels can be 1 or 3"):
        open_dataset("digits", channels=5)


@pytest.mark.parametrize("values", [BANDS, BANDS[..., :2], BANDS[..., :4].astype(np.float32)])
def test_without_the_number_of_bands_the_way_out_is_named(values):
    with pytest.raises(
        BadInput,
        match=r"has \d bands of another kind than grey or RGB; to train on TIFF .* give their number \(`channels`",
    ):
        read_image(tiff(values, planarconfig="contig", photometric="minisblack"))


def test_an_open_file_of_bands_is_read_from_its_beginning(tmp_path):
    preprocessing = Preprocessing(6, 6, 5, (0.5,) * 5, (0.2,) * 5)
    values = (BANDS[:, :6] % 256).astype(np.uint8)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(values, planarconfig="contig", photometric="minisblack").read())
    with path.open("rb") as file:
        for _ in range(2):
            assert np.array_equal(preprocessing.read(file), values)
    with pytest.raises(BadInput, match=r"cannot be read: .*closed file"):
        preprocessing.read(file)
