"""Every random number is a pure function of (seed, purpose, epoch, sample)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetlab.data.random import RandomTables, derived_seed

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 10_000), samples=st.integers(1, 50))
def test_random_tables_are_a_pure_function_of_seed_purpose_and_epoch(seed: int, epoch: int, samples: int) -> None:
    one, other = RandomTables(seed, epoch, samples), RandomTables(seed, epoch, samples)
    before = one.uniform("crop", 2)
    other.uniform("flip", 1)  # asking for something else in between changes nothing
    other.permutation()
    assert torch.equal(before, other.uniform("crop", 2))
    assert torch.equal(before, one.uniform("crop", 2))
    assert torch.equal(one.permutation(), other.permutation())


def test_random_tables_are_the_same_on_every_machine() -> None:
    assert derived_seed(0, "init") == 14580079308038947828
    assert RandomTables(0, 0, 8).permutation().tolist() == [0, 7, 1, 3, 4, 2, 6, 5]
    assert (RandomTables(1, 2, 2).uniform("crop", 2) * 2**24).tolist() == [
        [10861553, 11138322],
        [11332456, 2807161],
    ]  # 24 bits each


def test_another_seed_purpose_or_epoch_gives_other_numbers() -> None:
    tables = [
        RandomTables(seed, epoch, 20).uniform(purpose, 1).numpy().tobytes()
        for seed, epoch, purpose in itertools.product(range(4), range(4), ("order", "crop", "flip", "mix"))
    ]
    assert len(set(tables)) == len(tables)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 2), epoch=st.integers(0, 1000))
def test_the_next_seed_differs_from_the_next_epoch(seed: int, epoch: int) -> None:
    one, other = RandomTables(seed + 1, epoch, 30), RandomTables(seed, epoch + 1, 30)
    assert not torch.equal(one.permutation(), other.permutation())
    assert not torch.equal(one.uniform("crop", 1), other.uniform("crop", 1))
    assert derived_seed(seed + 1, "init", epoch) != derived_seed(seed, "init", epoch + 1)


@settings(deadline=None)
@given(seed=SEEDS, samples=st.integers(1, 300))
def test_a_permutation_contains_each_sample_once(seed: int, samples: int) -> None:
    order = RandomTables(seed, 0, samples).permutation()
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(samples))


def test_uniform_numbers_lie_in_the_half_open_unit_interval_and_are_uniform() -> None:
    table = RandomTables(3, 1, 20_000).uniform("crop", 4)
    assert table.dtype == torch.float32
    assert table.shape == (20_000, 4)
    assert 0 <= table.min() < table.max() < 1
    for column in table.T:
        assert torch.histc(column, 10, 0, 1).tolist() == pytest.approx([2000] * 10, abs=200)


def test_no_global_generator_is_used_or_touched() -> None:
    def everything() -> list[object]:
        tables = RandomTables(5, 6, 7)
        return [derived_seed(5, "init"), tables.permutation().tolist(), tables.uniform("crop", 2).tolist()]

    expected = everything()
    np.random.seed(1)  # noqa: NPY002 - the global generator must neither matter nor be touched
    torch.manual_seed(1)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert everything() == expected
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())


def test_alternating_numbers_are_shifted_by_a_half_in_every_second_epoch() -> None:
    even, odd, next_even = (RandomTables(3, epoch, 1000).uniform("flip", 1, alternating=True) for epoch in (4, 5, 6))
    assert torch.equal(even, RandomTables(3, 4, 1000).uniform("flip", 1))
    assert torch.equal(even < 0.5, odd >= 0.5)  # an image that was flipped is not, and the other way round
    assert not torch.equal(even, next_even)
