"""Splits are stratified, disjoint, complete, and the same everywhere."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetlab.data.digests import names_digest
from resnetlab.data.folder import Files
from resnetlab.data.splits import HoldOut, Split, stratified
from resnetlab.errors import BadInput


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=8),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_is_stratified_disjoint_complete_and_reproducible(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    np.random.seed(1)  # noqa: NPY002 - the global generator must neither matter nor be touched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    kept, held = stratified(labels, fraction, seed)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    share = len(held) / len(labels)
    for label, count in enumerate(counts):
        assert abs((labels[held] == label).sum() - share * count) <= 1
        assert (labels[kept] == label).any()
    again = stratified(torch.from_numpy(labels), fraction, seed)
    assert np.array_equal(kept, again[0])
    assert np.array_equal(held, again[1])


def test_the_held_out_images_are_the_same_on_every_machine():
    _, held = stratified(np.arange(50_000) % 10, 0.1, 0)
    assert len(held) == 5000
    assert hashlib.sha256(held.astype("<i8").tobytes()).hexdigest()[:16] == "94c35ab86631eac4"
    assert not np.array_equal(held, stratified(np.arange(50_000) % 10, 0.1, 1)[1])


@pytest.mark.parametrize("per_class", [2, 3, 4, 5])
def test_tiny_sets_keep_one_image_of_each_class_on_each_side(per_class):
    labels = np.repeat([0, 1, 2], per_class)
    kept, held = stratified(labels, 0.1, 0)
    assert sorted(labels[held]) == [0, 1, 2]
    assert set(labels[kept]) == {0, 1, 2}


def test_the_error_names_the_class_that_cannot_be_split():
    with pytest.raises(BadInput, match="class 'newt' has 1 image left to draw the test split from; at least 2"):
        stratified([0, 0, 1], 0.2, 0, classes=["frog", "newt"], purpose="the test split")
    with pytest.raises(BadInput, match="class 1 has 1 image"):
        stratified([0, 0, 1], 0.2, 0)
    with pytest.raises(BadInput, match="there are no images"):
        stratified([], 0.2, 0)
    with pytest.raises(BadInput, match=r"class 'newt' would keep no image .* smaller fraction"):
        stratified([0] * 1000 + [1] * 2, 0.95, 0, classes=["frog", "newt"])
    for seed in (-1, 2**32):
        with pytest.raises(BadInput, match="split seed"):
            stratified([0, 0, 1, 1], 0.5, seed)
    for fraction in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(BadInput, match="between 0 and 1"):
            stratified([0, 0, 1, 1], fraction, 0)


def split(count: int) -> Split:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    return Split(images, torch.arange(count) % 2, tuple(f"{i}.png" for i in range(count)))


def test_digest_is_of_names_and_labels_in_any_order():
    whole = split(11)
    lines = sorted(f"{i}.png\t{i % 2}\n" for i in range(11))
    assert whole.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert whole.subset(np.random.default_rng(0).permutation(11)).digest == whole.digest
    assert whole.subset(range(10)).digest != whole.digest
    assert names_digest(["a"], [0]) != names_digest(["a"], [1])
    names_digest(["not \udcff UTF-8"], [0])  # Python's form of such a file name


def test_subset_keeps_images_labels_and_names_together():
    part = split(6).subset(torch.tensor([4, 1]))
    assert len(part) == 2
    assert part.names == ("4.png", "1.png")
    assert part.labels.tolist() == [0, 1]
    assert part.images.flatten().tolist() == [4, 1]
    assert len(part.subset([])) == 0


def test_images_labels_and_names_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 images, 1 labels and 1 names"):
        Split(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",))


class Labelled:
    def __init__(self, labels):
        self.labels = np.asarray(labels)
        self.groups = None

    def subset(self, indices):
        return Labelled(self.labels[indices])


def test_missing_splits_are_drawn_with_test_first():
    whole = Labelled(np.repeat(np.arange(4), 100))
    (train, val, test), notes = HoldOut(0.1, 0.2, 0).draw("abcd", whole, None, None)
    assert [len(part.labels) for part in (train, val, test)] == [288, 32, 80]
    assert [note[:4] for note in notes] == ["test", "val:"]
    given_test = Labelled([0])
    (train, val, test), notes = HoldOut(0.1, 0.2, 0).draw("abcd", whole, None, given_test)
    assert test is given_test
    assert [len(part.labels) for part in (train, val)] == [360, 40]
    with pytest.raises(BadInput, match=r"class 'b' has 2 images; at least 3 are needed, .*\(test, val\)"):
        HoldOut(0.1, 0.2, 0).draw("ab", Labelled([0, 0, 0, 1, 1]), None, None)
    (train, val, test), _ = HoldOut(0.1, 0.2, 0).draw("ab", Labelled([0, 0, 0, 1, 1, 1]), None, None)
    assert [sorted(part.labels) for part in (train, val, test)] == [[0, 1]] * 3


def random_labels(draw: np.random.Generator) -> np.ndarray:
    """Labels of 2 to 40 classes: balanced, uneven, or with a long tail; sorted or shuffled."""
    classes = int(draw.integers(2, 41))
    counts = [
        np.full(classes, draw.integers(2, 60)),
        draw.integers(2, 60, classes),
        np.maximum(2, (draw.pareto(1.0, classes) * 5).astype(np.int64).clip(max=2000)),
    ][draw.integers(3)]
    labels = np.repeat(np.arange(classes), counts)
    return draw.permutation(labels) if draw.random() < 0.8 else labels


def test_splits_are_those_of_older_runs() -> None:
    """The digest is of the splits that our own implementation drew, before scikit-learn's replaced it."""
    draw, digest = np.random.Generator(np.random.PCG64(15)), hashlib.sha256()
    for _ in range(300):
        labels, fraction, seed = random_labels(draw), float(draw.uniform(0.02, 0.6)), int(draw.integers(2**32))
        for part in stratified(labels, fraction, seed):
            digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "a658a713f3cd268d"


