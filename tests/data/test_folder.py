"""A folder's layout is recognised, or the error says what is wrong with it."""

import os
import re
from pathlib import Path

import pytest

from resnetlab.data import folder
from resnetlab.data.folder import scan
from resnetlab.errors import BadInput


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_a_folder_of_class_folders_is_listed(tmp_path):
    listing = scan(touch(tmp_path, "dog/b.JPG", "dog/a.png", "cat/x/y/deep.webp", "cat/z.tif"))
    assert listing.layout == "classes"
    assert listing.classes == ("cat", "dog")
    assert listing.train.names == ("cat/x/y/deep.webp", "cat/z.tif", "dog/a.png", "dog/b.JPG")
    assert listing.train.labels.tolist() == [0, 0, 1, 1]
    assert listing.val is None
    assert listing.test is None
    assert len(listing) == 4


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val", None])
@pytest.mark.parametrize("test", ["test", "TEST", None])
def test_split_folders_are_recognised(tmp_path, val, test):
    parts = ["train", *(part for part in (val, test) if part)]
    listing = scan(touch(tmp_path, *(f"{part}/{c}/{part}.png" for part in parts for c in ("b", "a"))))
    if len(parts) > 1:
        assert listing.layout == "/".join(["train", *(["val"] if val else []), *(["test"] if test else [])])
    assert listing.train.names == ("train/a/train.png", "train/b/train.png")
    assert (listing.val is None) == (val is None)
    if listing.val:
        assert listing.val.names == (f"{val}/a/{val}.png", f"{val}/b/{val}.png")
    assert (listing.test is None) == (test is None)


def test_a_class_may_be_called_train(tmp_path):
    assert scan(touch(tmp_path, "train/a.png", "car/a.png", "bus/a.png")).classes == ("bus", "car", "train")
    assert scan(touch(tmp_path, "test/a.png")).classes == ("bus", "car", "test", "train")


def test_hidden_and_other_files_are_ignored_and_counted(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "a/Thumbs.db", "b/notes.txt", "README", ".git/x/y.png")
    listing = scan(touch(tmp_path, "__MACOSX/a/1.png", "a/.cache/2.png"))
    assert listing.train.names == ("a/1.png", "b/1.png")
    assert listing.ignored == 4


def test_folders_beside_the_splits_are_reported(tmp_path):
    listing = scan(touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "extra/c/1.png"))
    assert listing.notes == ("ignored beside train: extra",)


def test_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{c}/{i}.png" for c in "badc" for i in range(9)))
    first = scan(tmp_path)
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(real(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(folder.os, "scandir", Backwards)
    assert scan(tmp_path).train.names == first.train.names


def test_links_are_followed_without_endless_loops(tmp_path):
    touch(tmp_path, "data/a/1.png", "data/b/1.png", "elsewhere/2.png")
    try:
        (tmp_path / "data/a/up").symlink_to(tmp_path / "data", target_is_directory=True)
        (tmp_path / "data/a/self").symlink_to(tmp_path / "data/a", target_is_directory=True)
        (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("this system has no links")
    listing = scan(tmp_path / "data")
    assert listing.classes == ("a", "b", "c")
    assert listing.train.names == ("a/1.png", "b/1.png", "c/2.png")


ERRORS = {
    "not there": ((), "nowhere", "folder not found: .*nowhere"),
    "a file": (("file.zip",), "file.zip", "file.zip is a file; a folder is needed: put the images of each class"),
    "empty": ((".hidden",), "", "has no classes; put the images of each class into a sub-folder"),
    "images without classes": (("1.png", "2.png"), "", "has no classes"),
    "one class": (("a/1.png",), "", "has one class only, 'a'; .* at least two"),
    "no images": (("a/x.txt", "b/x.txt"), "", "has no images in its 2 sub-folders"),
    "an empty class": (("a/1.png", "b/1.png", "c/x.txt"), "", "class 'c' has no images; add some, or remove"),
    "two empty classes": (("a/1.png", "b/x", "c/x"), "", "'b', 'c' have no images"),
    "no train": (("test/a/1.png", "val/a/1.png"), "", "has test, val, but no folder named train"),
    "two validations": (("train/a/1.png", "val/a/1.png", "dev/a/1.png"), "", "both dev and val; which one is val"),
    "train has no classes": (("train/1.png", "test/a/1.png"), "", "train has no classes"),
    "other classes": (
        ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/B/1.png"),
        "",
        "the classes of test differ from those of train: test lacks 'b' and test also has 'B'",
    ),
    "fewer classes": (
        ("train/a/1.png", "train/b/1.png", "train/c/1.png", "val/a/1.png", "val/b/1.png"),
        "",
        "val differ from those of train: val lacks 'c'$",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_folder_that_cannot_be_trained_on_is_refused(case, tmp_path):
    files, below, sentence = ERRORS[case]
    touch(tmp_path, *files)
    with pytest.raises(BadInput) as caught:
        scan(tmp_path / below)
    assert re.search(sentence, str(caught.value))


def test_names_are_printed_without_control_characters(tmp_path):
    touch(tmp_path, "a\x1b[2J/x.txt", "b/1.png")
    with pytest.raises(BadInput) as caught:
        scan(tmp_path)
    assert "\x1b" not in str(caught.value)
