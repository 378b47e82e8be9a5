"""The page about scaling out has the figures of the model, and the stored ones beside those that the model predicts."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from benchmarks.cost_model import BUCKET, FULL, HALF
from benchmarks.rounds import Outcome

from benchmarks import distributed, distributed_page
from resnetlab.models import build_model
from resnetlab.models.summary import count_macs


def sample(speed: float, exchange: float = 0.0) -> dict[str, Any]:
    step = 256 / speed
    return {"images": 2560, "seconds": 10 * step, "median_step_seconds": step, "exchange_seconds": exchange}


def outcomes(exchange: float) -> dict[str, Outcome]:
    speeds = {distributed.ONE: 100.0, distributed.HALF: 200.0, distributed.TWO: 180.0, distributed.COMPRESSED: 190.0}
    found = {name: Outcome([sample(speed, exchange)]) for name, speed in speeds.items()}
    found[distributed.HALF] = Outcome([{**sample(100.0), "median_step_seconds": 1.28}])
    return found


def test_the_efficiency_is_the_speed_of_two_by_twice_that_of_one() -> None:
    two, compressed = distributed.scaling(outcomes(1e-9))
    assert (two["measured"], compressed["measured"]) == ([pytest.approx(0.9)], [pytest.approx(0.95)])
    assert two["predicted"] == [pytest.approx(1.0)], "an exchange that takes no time"


def test_the_model_predicts_less_with_a_slower_exchange() -> None:
    predicted = [distributed.scaling(outcomes(seconds))[0]["predicted"][0] for seconds in (0.01, 0.1, 1.0)]
    assert predicted == sorted(predicted, reverse=True)
    network = distributed_page.network(distributed_page.SMALL)
    all_of_it = (network.gradients + network.statistics) * FULL / BUCKET
    assert predicted[2] >= 2.56 / (1.28 + all_of_it) / 2


def test_a_contender_that_failed_leaves_no_number() -> None:
    found = outcomes(0.1)
    found[distributed.TWO] = Outcome([], "no torchrun")
    assert distributed.scaling(found)[0] == {"name": distributed.TWO, "measured": [], "predicted": []}


def test_the_networks_of_the_model_are_those_that_are_built() -> None:
    task, network = distributed_page.LARGE, distributed_page.network(distributed_page.LARGE)
    model = build_model(task.model, task.classes)
    assert network.gradients == sum(parameter.numel() for parameter in model.parameters())
    assert sum(network.macs) == count_macs(model, task.image_size)
    running = [buffer for buffer in model.buffers() if buffer.ndim]
    assert network.statistics == sum(buffer.numel() for buffer in running)


def test_the_page_has_a_row_for_each_combination_and_a_better_one_in_bf16() -> None:
    text = distributed_page.page(())
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| (8|64|512) \|", line)]
    assert [row[0] for row in rows[:7]] == ["8", *["64"] * 3, *["512"] * 3]
    for count, name in itertools.product(distributed_page.COUNTS, distributed_page.NETWORKS):
        full, half = (distributed_page.setup(distributed_page.LARGE, name, width) for width in (FULL, HALF))
        assert full.efficiency(count, 256) < half.efficiency(count, 256) < 1
    assert "No result is stored yet." in text


def test_the_page_shows_what_is_stored() -> None:
    machine = {"device_name": "a machine", "threads": 1, "cpu_capability": "AVX512", "bf16": True, "amx": False}
    machine |= {"commit": "abc1234", "torch": "2.15.0", "python": "3.11.7", "started": "2026-11-20T13:00:00+00:00"}
    text = distributed_page.page([{"environment": machine, "scaling": distributed.scaling(outcomes(0.1))}])
    assert "| 2 processes | 90 % |" in text
    assert "| 2 processes, bf16 gradients | 95 % |" in text
    assert "No result is stored" not in text