def files(part: str, per_class: int) -> Files:
    names = tuple(f"{part}/{label}/{number}.png" for label in "ab" for number in range(per_class))
    return Files(names, np.repeat(np.arange(2), per_class))


def test_a_val_split_without_a_test_split_stays_val_and_a_note_has_the_other_way() -> None:
    (train, val, test), notes = HoldOut(0.1, 0.2, 0).draw(("a", "b"), files("train", 10), files("val", 3), None)
    assert set(val.names) == set(files("val", 3).names)
    assert len(train) == 16
    assert all(name.startswith("train/") for name in test.names)
    assert "the data has no test split: its val split, 6 images, chooses the best epoch" in notes[-1]
    assert "`data.val_is_test`" in notes[-1]


def test_the_val_split_of_data_like_imagenet_is_the_test_split() -> None:
    given, own = files("train", 10), files("val", 3)
    hold_out = HoldOut(0.1, 0.2, 0, val_is_test=True)
    (train, val, test), notes = hold_out.draw(("a", "b"), given, own, None)
    assert test.names == own.names
    assert notes[0] == "test: the 6 images of the data's val split (`data.val_is_test`)"
    assert sorted((*train.names, *val.names)) == sorted(given.names)
    assert val.names == HoldOut(0.1, 0.2, 0).draw(("a", "b"), given, None, own)[0][1].names  # as if it were named test


def test_data_without_a_val_split_cannot_be_tested_on_it_and_a_note_has_this() -> None:
    _, notes = HoldOut(0.1, 0.2, 0, val_is_test=True).draw(("a", "b"), files("train", 10), None, None)
    assert notes[0] == ("`data.val_is_test` has no effect, because the data has no val split: a test split is drawn")


@pytest.mark.parametrize("val", [files("val", 3), None])
def test_data_with_a_test_split_keeps_it(val: Files | None) -> None:
    own = files("test", 2)
    hold_out = HoldOut(0.1, 0.2, 0, val_is_test=True)
    (_, drawn, test), _ = hold_out.draw(("a", "b"), files("train", 10), val, own)
    assert test is own
    assert val is None or drawn is val
