"""MixUp and CutMix equal mixing two images at a time; the partner of an image is the next one of the epoch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from resnetlab.data.augment import Augmentation, flip
from resnetlab.data.loaders import Batch, TrainBatches
from resnetlab.data.mixing import Mixing, boxes
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.random import RandomTables
from resnetlab.data.splits import Split
from resnetlab.distributed import Processes
from resnetlab.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
PREPROCESSING = Preprocessing(image_size=6, resize_to=6, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
KINDS = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]


def split(count: int) -> Split:
    images = torch.randint(0, 256, (count, 6, 6, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3, tuple(f"{i}.png" for i in range(count)))


def training(count: int, batch_size: int, mixing: Mixing | None) -> TrainBatches:
    steps = (Augmentation("flip", 1, flip),)
    return TrainBatches(split(count), PREPROCESSING, steps, batch_size, 5, CPU, mixing=mixing)


def whole(batches: list[Batch]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))  # type: ignore[arg-type]


def mixed_one_by_one(count: int, settings: dict[str, float], epoch: int) -> tuple[Tensor, Tensor]:
    """The images and shares of an epoch, written out for one pair of images after the other."""
    tables = RandomTables(5, epoch, count)
    order = tables.permutation().tolist()
    plain = training(count, count, None)
    (batch,) = plain.epoch(epoch)
    images, shares = [], []
    for position, sample in enumerate(order):
        partner = (position + 1) % count
        is_mixup = "mixup" in settings
        if len(settings) == 2:
            is_mixup = float(tables.uniform("mixup or cutmix", 1)[sample]) < 0.5
        name = "mixup" if is_mixup else "cutmix"
        weight = float(tables.beta(name, settings[name])[sample])
        own, other = batch.images[position].numpy(), batch.images[partner].numpy()
        if is_mixup:
            image = weight * own + (1 - weight) * other
        else:
            centre, reach = tables.uniform("cutmix box", 2)[sample].tolist(), int(0.5 * math.sqrt(1 - weight) * 6)
            (top, bottom), (left, right) = (
                (max(0, math.floor(u * 6) - reach), min(6, math.floor(u * 6) + reach)) for u in centre
            )
            image = own.copy()
            image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            weight = 1 - (bottom - top) * (right - left) / 36
        images.append(torch.from_numpy(image))
        share = np.zeros(3)
        share[sample % 3] += weight
        share[order[partner] % 3] += 1 - weight
        shares.append(torch.from_numpy(share))
    return torch.stack(images), torch.stack(shares)


@pytest.mark.parametrize("settings", KINDS, ids=["mixup", "cutmix", "both"])
def test_mixing_a_batch_equals_mixing_pair_by_pair(settings: dict[str, float]) -> None:
    (batch,) = training(40, 40, Mixing(3, **settings)).epoch(2)
    images, shares = mixed_one_by_one(40, settings, 2)
    assert batch.shares is not None
    torch.testing.assert_close(batch.images, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.shares.double(), shares, rtol=0, atol=1e-6)
    assert torch.equal(batch.indices, RandomTables(5, 2, 40).permutation())
    assert torch.equal(batch.labels, batch.indices % 3)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets is batch.shares


@pytest.mark.parametrize("settings", KINDS, ids=["mixup", "cutmix", "both"])
def test_an_epoch_is_the_same_in_batches_of_any_size_and_from_any_start(settings: dict[str, float]) -> None:
    mixing = Mixing(3, **settings)
    large, small = (whole(list(training(24, size, mixing).epoch(4))) for size in (24, 4))
    rest = whole(list(training(24, 4, mixing).epoch(4, 3)))
    for one, other, end in zip(large, small, rest, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(end, one[12:])


@pytest.mark.parametrize("settings", KINDS, ids=["mixup", "cutmix", "both"])
def test_the_shares_of_the_classes_have_the_sum_1(settings: dict[str, float]) -> None:
    for batch in training(50, 10, Mixing(3, **settings)).epoch(0):
        assert batch.shares is not None
        assert batch.shares.shape == (10, 3)
        assert batch.shares.min() >= 0
        torch.testing.assert_close(batch.shares.sum(1), torch.ones(10), rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_mixup", [1.0, 0.0])
@pytest.mark.parametrize(("weight", "kept"), [(1.0, slice(0, 8)), (0.0, slice(1, 9))])
def test_a_weight_of_1_keeps_every_bit_and_0_takes_the_partner(is_mixup: float, weight: float, kept: slice) -> None:
    images = torch.randn(9, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9)
    numbers = torch.tensor([is_mixup, weight, 0.5, 0.5]).expand(8, 4)
    mixed, shares = Mixing(9, 1.0, 1.0).apply(images, labels, numbers)
    assert torch.equal(mixed, images[kept])
    assert torch.equal(shares, torch.eye(9)[labels[kept]])


def test_an_image_alone_is_mixed_with_itself() -> None:
    (batch,) = training(1, 8, Mixing(3, mixup=1.0)).epoch(0)
    (plain,) = training(1, 8, None).epoch(0)
    torch.testing.assert_close(batch.images, plain.images)
    assert batch.targets.tolist() == [[1, 0, 0]]


def test_a_batch_names_the_partner_of_its_last_image_too() -> None:
    batches = training(9, 4, Mixing(3, mixup=0.2))
    order = RandomTables(5, 1, 9).permutation().tolist()
    assert batches.names(1, 0) == [f"{i}.png" for i in order[:5]]
    assert training(9, 4, None).names(1, 0) == [f"{i}.png" for i in order[:4]]


def test_boxes_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.CutMix(num_classes=2)
    height, width = 9, 14
    images, labels = torch.zeros(2, 1, height, width), torch.tensor([0, 1])
    images[1] = 1
    draw = np.random.default_rng(0)
    for weight in (0.0, 0.1, 0.5, 0.83, 1.0):
        y, x = (float(number) for number in draw.random(2))
        monkeypatch.setattr(theirs._dist, "sample", lambda *_, weight=weight: torch.tensor(weight))
        drawn = iter([torch.tensor([int(x * width)]), torch.tensor([int(y * height)])])
        monkeypatch.setattr(torch, "randint", lambda *_, drawn=drawn, **__: next(drawn))
        pasted, shares = theirs(images, labels)
        ours = boxes(torch.tensor([weight]), torch.tensor([[y, x]]), height, width)
        assert torch.equal(ours[0], pasted[0, 0] == 1)
        assert float(ours.float().mean()) == pytest.approx(float(shares[0, 1]), abs=1e-6)


def test_the_weights_follow_the_distribution() -> None:
    """Beta(alpha, alpha) has mean 1/2 and variance 1 / (4 (2 alpha + 1))."""
    for alpha in (0.2, 1.0, 3.0):
        weights = Mixing(2, mixup=alpha).draw(RandomTables(0, 0, 40_000))[:, 1].double()
        assert float(weights.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(weights.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    kinds = Mixing(2, mixup=0.2, cutmix=1.0).draw(RandomTables(0, 0, 10_000))[:, 0]
    assert float(kinds.mean()) == pytest.approx(0.5, abs=0.02)
    assert set(kinds.tolist()) == {0.0, 1.0}


def test_cutmix_beside_mixup_leaves_the_draws_of_mixup() -> None:
    tables = RandomTables(1, 0, 100)
    both, alone = Mixing(2, mixup=0.3, cutmix=1.0).draw(tables), Mixing(2, mixup=0.3).draw(tables)
    chosen = both[:, 0] == 1
    assert torch.equal(both[chosen], alone[chosen])


@pytest.mark.parametrize("is_balanced", [False, True])
def test_the_parts_of_several_processes_make_up_the_batch_of_one(is_balanced: bool) -> None:
    alone = dataclasses.replace(training(24, 8, Mixing(3, mixup=0.4, cutmix=1.0)), is_balanced=is_balanced)
    parts = [
        dataclasses.replace(alone, runtime=Runtime(torch.device("cpu"), processes=Processes(rank, 4))).epoch(1)
        for rank in range(4)
    ]
    for batch, *of_processes in zip(alone.epoch(1), *parts, strict=True):
        for one, other in zip(whole([batch]), whole(of_processes), strict=True):
            assert torch.equal(one, other)
