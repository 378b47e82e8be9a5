"""Images of more than 8 bits: one range for a data set, chosen from its training images and stored."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.test_decode_deep import COLOURS, png_of_16_bits

from resnetlab.data import open_dataset
from resnetlab.data.decode import read_image
from resnetlab.data.depth import Limits, choose_range
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput


def write(root: Path, make: object, count: int = 8) -> Path:
    """Two classes of images that `make` returns as an array or as the bytes of a PNG, from a random source."""
    random = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            made = make(random)  # type: ignore[operator]
            if isinstance(made, bytes):
                (root / name / f"{i}.png").write_bytes(made)
            else:
                Image.fromarray(made).save(root / name / (f"{i}.png" if made.dtype.kind == "u" else f"{i}.tif"))
    return root


@pytest.mark.parametrize(("bits", "low"), [(10, 0), (12, 0), (14, 0), (16, 0), (12, 3900)])
def test_the_bit_depth_that_is_used_is_the_range(tmp_path, bits, low):
    top = 2**bits - 1
    opened = open_dataset(write(tmp_path, lambda r: r.integers(max(low, top // 2), top, (9, 9)).astype(np.uint16)))
    assert opened.preprocessing.range == (0, top)
    assert any(f"pixel values 0 to {top} become black to white" in note for note in opened.notes)
    values = np.asarray(Image.open(tmp_path / opened.train.names[0])).astype(float)
    assert np.abs(opened.train.images[0, ..., 0].numpy() - values * 255 / top).max() <= 0.5


def test_12_bits_give_the_pixels_of_the_same_values_in_16_bits(tmp_path):
    def of(scale: int):
        return lambda r: (r.integers(100, 4090, (9, 9)) * scale).astype(np.uint16)

    twelve, sixteen = (open_dataset(write(tmp_path / str(s), of(s))).train.images.numpy().astype(int) for s in (1, 16))
    assert twelve.std() > 60
    assert np.abs(twelve - sixteen).max() <= 1


def test_colours_of_16_bits_use_the_range_too(tmp_path):
    """Pillow keeps the high byte of each value, so that 12 bits would become nearly black."""
    opened = open_dataset(write(tmp_path, lambda r: png_of_16_bits(r.integers(0, 4096, (9, 9, 3)), 2)))
    assert opened.preprocessing.range == (0, 4095)
    assert opened.train.images.float().mean() == pytest.approx(127.5, abs=5)
    same = opened.preprocessing.read(tmp_path / opened.train.names[0])
    assert np.array_equal(same, opened.train.images[0].numpy())


def test_without_a_range_the_pixels_are_those_of_earlier_versions():
    """High bytes of colours, 16 bits of grey: models that were trained before ranges were stored score the same."""
    assert np.array_equal(
        np.asarray(read_image(io.BytesIO(png_of_16_bits(COLOURS[..., :3], 2)))), COLOURS[..., :3] >> 8
    )
    old = Preprocessing(5, 5, 1, (0.5,), (0.5,))
    assert "range" not in old.to_json()
    grey = Image.fromarray(COLOURS[:, :5, 0])
    assert np.array_equal(old.read(grey)[..., 0], (COLOURS[:, :5, 0].astype(int) + 128) // 257)


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, (0, 1)), (3, 250, (0, 255))])
def test_floats_in_a_usual_range_keep_it(tmp_path, low, high, expected):
    """One dark image among them is not made brighter."""

    def make(r: np.random.Generator) -> np.ndarray:
        return r.uniform(low, high, (9, 9)).astype(np.float32)

    write(tmp_path, make)
    Image.fromarray(np.full((9, 9), 0.4, np.float32)).save(tmp_path / "a/dark.tif")
    opened = open_dataset(tmp_path)
    assert opened.preprocessing.range == expected
    dark = opened.preprocessing.read(tmp_path / "a/dark.tif")
    assert dark.max() == round(0.4 * 255 / expected[1])


def test_other_floats_have_the_range_of_the_training_images(tmp_path):
    opened = open_dataset(write(tmp_path, lambda r: r.uniform(-800, 3000, (9, 9)).astype(np.float32)))
    low, high = opened.preprocessing.range
    assert -800 <= low < -700
    assert 2900 < high <= 3000
    beyond = opened.preprocessing.read(Image.fromarray(np.full((9, 9), 1e6, np.float32)))
    assert beyond.min() == 255


def test_nan_is_a_bad_image(tmp_path):
    write(tmp_path, lambda r: r.uniform(0, 1, (9, 9)).astype(np.float32), count=20)
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "a/3.tif")
    with pytest.raises(BadInput, match=r"a/3\.tif has pixels that are NaN or infinite.*`bad_images=.skip.`"):
        open_dataset(tmp_path)
    opened = open_dataset(tmp_path, bad_images="skip")
    assert opened.preprocessing.range == (0, 1)
    assert "a/3.tif" not in opened.train.names


def test_the_range_can_be_given_and_is_used_for_every_split(tmp_path):
    write(tmp_path, lambda r: r.integers(7000, 9000, (9, 9)).astype(np.uint16))
    chosen = open_dataset(tmp_path)
    assert chosen.preprocessing.range == (0, 16383)
    assert any("31 of 256 levels; `range=(70" in note for note in chosen.notes)
    given = open_dataset(tmp_path, range=(7000, 9000))
    assert given.preprocessing.range == (7000, 9000)
    assert any("7000 to 9000 of images of more than 8 bits become black to white (as given)" in n for n in given.notes)
    for split in (given.train, given.val, given.test):
        for image, name in zip(split.images, split.names, strict=True):
            assert np.array_equal(image.numpy(), given.preprocessing.read(tmp_path / name))
        assert split.images.float().std() > 60
    with pytest.raises(BadInput, match=r"data\.range is .*LOW below HIGH"):
        open_dataset(tmp_path, range=(5, 5))


def test_the_range_is_in_the_model_file():
    preprocessing = Preprocessing(8, 8, 1, (0.5,), (0.5,), range=(0, 4095))
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


def test_images_that_lose_their_contrast_are_named(tmp_path):
    """Those of 16 bits for a model of 12 bits, or of any depth for a model of 8 bits, would be scored in silence."""

    def notes(model, data):
        return [note for note in open_dataset(data, preprocessing=model).notes if " have " in note]

    def deep(factor):
        return lambda random: ((1000 + random.integers(0, 200, (16, 16))) * factor).astype(np.uint16)

    twelve, sixteen = write(tmp_path / "12", deep(1)), write(tmp_path / "16", deep(16))
    eight = write(tmp_path / "8", lambda random: random.integers(0, 200, (16, 16)).astype(np.uint8))
    of_12, of_8 = open_dataset(twelve).preprocessing, open_dataset(eight).preprocessing
    assert notes(of_12, twelve) == notes(of_12, eight) == notes(of_8, eight) == []
    assert notes(of_12, sixteen) == [
        "16 images have almost only pixel values outside the range, so that they are black or white; the first: a/0.png"
    ]
    (note,) = notes(of_8, twelve)
    assert note.startswith("16 images have more than 8 bits, but the training images had 8: their 0 to 65535 become")
    floats = write(tmp_path / "f", lambda random: random.uniform(0, 1, (16, 16)).astype(np.float32))
    (note,) = notes(of_12, floats)
    assert note.startswith("16 images have pixel values that differ by less than a level of the range, so that they")
    for order in "<>":  # of the bytes in the file
        for name in "ab":
            for path in (twelve / name).iterdir():
                path.unlink()
        big = write(twelve, lambda random, order=order: random.integers(0, 4096, (16, 16)).astype(f"{order}i4"))
        (note,) = notes(of_8, big)
        assert note.startswith("16 images have more than 8 bits")


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_for_a_model_of_8_bits_are_named(tmp_path, kind, channels):
    """Pillow makes 8 bits of them, so that values of 12 bits are almost black."""

    def colours(random):
        return random.integers(0, 256, (16, 16, 3)).astype(np.uint8)

    deep = write(
        tmp_path / "16", lambda random: png_of_16_bits(random.integers(0, 4096, (16, 16, channels)), kind), count=8
    )
    of_8 = open_dataset(write(tmp_path / "8", colours)).preprocessing
    opened = open_dataset(deep, preprocessing=of_8)
    assert any(
        note == "16 images have more than 8 bits, but the training images had 8: their 0 to 65535 become black to "
        "white; the first: a/0.png"
        for note in opened.notes
    )
    for split in (opened.train, opened.val, opened.test):
        for name, pixels in zip(split.names, split.images.numpy(), strict=True):
            assert (pixels == of_8.read(deep / name)).all()


def test_8_bits_among_16_bits_are_named(tmp_path):
    write(tmp_path, lambda r: r.integers(0, 4096, (9, 9)).astype(np.uint16), count=15)
    for i in range(5):
        Image.fromarray(np.full((9, 9), 200, np.uint8)).save(tmp_path / f"a/{i}.png")
    opened = open_dataset(tmp_path)
    assert any("training images have 8 bits: their 0 to 255" in note for note in opened.notes)
    assert opened.preprocessing.read(tmp_path / "a/0.png").max() == 200


def test_integers_and_floats_are_refused_without_a_range(tmp_path):
    write(tmp_path, lambda r: r.integers(0, 4096, (9, 9)).astype(np.uint16))
    write(tmp_path, lambda r: r.uniform(0, 1, (9, 9)).astype(np.float32))
    with pytest.raises(BadInput, match=r"\.png has integer pixels .*\.tif has float pixels; .*\(`range`\)"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, range=(0, 4095)).preprocessing.range == (0, 4095)


def test_of_integers_and_floats_the_fewer_are_skipped_where_bad_images_are(tmp_path):
    write(tmp_path, lambda r: r.integers(0, 4096, (9, 9)).astype(np.uint16), count=30)
    for split in range(4):  # some of them are in val or test
        pixels = np.random.default_rng(split).uniform(0, 1, (9, 9)).astype(np.float32)
        Image.fromarray(pixels).save(tmp_path / f"a/{7 * split}f.tif")
    opened = open_dataset(tmp_path, bad_images="skip", max_skipped=0.1)
    assert opened.preprocessing.range == (0, 4095)
    assert sum(map(len, (opened.train, opened.val, opened.test))) == 60
    skipped = [note for note in opened.notes if note.startswith("skipped: ")]
    assert [note.rpartition("/")[2].partition(" ")[0] for note in skipped] == ["0f.tif", "14f.tif", "21f.tif", "7f.tif"]
    assert all("has floats, and most training images of more than 8 bits have integers" in note for note in skipped)


def test_floats_of_64_bits_are_trained_on(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(8):
            tifffile.imwrite(tmp_path / name / f"{i}.tif", np.random.default_rng(i).random((12, 12)))
    data = open_dataset(tmp_path)
    assert (data.preprocessing.channels, data.preprocessing.image_size, data.preprocessing.range) == (1, 12, (0, 1))
    assert data.train.images.float().std() > 60


def test_ranges_of_unusual_values():
    def chosen(lowest: float, highest: float, are_integers: bool) -> tuple[float, float]:
        return choose_range({"x": Limits(lowest, highest, are_integers)}, 1)[0]

    assert chosen(-1024, 3071, True) == (-1024, 3071)
    assert chosen(5, 70_000, True) == (5, 70_000)
    assert chosen(0, 255, True) == (0, 255)
    assert chosen(0, 0, True) == (0, 255)
    assert chosen(-2.0, -2.0, False) == (-2.0, -1.0)


def test_one_image_with_far_larger_values_is_pointed_out(tmp_path):
    """Its range is that of all images, which makes the others nearly black."""
    write(tmp_path, lambda r: r.integers(0, 4096, (9, 9)).astype(np.uint16), count=30)
    dead = np.full((9, 9), 2000, np.uint16)
    dead[0, 0] = 65535
    for i in range(3):
        Image.fromarray(dead).save(tmp_path / f"a/{i}.png")
        Image.fromarray(dead).save(tmp_path / f"b/{i}.png")
    opened = open_dataset(tmp_path)
    assert opened.preprocessing.range == (0, 65535)
    (note,) = [note for note in opened.notes if "of 256 levels" in note]
    assert note.startswith("most training images use 16 of 256 levels, because some have values far from theirs; `ran")
    wide = write(tmp_path / "wide", lambda r: r.integers(0, r.integers(4096, 65536), (9, 9)).astype(np.uint16))
    assert not [note for note in open_dataset(wide).notes if "of 256 levels" in note]
