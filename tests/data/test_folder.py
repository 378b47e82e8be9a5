"""A folder's layout is recognised, or the error says what is wrong with it."""

import inspect
import os
import re
import sys
from pathlib import Path

import pytest

from resnetlab.data import tree
from resnetlab.data.classes import ClassChoice
from resnetlab.data.folder import find, scan
from resnetlab.data.tree import Skipped
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
    listing = scan(touch(tmp_path, "train/a.png", "car/a.png", "bus/a.png"))
    assert listing.classes == ("bus", "car", "train")
    assert listing.notes == (
        "'train' is a class here, not a split; if that is wrong, name the classes to use (`classes`)",
    )
    listing = scan(touch(tmp_path, "test/a.png"))
    assert listing.classes == ("bus", "car", "test", "train")
    assert listing.notes[0].startswith("'test', 'train' are classes here, not splits; ")
    assert scan(tmp_path, ClassChoice(only=("bus", "train"))).notes == ("2 of the 4 classes are used",)


SPELLINGS = [
    ("Training", "Testing", None),
    ("TRAIN", "Test", "Valid"),
    ("train_set", "test_set", "validation_set"),
    ("training-set", "test-set", None),
    ("Training Data", "Testing Data", None),
    ("trainset", "testset", "valset"),
    ("TrainImages", "TestImages", "ValImages"),
    ("train_images", "test_images", None),
    ("tr", "tst", "va"),
    ("images_tr", "images_ts", None),
    ("tr", "te", None),
    ("train", None, "eval"),
    ("train", "holdout", "val"),
    ("train", None, "hold-out"),
    ("seg_train", "seg_test", None),
    ("asl alphabet train", "asl alphabet test", "asl alphabet dev"),
    ("train2017", None, "val2017"),
    ("01_train", "03_test", "02_val"),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("around", ["", "dataset/", "a/b/"])
def test_split_folders_are_recognised_in_any_spelling(tmp_path, spelling, around):
    parts = [around + part for part in spelling if part]
    listing = scan(touch(tmp_path, "README.md", *(f"{part}/{c}/1.png" for part in parts for c in "ab")))
    assert listing.classes == ("a", "b")
    for files, part in zip((listing.train, listing.test, listing.val), spelling, strict=True):
        assert (files and files.names) == (part and (f"{around}{part}/a/1.png", f"{around}{part}/b/1.png"))
    assert f"{spelling[0]} is train" in " ".join(listing.notes) or spelling[0].lower() == "train"
    assert any(f"in its folder {around.strip('/')}" in note for note in listing.notes) == bool(around)


@pytest.mark.parametrize(
    "names",
    [
        ("training_set/training_set/{}", "test_set/test_set/{}"),  # each split wrapped once more
        ("images/train/{}", "images/test/{}", "labels/train/{}.txt"),
        ("train/images/{}", "test/images/{}", "train/labels/1.txt"),
        ("x/pets/train/{}", "x/pets/test/{}", "__MACOSX/x/pets/train/._1.png", "x/pets/LICENSE"),
    ],
)
def test_splits_in_wrapper_folders_are_found(tmp_path, names):
    listing = scan(touch(tmp_path, *(name.format(f"{c}/1.png") for name in names for c in ("cat", "dog"))))
    assert (listing.layout, listing.classes) == ("train/test", ("cat", "dog"))
    assert [len(listing.train), len(listing.test)] == [2, 2]


def test_a_wrapper_of_classes_is_entered_and_one_class_is_not(tmp_path):
    listing = scan(touch(tmp_path / "f", "pets/cat/1.png", "pets/dog/x/1.png", "cover.jpg"))
    assert listing.train.names == ("pets/cat/1.png", "pets/dog/x/1.png")
    assert "skipped: 1 image beside the folders of classes" in listing.notes
    touch(tmp_path / "g", "cat/front/1.png", "cat/side/1.png").joinpath("dog").mkdir()
    with pytest.raises(BadInput, match="class 'dog' has no images"):
        scan(tmp_path / "g")
    assert scan(touch(tmp_path / "h", "cat/front/1.png", "cat/1.png", "dog/1.png")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (
            ("fold1", "fold2", "fold3"),
            "fold1, fold2, fold3 in .* have the same sub-folders .a, b.: they look like splits",
        ),
        (("Lernen", "Pruefen"), "Lernen, Pruefen in .* look like splits, not like classes; rename them to train, val"),
        (("batch_a", "batch_b"), "same sub-folders"),
    ],
)
def test_folders_with_the_same_sub_folders_are_no_classes(tmp_path, folders, sentence):
    touch(tmp_path, *(f"{folder}/{c}/{i}.png" for folder in folders for c in "ab" for i in range(9)))
    with pytest.raises(BadInput, match=sentence):
        scan(touch(tmp_path, f"{folders[0]}/cover.jpg"))
    assert scan(tmp_path, ClassChoice(only=(",".join(folders),))).classes == folders


