"""Batches can start anywhere in an epoch, contain each image once, and name their samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import pytest
import torch

from resnetlab.data.augment import Augmentation, crop, flip
from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
PREPROCESSING = Preprocessing(image_size=6, resize_to=6, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
AUGMENTATIONS = (Augmentation("crop", 2, partial(crop, padding=2)), Augmentation("flip", 1, flip))


def random_split(count: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 6, 6, 3), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3, tuple(f"{i}.png" for i in range(count)))


def training(
    count: int, batch_size: int, augmentations: Sequence[Augmentation] = AUGMENTATIONS, seed: int = 0
) -> TrainBatches:
    return TrainBatches(random_split(count), PREPROCESSING, augmentations, batch_size, seed, CPU)


def same(one: Batch, other: Batch) -> bool:
    assert one.shares is other.shares is None
    return all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_can_start_at_any_batch(start: int) -> None:
    batches = training(23, 4)
    whole = list(batches.epoch(3))
    rest = list(batches.epoch(3, start))
    assert len(whole) == len(batches) == 5
    assert len(rest) == 5 - start
    assert all(map(same, rest, whole[start:]))
    part = list(batches.epoch(3, start, min(5, start + 2)))
    assert all(map(same, part, whole[start : start + 2]))


def test_training_drops_the_ragged_tail_and_not_always_the_same_images() -> None:
    batches = training(23, 4)
    dropped = []
    for epoch in range(4):
        seen = torch.cat([batch.indices for batch in batches.epoch(epoch)]).tolist()
        assert len(seen) == len(set(seen)) == 20
        dropped.append(frozenset(range(23)) - frozenset(seen))
    assert len(set(dropped)) > 1


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_split_smaller_than_a_batch_is_one_batch(count: int) -> None:
    batches = training(count, 8)
    (batch,) = batches.epoch(0)
    assert len(batches) == 1
    assert batch.indices.sort().values.tolist() == list(range(count))


def test_epochs_differ_in_order_and_in_augmentation() -> None:
    one, other = (next(training(12, 12).epoch(epoch)) for epoch in (0, 1))
    assert not torch.equal(one.indices, other.indices)
    assert not torch.equal(one.images[one.indices.argsort()], other.images[other.indices.argsort()])


def test_an_image_is_augmented_alike_whatever_the_batch_size() -> None:
    """Random numbers belong to samples, not to positions in a batch."""
    large, small = (torch.cat([batch.images for batch in training(12, size).epoch(5)]) for size in (12, 3))
    assert torch.equal(large, small)


@pytest.mark.parametrize("part", [1, 3, 5])
def test_large_images_are_augmented_in_parts_to_the_same_bits(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images at a time stay in the cache of a processor."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    (whole,) = training(12, 12).epoch(1)
    image_bytes = 4 * 3 * 6**2
    monkeypatch.setattr("resnetlab.data.loaders.LARGE", image_bytes)
    monkeypatch.setattr("resnetlab.data.loaders.PART_BYTES", part * image_bytes)
    (in_parts,) = training(12, 12).epoch(1)
    assert same(in_parts, whole)
    assert in_parts.images.stride() == whole.images.stride()


def test_adding_an_augmentation_does_not_change_the_numbers_of_another() -> None:
    with_both, with_one = (next(training(9, 9, chosen).epoch(2)) for chosen in (AUGMENTATIONS, AUGMENTATIONS[:1]))
    assert torch.equal(with_both.indices, with_one.indices)
    cut, both = PREPROCESSING.denormalize(with_one.images), PREPROCESSING.denormalize(with_both.images)
    for before, after in zip(cut, both, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(1))


@pytest.mark.parametrize("size", range(1, 18))
def test_evaluation_yields_each_image_once_and_in_order(size: int) -> None:
    batches = EvalBatches(random_split(17), PREPROCESSING, size, CPU)
    parts = list(batches)
    assert len(parts) == len(batches)
    assert all(len(part.images) == size for part in parts[:-1])
    assert torch.cat([part.indices for part in parts]).tolist() == list(range(17))
    assert torch.equal(torch.cat([part.images for part in parts]), PREPROCESSING.normalize(batches.split.images))
    assert torch.equal(torch.cat([part.labels for part in parts]), batches.split.labels)
    assert all(map(same, batches, parts))  # and again the second time


def test_indices_are_those_of_the_images_in_a_batch() -> None:
    split = random_split(23)
    evaluation = EvalBatches(split, PREPROCESSING, 5, CPU)
    for images, labels, indices, _ in [*training(23, 5, ()).epoch(1), *evaluation]:
        assert torch.equal(images, PREPROCESSING.normalize(split.images[indices]))
        assert torch.equal(labels, split.labels[indices])
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.dtype == torch.float32


def test_the_image_size_grows_with_the_phases_of_a_run() -> None:
    batches = dataclasses.replace(training(40, 10, []), sizes=(4, 6, 8), steps=12)
    sizes = [batch.images.shape[-1] for epoch in range(3) for batch in batches.epoch(epoch)]
    assert sizes == [4] * 4 + [6] * 4 + [8] * 4
    assert [batch.images.shape[-1] for batch in batches.epoch(1, 2)] == [6, 6]  # also from the middle of an epoch
    assert batches.size_at(99) == 8  # an extended run stays at the last size


@pytest.mark.parametrize("is_balanced", [False, True])
def test_images_in_shards_are_read_by_few_shards_at_a_time(is_balanced: bool) -> None:
    split = random_split(600)
    names = tuple(f"{i % 20:02}.tar/{i}.png" for i in range(600))
    split = Split(split.images, split.labels, names)
    batches = TrainBatches(split, PREPROCESSING, (), 30, 0, CPU, is_balanced=is_balanced, window=30)
    assert all(len({name[:2] for name in batches.names(0, number)}) < 8 for number in range(20))
    assert all(map(same, batches.epoch(1, 7), list(batches.epoch(1))[7:]))
    if not is_balanced:
        seen = torch.cat([batch.indices for batch in batches.epoch(0)]).tolist()
        assert sorted(seen) == list(range(600))
    plain = dataclasses.replace(batches, window=600)
    assert len({name[:2] for name in plain.names(0, 0)}) > 10
