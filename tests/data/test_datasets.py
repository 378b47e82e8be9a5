"""From a folder to three splits in memory: sizes chosen, splits drawn, bad images refused or counted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import data
from resnetlab.data import open_dataset, reading
from resnetlab.data.preprocess import Preprocessing, channel_statistics, choose_image_size, for_size
from resnetlab.data.reading import available_memory
from resnetlab.errors import BadInput

CIFAR = os.environ.get("RESNETLAB_CIFAR10_JPEG")


def noise_image(seed: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def fill(root: Path, count: int, *, classes: str = "ab", size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise_image(1000 * label + i, size, mode).save(root / name / f"{i:03d}.png")
    return root


def test_a_folder_of_classes_is_split_and_read(tmp_path):
    opened = open_dataset(fill(tmp_path / "pets", 20))
    assert opened.name == "pets"
    assert opened.classes == ("a", "b")
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [29, 3, 8]
    for part in (opened.train, opened.val, opened.test):
        assert part.images.shape == (len(part), 20, 20, 3)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        for i, name in enumerate(part.names):
            assert np.array_equal(part.images[i].numpy(), np.asarray(Image.open(tmp_path / "pets" / name)))
            assert opened.classes[part.labels[i]] == name[0]
    assert len({*opened.train.names, *opened.val.names, *opened.test.names}) == 40
    assert any("20×20" in note for note in opened.notes)
    assert sum("stratified by class, seed 0" in note for note in opened.notes) == 2


def test_splits_depend_on_names_labels_and_split_seed_only(tmp_path):
    first = open_dataset(fill(tmp_path / "one", 20))
    other = open_dataset(fill(tmp_path / "two", 20, size=(90, 70), mode="L"), image_size=16, fit="pad")
    digests = [(d.train.digest, d.val.digest, d.test.digest) for d in (first, other)]
    assert digests[0] == digests[1]
    assert open_dataset(tmp_path / "one", split_seed=1).test.digest != first.test.digest


def test_a_bad_image_does_not_change_the_splits_of_the_others(tmp_path):
    fill(tmp_path, 30)
    before = open_dataset(tmp_path)
    bad = before.train.names[7]
    (tmp_path / bad).write_text("broken")
    after = open_dataset(tmp_path, bad_images="skip")
    assert after.train.names == tuple(name for name in before.train.names if name != bad)
    assert torch.equal(after.train.images, before.train.images[[i for i in range(len(before.train)) if i != 7]])
    assert (after.val.digest, after.test.digest) == (before.val.digest, before.test.digest)
    assert "1 image was skipped (1.67%)" in after.notes
    assert any(note.startswith("skipped: ") and bad in note for note in after.notes)


def test_bad_images_are_an_error_by_default(tmp_path):
    fill(tmp_path, 20)
    (tmp_path / "b/007.png").write_text("broken")
    (tmp_path / "b/011.png").write_text("broken")
    with pytest.raises(BadInput, match=r"b/0(07|11)\.png is not an image .*`bad_images='skip'`"):
        open_dataset(tmp_path)
    opened = open_dataset(tmp_path, bad_images="skip")
    assert len(opened.train) + len(opened.val) + len(opened.test) == 38
    (tmp_path / "a/000.png").write_text("broken")
    with pytest.raises(BadInput, match="more than 5% of the 40 images cannot be read"):
        open_dataset(tmp_path, bad_images="skip")
    with pytest.raises(BadInput, match="Choose from error, skip"):
        open_dataset(tmp_path, bad_images="ignore")


def test_skipping_a_whole_split_or_class_is_refused(tmp_path):
    fill(tmp_path / "train", 30)
    fill(tmp_path / "test", 1)
    for name in ("a", "b"):
        (tmp_path / "test" / name / "000.png").write_text("broken")
    with pytest.raises(BadInput, match="none of the test images"):
        open_dataset(tmp_path, bad_images="skip")
    shutil.rmtree(tmp_path / "test")
    fill(tmp_path / "train", 3, classes="c")
    for i in range(3):
        (tmp_path / f"train/c/00{i}.png").write_text("broken")
    with pytest.raises(BadInput, match="class 'c' has no image to train on, after 3 bad"):
        open_dataset(tmp_path, bad_images="skip")


def test_split_folders_are_kept_and_missing_splits_drawn(tmp_path):
    fill(tmp_path / "train", 20)
    fill(tmp_path / "test", 5)
    opened = open_dataset(tmp_path)
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [36, 4, 10]
    assert all(name.startswith("train/") for name in (*opened.train.names, *opened.val.names))
    (tmp_path / "test").rename(tmp_path / "valid")
    opened = open_dataset(tmp_path)
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [32, 10, 8]
    fill(tmp_path / "test", 1)
    opened = open_dataset(tmp_path)
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [40, 10, 2]


def test_three_images_for_each_class_are_enough(tmp_path):
    opened = open_dataset(fill(tmp_path, 3, classes="abc"))
    for part in (opened.train, opened.val, opened.test):
        assert part.labels.tolist() == [0, 1, 2]
    (tmp_path / "b/000.png").unlink()
    with pytest.raises(BadInput, match="class 'b' has 2 images; at least 3 are needed"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(28, 28)], 28),
        ([(64, 64)] * 3, 64),
        ([(60, 40)] * 3, 40),
        ([(65, 65)], 64),
        ([(32, 32), (33, 32)], 32),
        ([(48, 90), (48, 48), (10, 10)], 32),
        ([(49, 90), (96, 97)], 64),
        ([(97, 200)], 128),
        ([(180, 181)], 128),
        ([(181, 181)], 224),
        ([], 224),
    ],
)
def test_the_image_size_is_chosen_from_the_data(sizes, side):
    assert choose_image_size(sizes)[0] == side


def test_larger_images_are_stored_with_a_margin():
    assert [for_size(side, 3, "crop").resize_to for side in (32, 64, 128, 224, 4000)] == [32, 64, 146, 256, 4096]


def test_images_are_grey_only_if_all_are_grey(tmp_path):
    fill(tmp_path, 10, mode="L")
    opened = open_dataset(tmp_path)
    assert opened.preprocessing.channels == 1
    assert len(opened.preprocessing.mean) == 1
    assert open_dataset(tmp_path, normalize="imagenet").preprocessing.mean == pytest.approx((0.449,))
    noise_image(0).save(tmp_path / "a/003.png")
    assert open_dataset(tmp_path).preprocessing.channels == 3


def test_mean_and_std_are_of_the_training_split(tmp_path):
    opened = open_dataset(fill(tmp_path, 20, size=(9, 30)))
    pixels = opened.train.images.double().view(-1, 3) / 255
    assert opened.preprocessing.mean == pytest.approx(pixels.mean(0).tolist(), abs=1e-12)
    assert opened.preprocessing.std == pytest.approx(pixels.std(0, correction=0).tolist(), abs=1e-12)
    imagenet = open_dataset(tmp_path, normalize="imagenet").preprocessing
    assert (imagenet.mean, imagenet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_statistics_do_not_depend_on_the_chunk_size():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3), dtype=np.uint8)
    assert channel_statistics(images) == channel_statistics(images, chunk=11)
    assert channel_statistics(np.zeros((2, 2, 2, 1), np.uint8)) == ((0.0,), (1 / 255,))


def test_the_preprocessing_of_a_model_is_used_unchanged(tmp_path):
    preprocessing = Preprocessing(12, 14, 1, (0.1,), (0.2,), "pad")
    opened = open_dataset(fill(tmp_path, 5), preprocessing=preprocessing)
    assert opened.preprocessing == preprocessing
    assert opened.train.images.shape[1:] == (14, 14, 1)
    digits = open_dataset("digits", preprocessing=preprocessing)
    assert digits.preprocessing == preprocessing
    assert digits.test.images.shape == (359, 14, 14, 1)


def test_what_training_stores_is_what_prediction_reads(tmp_path):
    """Large JPEGs included, which both decode at a fraction of their size."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            noise_image(i, (70, 50)).resize((1400, 1000)).save(tmp_path / label / f"{i}.jpg")
    opened = open_dataset(tmp_path, image_size=96)
    for pixels, name in zip(opened.train.images, opened.train.names, strict=True):
        assert np.array_equal(opened.preprocessing.read(tmp_path / name), pixels.numpy())