@pytest.mark.parametrize("beside", [("PublicTest", "PrivateTest"), ("Unseen",), ("fold2",)])
def test_folders_with_the_classes_of_the_only_split_are_not_passed_over(tmp_path, beside):
    touch(tmp_path, *(f"{folder}/{c}/1.png" for folder in ("Training", *beside) for c in "abc"))
    names = ", ".join(sorted(map(repr, beside)))
    with pytest.raises(BadInput, match=f"has Training, and {names} with the same sub-folders: rename those that are"):
        scan(tmp_path)
    touch(tmp_path, *(f"Testing/{c}/1.png" for c in "abc"))
    notes = scan(tmp_path).notes
    assert all(f"skipped: 3 images in {name}, a folder beside those of the splits" in notes for name in beside)


def test_names_without_a_suffix_are_pointed_out(tmp_path):
    with pytest.raises(
        BadInput, match=r"4 files without a suffix; the names of images need their suffix, such as .jpg"
    ):
        scan(touch(tmp_path, "cat/1", "cat/2", "dog/1", "dog/2"))


def test_classes_with_splits_of_their_own_are_refused(tmp_path):
    touch(tmp_path / "f", *(f"{c}/{part}/1.png" for c in ("cat", "dog") for part in ("train", "test")))
    with pytest.raises(BadInput, match="each class has splits of its own; put the images"):
        scan(tmp_path / "f")
    touch(tmp_path / "g", *(f"{c}_{part}/1.png" for c in ("cat", "dog") for part in ("train", "test")))
    with pytest.raises(BadInput, match="'cat_test', 'cat_train', which look like the splits of class 'cat'"):
        scan(tmp_path / "g")


@pytest.mark.parametrize("beside", ["masks/train/cat/1.png", "labels/1.png", "masks/train/1.png"])
def test_splits_beside_a_folder_of_masks_are_not_a_class(tmp_path, beside):
    """Else the classes would be "images" and "masks"."""
    touch(tmp_path, *(f"images/{part}/{c}/{i}.png" for c in ("cat", "dog") for part in ("train", "val") for i in "123"))
    touch(tmp_path, beside)
    with pytest.raises(BadInput, match=r"(has images with the splits 'train', 'val'|same sub-folders)"):
        scan(tmp_path)


def test_a_folder_train_among_classes_must_be_explained(tmp_path):
    touch(tmp_path, "train/express/1.png", "train/local/1.png", "car/1.png", "bus/1.png")
    with pytest.raises(BadInput, match="train with sub-folders, and 'bus', 'car' with images: are they all classes"):
        scan(tmp_path)
    assert scan(tmp_path, ClassChoice(only=("train", "car", "bus"))).classes == ("bus", "car", "train")


