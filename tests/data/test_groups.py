"""Groups stay in one split, folds cover every image once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from resnetlab.data import open_dataset
from resnetlab.data.folder import Files
from resnetlab.data.groups import fold, hold_out, named_groups
from resnetlab.data.splits import HoldOut
from resnetlab.errors import BadInput


def grouped(groups: int, classes: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Labels of images of groups of one to eight images, most of one class."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 9, groups)
    main = np.arange(groups) % classes
    labels = np.concatenate(
        [np.where(draw.random(n) < 0.8, c, draw.integers(0, classes, n)) for n, c in zip(sizes, main, strict=True)]
    )
    return labels, [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 60), st.integers(2, 4), st.floats(0.05, 0.6), st.integers(0, 999))
def test_a_group_is_on_one_side_and_the_share_is_near(groups, classes, fraction, seed):
    labels, names = grouped(groups, classes, seed)
    kept, held = hold_out(labels, names, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert not {names[i] for i in kept} & {names[i] for i in held}
    assert set(labels[kept]) == set(labels)
    assert abs(len(held) / len(labels) - fraction) < max(0.12, 8 / groups)
    again = hold_out(labels, names, fraction, seed)
    assert np.array_equal(held, again[1])


@pytest.mark.parametrize("by_group", [False, True])
def test_folds_are_those_of_scikit_learn_and_hold_every_image_once(by_group):
    labels, names = grouped(60, 3, 0)
    held = [fold(labels, names if by_group else None, 5, number, 7)[1] for number in range(1, 6)]
    assert sorted(np.concatenate(held)) == list(range(len(labels)))
    kind = StratifiedGroupKFold if by_group else StratifiedKFold
    oracle = kind(5, shuffle=True, random_state=7).split(labels, labels, names if by_group else None)
    assert all(np.array_equal(mine, theirs) for mine, (_, theirs) in zip(held, oracle, strict=True))


def test_groups_are_found_in_names():
    names = ["cat/p1_a.png", "cat/p1_b.png", "dog/p22_a.png"]
    assert list(named_groups(names, r"/(p\d+)_").values()) == ["p1", "p1", "p22"]
    assert list(named_groups(names, r"p\d+").values()) == ["p1", "p1", "p22"]
    with pytest.raises(BadInput, match=r"matches no text in 2 of 3 image names, such as 'cat/p1_a.png'"):
        named_groups(names, "dog")
    with pytest.raises(BadInput, match=r"not a regular expression: missing"):
        named_groups(names, "(p")
    with pytest.raises(BadInput, match=r"none of the columns 'file', 'label'"):
        named_groups(names, "patient", ["file", "label"])


def test_groups_on_both_sides_of_given_splits_are_named(tmp_path):
    for i, name in enumerate(
        ("train/cat/tom_1.png", "train/cat/kit_1.png", "train/dog/rex_1.png", "train/dog/ace_1.png")
    ):
        for path in (name, name.replace("train", "test").replace("rex", "bob").replace("kit", "sam")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 20 * i).save(tmp_path / path)
    opened = open_dataset(tmp_path, group_by=r"/([a-z]+)_")
    (note,) = [note for note in opened.notes if "groups" in note and "too good" in note]
    assert note.startswith("2 of 6 groups are in more than one split ('tom' in ")
    assert "'ace' in " in note
    opened = open_dataset(tmp_path, group_by=r"\w+/\w+/[a-z]+_")
    assert not [note for note in opened.notes if "too good" in note]


def test_few_images_in_many_groups_are_divided():
    labels = np.repeat(np.arange(5), 4)
    kept, held = hold_out(labels, [f"g{i}" for i in range(20)], 0.1, 0)
    assert len(kept) + len(held) == 20
    assert set(labels[kept]) == set(range(5))
    assert len(held) in (4, 5, 6)  # four parts: the smallest share that an image of a class in each part allows
    with pytest.raises(BadInput, match="every class has 1 image; at least 2 are needed"):
        hold_out(np.arange(5), list("abcde"), 0.1, 0)


def draw(groups, labels, **options):
    files = Files(tuple(f"{i}.png" for i in range(len(labels))), np.asarray(labels), tuple(groups))
    return HoldOut(0.2, 0.25, 0, **options).draw("ab", files, None, None)


def test_drawn_splits_keep_groups_and_say_what_came_out():
    labels, names = grouped(40, 2, 1)
    splits, notes = draw(names, labels)
    groups = [set(split.groups) for split in splits]
    assert sum(map(len, splits)) == len(labels)
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    share = len(splits[2]) / len(labels)
    assert notes[0].startswith(f"test: {len(splits[2])} of {len(labels)} training images, {share:.1%} in ")
    assert f"{len(groups[2])} of 40 whole groups, stratified by class, seed 0" in notes[0]


def test_a_held_out_split_that_lacks_a_class_is_named():
    labels = [0] * 20 + [1] * 4
    _, notes = draw([f"g{i}" for i in range(20)] + ["one"] * 4, labels)
    assert all("no image of 'b'" in note for note in notes)
    with pytest.raises(BadInput, match=r"of 1 group; at least 2 are needed"):
        draw(["g"] * 24, labels)


def test_each_fold_is_the_test_split_of_one_run():
    labels, names = grouped(40, 2, 1)
    tests = []
    for number in (1, 2, 3):
        (train, val, test), notes = draw(names, labels, folds=3, fold=number)
        assert notes[0].startswith(f"test: {len(test)} of {len(labels)} training images, fold {number} of 3")
        assert not set(train.names) & set(test.names) | set(val.names) & set(test.names)
        tests += test.names
    assert sorted(tests) == sorted(f"{i}.png" for i in range(len(labels)))


def test_folds_of_data_with_a_test_split_are_refused():
    files = Files(("a", "b"), np.array([0, 1]))
    with pytest.raises(BadInput, match=r"the data has 2 test images of its own; give the other images alone"):
        HoldOut(0.2, 0.2, 0, folds=2, fold=1).draw("ab", files, None, files)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fold": 1}, "the number of folds is missing"),
        (
            {"folds": 5},
            "the number of the fold is missing; give data.fold, or train all folds with `resnetlab train --folds 5`",
        ),
        ({"folds": 5, "fold": 6}, "data.fold is 6, but must be in 1..5"),
        ({"folds": 99, "fold": 6}, "no class has 99 images|cannot be divided into 99 folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(options, sentence):
    labels, names = grouped(40, 2, 1)
    with pytest.raises(BadInput, match=sentence):
        draw(names, labels, **options)
    with pytest.raises(BadInput, match="1 group cannot be divided into 2 folds; choose fewer folds, or smaller group"):
        draw(["one"] * len(labels), labels, folds=2, fold=1)


def test_named_data_sets_have_folds_groups_subsets_and_merges():
    opened = open_dataset("digits", classes=("0,1,2,8",), merge=("round=0,8",), folds=4, fold=2)
    assert opened.classes == ("round", "1", "2")
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [480, 53, 178]
    assert opened.train.labels.unique().tolist() == [0, 1, 2]
    assert "4 of the 10 classes are used" in opened.notes
    opened = open_dataset("digits", group_by=r"digits/(\d\d)")
    tens = [{name[:9] for name in part.names} for part in (opened.train, opened.val, opened.test)]
    assert not tens[0] & tens[1] | tens[0] & tens[2] | tens[1] & tens[2]
    with pytest.raises(BadInput, match=r"one class only, '0'"):
        open_dataset("digits", classes=("0",))
