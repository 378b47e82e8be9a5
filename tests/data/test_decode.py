"""Every mode, rotation and kind of damage has one defined result (promises 16, 17 and 21)."""

import contextlib
import ctypes
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from resnetlab.data.decode import header, read_image, to_image
from resnetlab.data.limits import MAX_PIXELS, TooManyPixels
from resnetlab.errors import BadInput


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def palette(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, *colour])
    return image


def grey_tiff(value: float, dtype: type) -> io.BytesIO:
    return saved(Image.fromarray(np.full((2, 2), value, dtype=dtype)), "TIFF")


HALF = 132  # 10 at alpha 128 of 255 over white: 10·128/255 + 255·127/255 = 132
MODES = {
    "1": (saved(Image.new("1", (2, 2), 1), "PNG"), "L", 255),
    "L": (saved(Image.new("L", (2, 2), 77), "PNG"), "L", 77),
    "L with a transparent value": (saved(Image.new("L", (2, 2), 77), "PNG", transparency=77), "L", 255),
    "1 with a transparent value": (saved(Image.new("1", (2, 2), 0), "PNG", transparency=0), "L", 255),
    "LA": (saved(Image.new("LA", (2, 2), (10, 128)), "PNG"), "L", HALF),
    "P": (saved(palette((1, 2, 3)), "PNG"), "RGB", (1, 2, 3)),
    "P with a transparent index": (saved(palette((1, 2, 3)), "PNG", transparency=1), "RGB", (255, 255, 255)),
    "P with transparency in bytes": (saved(palette((1, 2, 3)), "PNG", transparency=b"\xff\x00"), "RGB", (255,) * 3),
    "RGB": (saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG"), "RGB", (1, 2, 3)),
    "RGB with a transparent colour": (
        saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        "RGB",
        (255, 255, 255),
    ),
    "RGBA": (saved(Image.new("RGBA", (2, 2), (10, 10, 10, 128)), "PNG"), "RGB", (HALF,) * 3),
    "RGBA, transparent": (saved(Image.new("RGBA", (2, 2), (10, 10, 10, 0)), "WEBP", lossless=True), "RGB", (255,) * 3),
    "CMYK": (saved(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF"), "RGB", (0, 255, 255)),
    "YCbCr": (saved(Image.new("YCbCr", (2, 2), (100, 128, 128)), "TIFF"), "RGB", (100, 100, 100)),
    "LAB": (saved(Image.new("LAB", (2, 2), (0, 128, 128)), "TIFF"), "RGB", None),
    "I;16 black": (grey_tiff(0, np.uint16), "L", 0),
    "I;16 middle": (grey_tiff(128 * 257, np.uint16), "L", 128),
    "I;16 rounds": (grey_tiff(129, np.uint16), "L", 1),
    "I;16 white": (grey_tiff(65535, np.uint16), "L", 255),
    "I;16 in a PNG": (saved(Image.fromarray(np.full((2, 2), 1000 * 2, np.uint16)), "PNG"), "L", 8),
    "I": (io.BytesIO(b"P5 2 1 65535\n" + struct.pack(">2H", 100 * 257, 100 * 257)), "L", 100),
    "RGB of 16 bits": (io.BytesIO(b"P6 1 1 65535\n" + struct.pack(">3H", 0, 257, 65535)), "RGB", (0, 1, 255)),
    "F in [0, 1]": (grey_tiff(0.5, np.float32), "L", 128),
    "F in [0, 255]": (grey_tiff(200.4, np.float32), "L", 200),
    "BMP": (saved(Image.new("RGB", (2, 2), (1, 2, 3)), "BMP"), "RGB", (1, 2, 3)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_a_defined_result(name):
    file, mode, pixel = MODES[name]
    file.seek(0)
    image = read_image(file)
    assert image.mode == mode
    if pixel is not None:
        assert image.getpixel((0, 0)) == pixel
    file.seek(0)
    assert to_image(Image.open(file)).tobytes() == image.tobytes()  # an opened image is treated like its file


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "RGBX", "LAB"])
def test_modes_that_exist_only_in_pillow_have_a_defined_result(mode):
    assert to_image(Image.new(mode, (3, 2))).mode == ("L" if mode == "La" else "RGB")


def test_16_bits_are_scaled_not_clipped_as_pillow_does():
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(np.asarray(read_image(saved(Image.fromarray(ramp), "PNG"))), expected)
    assert np.array_equal(np.asarray(to_image(Image.fromarray(ramp.astype(np.int32)))), expected)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(70000, np.int32), (-1, np.int32), (256.5, np.float32), (-0.1, np.float32), (np.nan, np.float32)],
)
def test_values_outside_the_known_ranges_are_refused(value, dtype):
    with pytest.raises(BadInput, match="is needed"):
        read_image(grey_tiff(value, dtype))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    """The oracle is the definition: where the stored first row and first column belong (EXIF 2.3, 4.6.4.A)."""
    upright = np.zeros((16, 32), dtype=np.uint8)
    upright[:8, :16] = 250  # top left, so that all eight turns differ
    upright[:8, 16:] = 120
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).convert("RGB")
    image = read_image(saved(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})))
    assert image.size == (32, 16)
    grey = np.asarray(image.convert("L")).astype(int)
    assert abs(grey[3, 4] - 250) < 12
    assert abs(grey[3, 27] - 120) < 12
    assert grey[12].max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_orientation_in_xmp_data_is_not_used_beside_exif_either(kind):
    """Pillow uses it if the EXIF data has none; browsers do not."""
    exif = Image.Exif()
    exif[0x010F] = "camera"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = saved(Image.new("RGB", (32, 16)), kind, exif=exif, xmp=xmp)
    assert Image.open(file).getexif()[0x0112] == 6
    assert read_image(file).size == (32, 16)
    exif[0x0112] = 8
    assert read_image(saved(Image.new("RGB", (32, 16)), kind, exif=exif, xmp=xmp)).size == (16, 32)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_an_image_with_damaged_exif_is_read():
    file = saved(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(file).size == (8, 8)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert read_image(file).getpixel((0, 0)) == (255, 0, 0), kind


def huge_png(width: int, height: int) -> bytes:
    """A header with a large size, and almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 10_000, 13_000, 30_000, 60_000])
def test_decompression_bombs_are_refused_from_the_header(side, tmp_path):
    """Pillow only warns of 10,000² pixels, and refuses 30,000² itself."""
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    with pytest.raises(BadInput, match=r"bomb\.png .*64,000,000"):
        read_image(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process's memory is read from /proc")
def test_refusing_a_bomb_takes_less_than_a_second_and_200_mb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(12_000, 12_000))
    script = (
        "import sys, time\n"
        "from resnetlab.data.decode import read_image\nfrom resnetlab.errors import LabError\n"
        "start = time.perf_counter()\n"
        "try: read_image(sys.argv[1])\n"
        "except LabError: print(time.perf_counter() - start)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 1
    assert kilobytes < 200_000


def test_an_image_of_exactly_the_largest_size_is_read():
    assert MAX_PIXELS == 8000 * 8000
    with pytest.raises(BadInput, match="at most"):
        read_image(saved(Image.new("L", (11, 10)), "PNG"), max_pixels=100)
    assert read_image(saved(Image.new("L", (10, 10)), "PNG"), max_pixels=100).size == (10, 10)
    photo = Image.new("L", (1000, 1000))
    with pytest.raises(TooManyPixels, match="has 1000×1000 pixels"):
        read_image(saved(photo, "JPEG"), max_pixels=20_000)
    assert read_image(saved(photo, "JPEG"), at_least=8, max_pixels=20_000).size == (125, 125)  # what is decoded counts
    with pytest.raises(TooManyPixels, match="has 1000×1000 pixels"):  # held whole by the decoder
        read_image(saved(photo, "JPEG", progressive=True), at_least=8, max_pixels=20_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_truncated_files_are_refused(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), kind).getvalue()
    path = tmp_path / "half.img"
    for length in (1, 10, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=r"half\.img .{10}"):
            read_image(path)


def test_the_error_names_a_file_that_is_not_an_image(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "evil\x1b[2J.jpg").write_text("x")
    with pytest.raises(BadInput, match=r"text\.jpg is not an image of a known format \(JPEG, PNG"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(BadInput, match=r"empty\.png is an empty file"):
        read_image(str(tmp_path / "empty.png"))
    with pytest.raises(BadInput, match="not an image"):
        read_image(tmp_path / "drawing.svg")
    with pytest.raises(BadInput, match="file not found: "):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(BadInput, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(BadInput) as caught:
        read_image(tmp_path / "evil\x1b[2J.jpg")
    assert "\x1b" not in str(caught.value)
    with pytest.raises(BadInput, match="upload is not an image"):
        read_image(io.BytesIO(b"x"), name="upload")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero on this system")
def test_a_device_is_refused():
    with pytest.raises(BadInput, match="is a pipe or a device, not a file"):
        read_image("/dev/zero")


def test_formats_beyond_the_list_are_refused():
    with pytest.raises(BadInput, match="known format"):
        read_image(saved(Image.new("RGB", (8, 8)), "PCX"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_a_mutated_file_gives_an_image_or_an_error(kind):
    draw = random.Random(kind)
    whole = saved(Image.effect_noise((24, 24), 60).convert("RGB"), kind).getvalue()
    errors = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            near = len(data) if draw.random() < 0.5 else min(64, len(data))  # half of them in the header
            data[draw.randrange(near)] = draw.randrange(256)
        try:
            assert read_image(io.BytesIO(bytes(data))).mode in ("L", "RGB")
        except BadInput as error:
            errors.append(str(error))
    assert errors
    assert all(error.startswith("the file ") for error in errors)


def test_arrays_are_converted_or_refused():
    colour = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(to_image(colour)), colour)
    assert np.array_equal(np.asarray(to_image(colour[::-1, ::-1])), colour[::-1, ::-1])
    assert to_image(colour[:, :, :1]).mode == "L"
    assert np.array_equal(np.asarray(to_image(colour / 255.0)), colour)
    for wrong in (
        colour.astype(np.int64),
        colour.astype(float),
        colour.transpose(2, 0, 1),
        np.full((2, 2), np.nan),
        colour > 3,
        np.zeros((0, 3), np.uint8),
        np.zeros(3, np.uint8),
    ):
        with pytest.raises(BadInput, match="the array"):
            to_image(wrong)


def test_a_draft_keeps_enough_pixels_and_the_same_image():
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1000, 600), Image.Resampling.BICUBIC)
    file = saved(image, "JPEG", quality=95)
    small = read_image(file, at_least=128)
    assert small.size == (250, 150)
    file.seek(0)
    whole = read_image(file)
    assert whole.size == (1000, 600)
    difference = np.asarray(small.resize((100, 60))).astype(int) - np.asarray(whole.resize((100, 60)))
    assert abs(difference).mean() < 1


def damaged_files() -> list[bytes]:
    """Files about which Pillow warns and libtiff writes to stderr."""
    lzw = saved(Image.effect_noise((24, 24), 60), "TIFF", compression="tiff_lzw").getvalue()
    return [
        saved(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff").getvalue(),
        lzw[:8] + bytes(40) + lzw[48:],
        lzw[:-20],
        huge_png(10_000, 10_000),
    ]


def tiff_error_handler() -> int | None:
    """The address of libtiff's error handler, which can only be read by replacing it."""
    set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler = set_handler(None)
    set_handler(handler)
    return handler


@pytest.mark.filterwarnings("default")
def test_reading_in_eight_threads_changes_nothing_in_the_process(capfd):
    """Not even while a file is being read: another thread must not lose its own warnings."""

    def state() -> list[object]:
        pillow = [Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK]
        return [*pillow, list(warnings.filters), warnings.showwarning, sys.stderr]

    def read_all(files: list[bytes]) -> list[list[object]]:
        states = []
        for data in files:
            with contextlib.suppress(BadInput):
                read_image(io.BytesIO(data))
            states.append(state())
        return states

    handler = tiff_error_handler()
    with warnings.catch_warnings(record=True):  # Pillow's warnings go where the host wants them
        before = state()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read_all, [damaged_files() * 5] * 8))
        assert all(during == before for states in found for during in states)
        assert state() == before
    assert tiff_error_handler() == handler


@pytest.mark.parametrize("silent", [False, True])
def test_a_command_line_can_silence_the_decoders(silent, tmp_path):
    for number, data in enumerate(damaged_files()):
        (tmp_path / str(number)).write_bytes(data)
    size = struct.pack("<IHHHIIHHIII", 8, 2, 256, 4, 1, 8, 257, 4, 1, 8, 0)
    (tmp_path / "size only.tif").write_bytes(b"II*\0" + size)  # of which tifffile says much
    script = (
        "import sys\nfrom resnetlab.data.decode import read_image, silence_decoders\n"
        "if sys.argv[1] == 'True': silence_decoders()\n"
        "for path in sys.argv[2:]:\n"
        "    try: read_image(path)\n"
        "    except ValueError: pass\n"
        "    except Exception as error: assert type(error).__name__ == 'BadInput'\n"
    )
    command = [sys.executable, "-c", script, str(silent), *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stderr == "") == silent


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadInput, match=r"pipe\.png is a pipe or a device"):
        read_image(tmp_path / "pipe.png")
    assert header(tmp_path / "pipe.png") is None