def test_what_is_not_data_is_skipped_counted_and_reported(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/2.PSD", "cat/x/3.psd", "dog/1.png", "1.jpg", "2.jpg", "dog/a.txt", "README")
    touch(tmp_path, "cat/@eaDir/1.png/SYNO_THUMB.jpg", "@eaDir/x/1.png", "cat/.ipynb_checkpoints/1.png", "dog/._1.png")
    touch(tmp_path, "__MACOSX/cat/1.png", "dog/Thumbs.db", "dog/DESKTOP.INI", "dog/.DS_Store", "dog/x/.DS_Store")
    (tmp_path / "dog/x.png").mkdir()
    listing = scan(tmp_path)
    assert listing.train.names == ("cat/1.png", "dog/1.png")
    assert set(listing.skipped) == {
        Skipped("loose", "", "", 2),
        Skipped("suffix", "", "", 1),
        Skipped("suffix", ".psd", "cat", 2),
        Skipped("suffix", ".txt", "dog", 1),
        Skipped("hidden", "", "dog", 1),
        Skipped("hidden", ".DS_Store", "dog", 2),
        Skipped("hidden", ".ipynb_checkpoints", "cat", 1),
        Skipped("system", "@eaDir", "", 1),
        Skipped("system", "@eaDir", "cat", 1),
        Skipped("system", "__MACOSX", "", 1),
        Skipped("system", "Thumbs.db", "dog", 1),
        Skipped("system", "DESKTOP.INI", "dog", 1),
        Skipped("folder", "x.png", "dog", 1),
    }
    said = "\n".join(listing.notes)
    for words in (
        "2 images beside the folders of classes\n",
        "2 .psd files in cat; ",
        "1 file without a suffix, 1 .txt file in dog\n",
        "2 × @eaDir (1 in the folder itself, 1 in cat)",
        "2 × .DS_Store in dog",
        "1 hidden file in dog",
    ):
        assert words in said
    assert len(listing.notes) == 4


def test_many_skipped_files_are_a_few_short_sentences(tmp_path):
    touch(
        tmp_path, *(f"c{i}/{name}" for i in range(40) for name in ("1.png", "a.txt", "b.xml", ".x", "c.json", "d.psd"))
    )
    notes = scan(tmp_path).notes
    assert len(notes) == 3
    assert all(len(note) < 400 for note in notes)
    assert "40 .psd files (1 in c0, 1 in c1, 1 in c10 and 37 more folders)" in notes[0]


RUN = '{"recipe": "folder", "data": {}, "model": {}, "optim": {}, "schedule": {}}'


def test_output_of_resnetlab_is_never_data(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/1.png", "runs/folder-001/curves.png", "runs/s/seed-0/x.png", "cat/mine/y.png")
    touch(tmp_path, "dog/scores/mistakes.png", "runs/test-ledger.jsonl", "cat/theirs/1.png")
    (tmp_path / "runs/folder-001/config.json").write_text(RUN)
    (tmp_path / "cat/mine/config.json").write_text(RUN)
    (tmp_path / "runs/s/summary.json").write_text('{"config": {}, "runs": [], "together": {}}')
    (tmp_path / "dog/scores/metrics.json").write_text('{"split": "val", "weights_digest": "", "split_digest": ""}')
    (tmp_path / "cat/theirs/config.json").write_text('{"model": "another tool"}')
    listing = scan(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert listing.train.names == ("cat/1.png", "cat/theirs/1.png", "dog/1.png")
    assert {item for item in listing.skipped if item.kind == "output"} == {
        Skipped("output", "runs", "", 1),
        Skipped("output", "mine", "cat", 1),
        Skipped("output", "scores", "dog", 1),
    }
    assert any("output of resnetlab: runs, " in note for note in listing.notes)
    with pytest.raises(BadInput, match="mine is output of resnetlab, not a folder of images"):
        scan(tmp_path / "cat/mine")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["pipe", "pipe.csv"])
def test_a_pipe_given_as_data_is_named_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match=rf"{name} is a pipe"):
        scan(tmp_path / name)


def test_what_other_commands_write_beside_the_images_is_no_data(tmp_path):
    """`explain --out`, `card --out`, `compare --out` and `predict --sort-into` in the folder in which people work."""
    touch(tmp_path, "cat/1.png", "dog/1.png", "cat/1.explain.png", "explained/1.explain.png", "explained/2.explain.png")
    touch(tmp_path, "card/calibration.png", "card/confusion_matrix.png", "both/curves.png", "sorted/cat/1.png")
    touch(tmp_path, "dog/calibration.png")  # not beside a card
    (tmp_path / "card/config.json").write_text('{"architecture": "resnet18", "num_classes": 2, "label_names": []}')
    (tmp_path / "both/comparison.json").write_text('{"split_digest": "", "runs": [], "pairs": []}')
    (tmp_path / "sorted/sorted.json").write_text('{"weights_digest": "", "sorted_as": "links"}')
    listing = scan(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert listing.train.names == ("cat/1.png", "dog/1.png", "dog/calibration.png")
    (note,) = (note for note in listing.notes if "output" in note)
    for name in ("card", "both", "sorted", "explained", "*.explain.png in cat"):
        assert f"output of resnetlab: {name}" in note
    touch(tmp_path, "sorted/dog/1.png")
    assert scan(tmp_path / "sorted").classes == ("cat", "dog")  # sorted by a model, checked, and given as data


@pytest.mark.parametrize("inside", [[], ["folder-001/.lock", "folder-001/split.json"], ["folder-001/checkpoints/x"]])
def test_a_folder_runs_without_images_is_no_class(tmp_path, inside):
    touch(tmp_path, "cat/1.png", "dog/1.png").joinpath("runs").mkdir()
    touch(tmp_path / "runs", *inside)
    assert scan(tmp_path).classes == ("cat", "dog")
    touch(tmp_path, "runs/marathon.jpg")
    assert scan(tmp_path).classes == ("cat", "dog", "runs")


def test_files_that_are_not_read_are_named_where_a_class_has_no_images(tmp_path):
    touch(tmp_path, *(f"cat/{i}.PSD" for i in range(3)), "cat/a.txt", "dog/1.png")
    with pytest.raises(BadInput, match=r"class 'cat' has no images, but 3 \.psd files, 1 \.txt file"):
        scan(tmp_path)


def test_a_fifo_in_place_of_a_file_of_ours_is_not_opened(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no FIFOs")
    os.mkfifo(tmp_path / "a/config.json")
    assert scan(tmp_path).classes == ("a", "b")


def test_folders_nested_deeper_than_the_stack_are_listed(tmp_path):
    deep = "a/" + "d/" * 200 + "1.png"
    touch(tmp_path, deep, "b/1.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert scan(tmp_path).train.names == (deep, "b/1.png")
    finally:
        sys.setrecursionlimit(before)


def test_folders_beside_the_splits_are_reported(tmp_path):
    listing = scan(touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "extra/c/1.png"))
    assert listing.notes == ("skipped: 1 image in extra, a folder beside those of the splits",)
    assert listing.skipped == (Skipped("beside", "extra", "", 1),)


def test_images_are_found_whatever_is_missing(tmp_path):
    found = find(touch(tmp_path, "val/a/1.png", "test/a/1.png", "test/b/notes.txt"))
    assert found.parts == {"val": {"a": ["val/a/1.png"]}, "test": {"a": ["test/a/1.png"], "b": []}}
    assert found.class_names() == ["a", "b"]


def test_class_names_that_are_alike_are_pointed_out(tmp_path):
    listing = scan(touch(tmp_path, "Cat/1.png", "cat /1.png", "dog/1.png", "caf\u00e9/1.png", "cafe\u0301/1.png"))
    (note,) = listing.notes
    assert "'Cat' and 'cat '" in note
    assert "'cafe\u0301' and 'caf\u00e9'" in note
    assert "merge=" in note
    touch(tmp_path / "f", "train/Cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    with pytest.raises(BadInput, match="names that differ only in spelling must be made equal"):
        scan(tmp_path / "f")
    merged = scan(tmp_path / "f", ClassChoice(merge=("cat=Cat,cat",)))
    assert (merged.classes, len(merged.train), len(merged.test)) == (("cat", "dog"), 2, 2)


def test_classes_are_chosen_merged_and_ordered(tmp_path):
    touch(tmp_path, *(f"class{i}/{k}.png" for i in (1, 2, 10, 11) for k in range(i)))
    assert scan(tmp_path).classes == ("class1", "class10", "class11", "class2")
    assert scan(tmp_path, ClassChoice(order="natural")).classes == ("class1", "class2", "class10", "class11")
    listing = scan(tmp_path, ClassChoice(only=("class2,class10", "class11"), merge=("big=class10,class11",)))
    assert listing.classes == ("big", "class2")
    assert listing.train.labels.tolist() == [0] * 21 + [1] * 2
    assert listing.notes == ("3 of the 4 classes are used", "class big is class10, class11")


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

    monkeypatch.setattr(tree.os, "scandir", Backwards)
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
    "a file": (
        ("file.zip",),
        "file.zip",
        "file.zip is a file; a folder is needed, or a .csv, .tsv, .parquet file with file,label: put the images",
    ),
    "empty": ((".hidden",), "", "has no classes; put the images of each class into a sub-folder"),
    "images without classes": (("1.png", "2.png"), "", "has no classes"),
    "one class": (("a/1.png",), "", "has one class only, 'a'; .* at least two"),
    "no images": (("a/x.txt", "b/x.txt"), "", "has no images in its 2 sub-folders"),
    "an empty class": (
        ("a/1.png", "b/1.png", "c/x.txt"),
        "",
        "class 'c' has no images, but 1 .txt file; add some, or remove",
    ),
    "two empty classes": (("a/1.png", "b/x", "c/x"), "", "'b', 'c' have no images"),
    "no train": (("test/a/1.png", "val/a/1.png"), "", "has val, test, but no folder named train"),
    "two validations": (("train/a/1.png", "val/a/1.png", "dev/a/1.png"), "", "both dev and val; which one is val"),
    "train has no classes": (("train/1.png", "test/a/1.png"), "", "train has no classes"),
    "test has no labels": (
        ("train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png"),
        "",
        "test has no classes, only 2 images; .*; to leave it out, give .*/train alone$",
    ),
    "other classes": (
        ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/B/1.png"),
        "",
        "the classes of test differ from those of train: test lacks 'b' and test also has 'B'",
    ),
    "fewer classes": (
        ("train/a/1.png", "train/b/1.png", "train/c/1.png", "val/a/1.png", "val/b/1.png"),
        "",
        r"val differ from those of train: val lacks 'c'; add images, or leave the class out \(`classes` names",
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
