"""Folders as people have them: every format and mode, files that are not images, and things that are not files."""

import io
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.data.test_decode import huge_png

from resnetlab.data import open_dataset
from resnetlab.data.decode import decode, header, read_image
from resnetlab.data.depth import DeepPixels, Limits, choose_range
from resnetlab.data.formats import FORMATS
from resnetlab.data.tree import SUFFIXES
from resnetlab.errors import BadInput
from resnetlab.files import open_regular, read_sealed, read_whole

NOISE = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
RGB = Image.fromarray(NOISE)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def special(folder: Path) -> dict[str, str]:
    """Make things that are not image files; return the reason for which each is refused, by name."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "piped.png").symlink_to(folder / "pipe.jpg")
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<!doctype html><html>404</html>")
    (folder / "half.jpg").write_bytes(saved(RGB, "JPEG")[:900])
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has at most 108 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.gif")
    os.chdir(here)
    return {
        "pipe.jpg": "is a pipe or a device, not a file",
        "link.jpg": "is a link to a file that does not exist",
        "endless.png": "is a pipe or a device, not a file",
        "piped.png": "is a pipe or a device, not a file",
        "empty.png": "is an empty file",
        "page.jpg": "is not an image of a known format",
        "half.jpg": "cannot be decoded: image file is truncated",
        "loop.jpg": "cannot be read: Too many levels",
        "socket.gif": "is a socket, not a file",
    }


def test_what_is_not_an_image_file_is_named_and_never_waited_for(tmp_path):
    for name, reason in special(tmp_path).items():
        with pytest.raises(BadInput, match=f"{name} {reason}"):
            read_image(tmp_path / name)
        if reason.startswith(("is a pipe", "is a socket", "is a link")):
            with pytest.raises(BadInput, match=f"{name} {reason}"):
                open_regular(tmp_path / name)
            with pytest.raises(BadInput, match=f"{name} {reason}"):
                read_whole(tmp_path / name)
        assert header(tmp_path / name) is None or name == "half.jpg"
    with pytest.raises(BadInput, match=r"could not read .*is a pipe"):
        read_sealed(tmp_path / "pipe.jpg")


def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_not_waited_for(tmp_path, monkeypatch):
    """The kind is checked again on what was opened."""
    (tmp_path / "x.png").write_bytes(saved(RGB, "PNG"))
    os.mkfifo(tmp_path / "pipe.png")
    real, regular = os.stat, (tmp_path / "x.png").stat()
    monkeypatch.setattr(os, "stat", lambda path, **rest: regular if "pipe" in str(path) else real(path, **rest))
    with pytest.raises(BadInput, match=r"pipe\.png is a"):
        open_regular(tmp_path / "pipe.png")
    with pytest.raises(BadInput, match=r"pipe\.png is a"):
        read_whole(tmp_path / "pipe.png")


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr", "LAB")


def test_a_folder_of_every_format_and_mode_is_trained_on_without_what_is_not_an_image(command, tmp_path, tiny_network):
    data = tmp_path / "mixed"
    (data / "a").mkdir(parents=True)
    (data / "b").mkdir()
    for number, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")):
        if kind == "AVIF" and not features.check("avif"):
            continue
        suffix = {"JPEG2000": "jp2"}.get(kind, kind.lower())
        for copy in range(10):
            (data / "ab"[copy % 2] / f"{number}-{copy}.{suffix}").write_bytes(saved(RGB.rotate(9 * copy), kind))
    for number, mode in enumerate(MODES):
        kind = "TIFF" if mode in ("CMYK", "F", "YCbCr", "LAB") else "PNG"
        if mode == "I;16":
            image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 16)
        elif mode == "F":
            image = RGB.convert("L").convert("F").point(lambda value: value * 16 + 0.0)
        else:
            image = RGB.convert(mode) if mode != "LAB" else Image.new("LAB", (9, 9))
        if mode == "F":
            continue  # floats among integers: tested beside the ranges
        options = {"transparency": 3} if mode == "P" else {}
        (data / "a" / f"mode{number}.{kind.lower()}").write_bytes(saved(image, kind, **options))
    for name, size in (("dot.png", (1, 1)), ("line.png", (20_000, 1)), ("line.jpg", (1, 20_000))):
        Image.new("RGB", size, "teal").save(data / "b" / name)
    (data / "b/folder.png").mkdir()
    (data / "b/bomb.png").write_bytes(huge_png(65_000, 65_000))
    bad = special(data / "a")
    words = ("--data", data, "--model", tiny_network, "--steps", 2, "--batch-size", 8, "--data.image-size", 16)
    first = command.refuse("train", *words, "--out", "run")
    assert any(name in first for name in (*bad, "bomb.png"))
    assert not Path("run").exists()
    code, out, err = command(
        "train", *words, "--out", "run", "--data.bad-images", "skip", "--data.max-skipped", 0.2, "--final-test", "never"
    )
    assert code == 0, err
    log = out + Path("run/log.txt").read_text()
    for name, reason in {**bad, "bomb.png": r"has 65000×65000 pixels; at most 64,000,000"}.items():
        assert f"{name} {reason}" in log
    assert "--data.max-pixels" in log
    assert "folder.png" in log
    assert "pixel values 0 to 4095 become black to white" in log


def test_a_link_to_an_image_is_read(tmp_path):
    (tmp_path / "real.png").write_bytes(saved(RGB, "PNG"))
    (tmp_path / "link.png").symlink_to("real.png")
    assert read_image(tmp_path / "link.png").size == (30, 24)


def bomb(kind: str) -> bytes:
    """A file of a few bytes whose header claims the largest size that its format has, up to 65,000×65,000."""
    if kind == "AVIF frame":  # its header has a small size
        small = bytearray(saved(Image.new("L", (8100, 8100)), "AVIF", speed=10, quality=10))
        at = small.index(b"ispe") + 8
        small[at : at + 8] = struct.pack(">II", 100, 100)
        return bytes(small)
    if kind == "HEIC":
        file = io.BytesIO()
        pytest.importorskip("pillow_heif").from_pillow(RGB.resize((300, 240))).save(file)
        small = bytearray(file.getvalue())
    else:
        small = bytearray(saved(RGB, kind.removesuffix("60"), **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "PNG":
        return huge_png(65_000, 65_000)
    if kind.startswith("JPEG") and kind != "JPEG2000":
        at = small.index(b"\xff\xc0") + 5
        side = 60_000 if kind.endswith("60") else 65_000  # an eighth of 60,000 is within the limit
        small[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "GIF":
        small[6:10] = struct.pack("<HH", 65_000, 65_000)
        at = small.index(b"\x2c", 13) + 5
        small[at : at + 4] = struct.pack("<HH", 65_000, 65_000)
    elif kind == "BMP":
        small[18:26] = struct.pack("<ii", 65_000, 65_000)
    elif kind == "PPM":
        return b"P6 65000 65000 255\n" + bytes(99)
    elif kind == "WEBP":
        at = small.index(b"VP8L") + 9
        bits = int.from_bytes(small[at : at + 4], "little")
        small[at : at + 4] = (bits | 0x0FFFFFFF).to_bytes(4, "little")  # 16384×16384
    elif kind == "TIFF":
        for tag in (256, 257):
            at = small.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in small else -1
            at = small.index(struct.pack("<HHI", tag, 3, 1)) if at < 0 else at
            small[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 65_000)
    elif kind == "JPEG2000":
        at = small.index(b"ihdr") + 4
        small[at : at + 8] = struct.pack(">II", 65_000, 65_000)
        at = small.index(b"\xff\x51") + 6
        for place in (at, at + 4, at + 16, at + 20):
            small[place : place + 4] = struct.pack(">I", 65_000)
    elif kind in ("AVIF", "HEIC"):
        at = small.index(b"ispe") + 8
        small[at : at + 8] = struct.pack(">II", 65_000, 65_000)
    return bytes(small)


KINDS = [
    "PNG",
    "JPEG",
    "JPEG60",
    "HEIC",
    "GIF",
    "BMP",
    "PPM",
    "WEBP",
    "TIFF",
    "JPEG2000",
    *(["AVIF", "AVIF frame"] if features.check("avif") else []),
]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process's memory is read from /proc")
def test_huge_headers_of_every_format_take_less_than_a_second_and_200_mb(tmp_path):
    for kind in KINDS:
        (tmp_path / f"{kind}.img").write_bytes(bomb(kind))
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from resnetlab.data.decode import header, read_image\n"
        "for path in sys.argv[1:]:\n"
        "    start = time.perf_counter()\n"
        "    for at_least in (0, 64):\n"
        "        try:\n"
        "            read_image(path, at_least=at_least)\n"
        "            print('read', path)\n"
        "        except ValueError as error: message = str(error)\n"
        "    header(Path(path))\n"
        "    peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "    print(time.perf_counter() - start, peak, message)\n"
    )
    paths = [str(tmp_path / f"{kind}.img") for kind in KINDS]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert "read" not in [line.split()[0] for line in done.stdout.splitlines()], done.stdout
    for line in done.stdout.splitlines():
        seconds, kilobytes, message = line.split(maxsplit=2)
        assert float(seconds) < 1, line
        assert int(kilobytes) < 200_000, line
        assert ".img " in message, line


def test_a_photo_of_108_megapixels_is_trained_on_and_the_limit_is_a_setting(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(8):
            RGB.save(tmp_path / name / f"{i}.png")
    photo = saved(Image.new("RGB", (1200, 900), "teal"), "JPEG")
    for name, content in (("big.jpg", photo), ("big.png", saved(Image.new("RGB", (1200, 900), "teal"), "PNG"))):
        (tmp_path / "a/big.jpg").write_bytes(content)
        if name == "big.jpg":
            opened = open_dataset(tmp_path, max_pixels=30_000, image_size=32)
            assert len(opened.train) > 0
            assert opened.preprocessing.max_pixels == 30_000  # for the model file, and so for prediction
        else:
            with pytest.raises(
                BadInput, match=r"has 1200×900 pixels; at most 30,000 .*\(`max_pixels` sets the limit\)"
            ):
                open_dataset(tmp_path, max_pixels=30_000, image_size=32)
            assert len(open_dataset(tmp_path, image_size=32).train) > 0


def test_the_limit_of_skipped_images_is_a_setting_and_named(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(8):
            RGB.save(tmp_path / name / f"{i}.png")
    for i in range(3):
        (tmp_path / f"a/{i}.png").write_text("broken")
    with pytest.raises(BadInput, match=r"more than 5% of the 16 .*raise the limit \(`max_skipped`\)"):
        open_dataset(tmp_path, bad_images="skip")
    opened = open_dataset(tmp_path, bad_images="skip", max_skipped=0.25)
    assert len(opened.train) + len(opened.val) + len(opened.test) == 13


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_and_truncated_avif_refused():
    whole = saved(RGB, "AVIF", quality=95)
    assert read_image(io.BytesIO(whole)).size == (30, 24)
    with pytest.raises(BadInput):
        read_image(io.BytesIO(whole[: len(whole) // 2]))


@pytest.mark.parametrize("after", [b"", b"\0\0\0\0avifmif1", b"\0\0\0\0avifmif1" + bytes(300)])
def test_what_only_begins_like_avif_is_said_to(after, monkeypatch):
    file = b"\0\0\0\x1cftypavif" + after + b"x"
    if features.check("avif"):
        with pytest.raises(BadInput, match=r"^a\.avif begins like AVIF, but is damaged or of an unknown kind$"):
            read_image(io.BytesIO(file), name="a.avif")
    monkeypatch.setattr("resnetlab.data.formats._openers", lambda: ())  # a Pillow without AVIF
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    with pytest.raises(BadInput, match=r"a\.avif is an AVIF image, which this Pillow cannot decode; pip install --up"):
        read_image(io.BytesIO(file), name="a.avif")


def test_jpeg_2000_is_read():
    whole = saved(RGB, "JPEG2000")
    assert np.array_equal(np.asarray(read_image(io.BytesIO(whole))), NOISE)
    deep = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(read_image(io.BytesIO(saved(deep, "JPEG2000")))), NOISE[..., 0])


def test_heic_is_read_with_its_extra_without_registering_it():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(RGB.resize((300, 240))).save(file, quality=95)
    image = read_image(io.BytesIO(file.getvalue()))
    assert (image.mode, image.size) == ("RGB", (300, 240))
    assert "HEIF" not in Image.OPEN
    assert ".heic" in SUFFIXES
    with pytest.raises(BadInput, match="at most 99 pixels"):
        read_image(io.BytesIO(file.getvalue()), max_pixels=99)


def test_heic_without_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    with pytest.raises(BadInput, match=r"the file is a HEIC image; to read it: pip install 'resnetlab\[heif\]'"):
        read_image(io.BytesIO(heic))
    script = (
        "import sys\nsys.modules['pillow_heif'] = None\n"
        "from importlib import util\nutil.find_spec = lambda name: None\n"
        "from resnetlab.data.tree import PICTURES, SUFFIXES\n"
        "assert '.heic' not in SUFFIXES\n"
        "assert 'resnetlab[heif]' in PICTURES['.heic']\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "mixed with L"])
def test_images_whose_pixels_are_all_grey_are_grey_whatever_their_mode(tmp_path, mode):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            grey = Image.fromarray(np.roll(NOISE[..., 0], i))
            grey = grey if mode.endswith("L") and i % 2 else grey.convert("RGB" if mode == "mixed with L" else mode)
            grey.save(tmp_path / name / f"{i}.png")
    opened = open_dataset(tmp_path, image_size=16)
    assert opened.preprocessing.channels == 1
    assert opened.train.images.shape[1:] == (16, 16, 1)
    for image, name in zip(opened.train.images, opened.train.names, strict=True):
        assert np.array_equal(image.numpy(), opened.preprocessing.read(tmp_path / name))
    RGB.save(tmp_path / "a/0.png")
    names = open_dataset(tmp_path, image_size=16)
    assert names.preprocessing.channels == (3 if "a/0.png" in names.train.names else 1)


def as_data_set_of_one(path: Path) -> Image.Image:
    """Read an image with the range of pixel values that a data set of this image would have."""
    pixels = decode(path, keep_depth=True)
    if not isinstance(pixels, DeepPixels):
        return pixels
    return Image.fromarray(pixels.to_8bit(choose_range({path.name: Limits.of(pixels)}, 1)[0]))


PILLOW = os.environ.get("RESNETLAB_PILLOW_IMAGES")


@pytest.mark.slow
@pytest.mark.skipif(not PILLOW, reason="RESNETLAB_PILLOW_IMAGES does not name the folder Tests/images of Pillow")
@pytest.mark.filterwarnings("ignore")
def test_pillows_own_test_images_are_read_like_pillow_or_named():
    """No crash; what Pillow reads in a format of ours is read, with its pixels but for documented differences:
    the range of deep images, transparency, orientation."""
    allowed = {*FORMATS, "MPO"}
    counts: dict[str, int] = {}
    problems = []
    for path in sorted(Path(PILLOW).rglob("*")):
        if not path.is_file():
            continue
        try:
            with Image.open(path) as pillow:
                kind, mode, deep = pillow.format, pillow.mode, ";16" in str(getattr(pillow, "tile", ""))
                turn = kind != "TIFF" and pillow.getexif().get(0x0112, 1) in range(2, 9)
                expected = np.asarray(pillow.convert("RGB")) if kind in allowed else None
                is_clear = pillow.has_transparency_data
        except Exception:
            kind, expected = None, None
        try:
            found = np.asarray(as_data_set_of_one(path).convert("RGB"))
        except BadInput as error:
            what = "refused by both" if expected is None else "refused by us only"
            if expected is not None:
                problems.append(f"{path.name} ({kind}, {mode}): {error}")
        else:
            if expected is None:
                what = "read by us only"
            elif found.shape == expected.shape and np.array_equal(found, expected):
                what = "equal"
            elif turn or is_clear or mode.startswith(("I", "F")) or deep:
                what = "differs as documented"
            else:
                what = "differs"
                problems.append(f"{path.name} ({kind}, {mode}): other pixels than Pillow's")
        counts[what] = counts.get(what, 0) + 1
    print(counts)
    assert not problems, "\n".join([str(counts), *problems])