def test_threads_do_not_change_the_pixels(tmp_path, monkeypatch):
    fill(tmp_path, 70)
    one = open_dataset(tmp_path)
    monkeypatch.setattr(reading, "_workers", lambda *_: 4)
    monkeypatch.setattr(reading, "CHUNK", 3)
    four = open_dataset(tmp_path)
    assert torch.equal(one.train.images, four.train.images)
    (tmp_path / "b/007.png").write_text("broken")
    with pytest.raises(BadInput, match="b/007"):
        open_dataset(tmp_path)


def test_a_data_set_larger_than_the_memory_is_refused_before_reading(tmp_path, monkeypatch):
    fill(tmp_path, 5)
    monkeypatch.setattr(reading, "available_memory", lambda: 10_000_000)
    with pytest.raises(BadInput, match=r"10 images at 1170×1170 pixels needs 0\.0 GB|smaller image size"):
        open_dataset(tmp_path, image_size=1024)


def test_available_memory_respects_the_limit_of_a_container(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert available_memory(tmp_path) == 8_192_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("4000000\n")
    (group / "memory.stat").write_text("anon 1\nfile 500000\n")
    assert available_memory(tmp_path) == 1_500_000
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 8_192_000


def test_unknown_names_missing_folders_and_wrong_options_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"unknown data set 'cifar11'; did you mean 'cifar10'.* give the path of"):
        open_dataset("cifar11")
    with pytest.raises(BadInput, match=r"folder not found: .*nowhere"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="folder not found: a/b"):
        open_dataset("a/b")
    with pytest.raises(BadInput, match="is a file; a folder is needed"):
        open_dataset(__file__)
    with pytest.raises(BadInput, match="unknown normalization 'imagnet'; did you mean 'imagenet'"):
        open_dataset("digits", normalize="imagnet")
    for size in (0, -3, 5000):
        with pytest.raises(BadInput, match=r"must be a whole number 1\.\.4096"):
            open_dataset("digits", image_size=size)
    with pytest.raises(BadInput, match="choose from crop, squash, pad"):
        open_dataset("digits", fit="stretch")


def test_importing_the_package_imports_no_torch():
    assert data.DATASETS[:3] == ("digits", "cifar10", "cifar100")
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = data.nothing
    script = (
        "import sys, resnetlab.data\n"
        "assert not {'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "import resnetlab.data.datasets\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR, reason="RESNETLAB_CIFAR10_JPEG does not name a folder of CIFAR-10 as JPEG files")
def test_the_statistics_of_cifar10_equal_those_of_its_images():
    """All 50,000 training images (train and val); within 0.003, because JPEG smooths a little."""
    opened = open_dataset(CIFAR)
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [45_000, 5_000, 5_000]
    mean, std = channel_statistics(torch.cat([opened.train.images, opened.val.images]).numpy())
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.003)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.003)
    assert all(abs(found - popular) > 0.03 for found, popular in zip(std, (0.2023, 0.1994, 0.2010), strict=True))
