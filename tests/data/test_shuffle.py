"""The order of an epoch over shards has each sample once, reads few shards at a time, and needs no state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetlab.data.random import RandomTables
from resnetlab.data.shuffle import shards_of, two_level_order
from resnetlab.distributed import Processes

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def shards_of_sizes(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def order_of(shards: np.ndarray, window: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return two_level_order(shards, RandomTables(seed, epoch, len(shards)).generator("order"), window)


@given(SIZES, st.integers(0, 200), st.integers(0, 5), st.integers(0, 3))
def test_every_sample_comes_exactly_once(sizes, window, seed, epoch):
    shards = shards_of_sizes(sizes)
    order = order_of(shards, window, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(shards)))
    assert np.array_equal(order, order_of(shards, window, seed, epoch))


@given(SIZES, st.integers(1, 40), st.integers(0, 5))
def test_a_shard_is_read_within_a_window_of_its_own_place(sizes, window, seed):
    shards = shards_of_sizes(sizes)
    if len(shards) <= window:
        return
    places = np.argsort(order_of(shards, window, seed))  # of each sample
    for shard in range(len(sizes)):
        inside = places[shards == shard]
        assert inside.max() - inside.min() < sizes[shard] + 2 * window


@given(SIZES, st.integers(0, 5))
def test_few_samples_are_shuffled_as_without_shards(sizes, seed):
    shards = shards_of_sizes(sizes)
    plain = RandomTables(seed, 1, len(shards)).permutation().numpy()
    assert np.array_equal(order_of(shards, len(shards), seed, epoch=1), plain)


@given(SIZES, st.integers(0, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 100))
def test_any_number_of_processes_continues_any_step_without_overlap_or_loss(sizes, window, batch, world, step):
    shards = shards_of_sizes(sizes)
    order = order_of(shards, window)
    steps = len(shards) // batch
    at = min(step, steps)  # the first `at` steps with one process, the rest after a resumption with several
    seen = order[: at * batch].tolist()
    again = order_of(shards, window)
    for number in range(at, steps):
        for rank in range(world):
            part = Processes(rank, world).share(batch)
            seen += again[number * batch + part.start : number * batch + part.stop].tolist()
    assert seen == order[: steps * batch].tolist()


@pytest.mark.parametrize("window", [0, 50])
def test_both_levels_are_random(window):
    shards = shards_of_sizes([20] * 10)
    orders = [order_of(shards, window, seed, epoch) for seed in range(2) for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(dict.fromkeys(shards[order].tolist())) for order in orders}) == 4  # the order of the shards
    inside = orders[0][shards[orders[0]] == 3]
    assert inside.tolist() != sorted(inside.tolist())


def test_the_window_mixes_neighbouring_shards():
    shards = shards_of_sizes([20] * 10)
    assert (np.diff(shards[order_of(shards, 0)]) != 0).sum() == 9
    assert (np.diff(shards[order_of(shards, 60)]) != 0).sum() > 60


def test_many_samples_take_little_time_and_memory():
    shards = shards_of_sizes([1000] * 1000)
    order = order_of(shards, 16_384)
    assert len(np.unique(order)) == 1_000_000
    assert len(np.unique(shards[order[500_000:500_256]])) < 50  # shards that a batch reads


def test_shards_are_numbered_by_name_wherever_their_samples_are():
    names = ["b.tar/x/1.jpg", "a.tar/y.jpg", "b.tar/2.jpg", "c/a.tar/1.jpg"]
    assert shards_of(names).tolist() == [1, 0, 1, 2]
    assert shards_of([]).tolist() == []
