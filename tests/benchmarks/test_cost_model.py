"""The cost model of distributed training agrees with hand computation, and with DistributedDataParallel's defaults."""

from __future__ import annotations

import pytest
import torch.distributed
from benchmarks.cost_model import (
    BACKWARD,
    BUCKET,
    FIRST_BUCKET,
    FULL,
    HALF,
    MIB,
    Cluster,
    Device,
    Network,
    Setup,
    all_reduce,
    buckets,
    ready_at,
    step,
)
from torch.nn.parallel import DistributedDataParallel

CLUSTER = Cluster("", inside=1e9, outside=1e8, inside_latency=1e-5, outside_latency=1e-4, per_machine=4)
FREE = Cluster("", inside=1e30, outside=1e30, inside_latency=0.0, outside_latency=0.0)
NET = Network("", parameters=(MIB // 4, MIB), macs=(300, 100), statistics=1000)  # 1 and 4 MiB of gradients


def test_a_process_alone_exchanges_nothing() -> None:
    assert all_reduce(1e9, 1, CLUSTER) == 0
    assert step(NET, 1.0, 1, CLUSTER).seconds == 1.0


@pytest.mark.parametrize(
    ("processes", "seconds"),
    [
        (2, 2 * 1 / 2 * 1e6 / 1e9 + 2 * 1e-5),
        (4, 2 * 3 / 4 * 1e6 / 1e9 + 6 * 1e-5),
        (8, 2 * 3 / 4 * 1e6 / 1e9 + 6 * 1e-5 + 2 * 1 / 2 * 1e6 / 1e8 + 2 * 1e-4),
        (32, 2 * 3 / 4 * 1e6 / 1e9 + 6 * 1e-5 + 2 * 7 / 8 * 1e6 / 1e8 + 6 * 1e-4),
    ],
)
def test_the_time_of_an_exchange_is_that_of_its_bytes_and_messages(processes: int, seconds: float) -> None:
    assert all_reduce(1e6, processes, CLUSTER) == pytest.approx(seconds)


def test_a_machine_that_is_not_full_is_one_machine() -> None:
    assert all_reduce(1e6, 3, CLUSTER) < all_reduce(1e6, 4, CLUSTER) < all_reduce(1e6, 5, CLUSTER)


def test_the_buckets_are_those_of_torch() -> None:
    assert torch.distributed._DEFAULT_FIRST_BUCKET_BYTES == FIRST_BUCKET
    assert f"a default size of {BUCKET // MIB} MiB" in " ".join((DistributedDataParallel.__doc__ or "").split())
    found = buckets(30 * MIB)
    assert (sum(found), [count * FULL / MIB for count in found]) == (30 * MIB, [1, 25, 25, 25, 25, 19])


def test_gradients_are_known_from_the_head_to_the_stem() -> None:
    """The first MiB is a quarter of the last stage, whose work is a quarter of the network's."""
    forward = 1 - BACKWARD
    assert ready_at(NET, 1.0) == pytest.approx([forward + BACKWARD * 0.25 * 0.25, 1.0])


def test_an_exchange_is_hidden_behind_the_backward_pass_except_its_end() -> None:
    compute = 1.0
    done = step(NET, compute, 2, CLUSTER)
    last, statistics = all_reduce(4 * MIB, 2, CLUSTER), all_reduce(4000, 2, CLUSTER)
    assert done.waited == pytest.approx(last + statistics), "the first bucket is hidden"
    assert done.exchange == pytest.approx(all_reduce(MIB, 2, CLUSTER) + last + statistics)
    assert done.efficiency == pytest.approx(compute / (compute + last + statistics))


def test_without_compute_to_hide_behind_all_of_the_exchange_is_waited_for() -> None:
    done = step(NET, 0.0, 8, CLUSTER)
    assert done.waited == pytest.approx(done.exchange)


def test_half_the_bytes_take_half_the_time_without_latency() -> None:
    quick = Cluster("", inside=1e9, outside=1e8, inside_latency=0.0, outside_latency=0.0, per_machine=4)
    bare = Network("", NET.parameters, NET.macs, statistics=0)
    assert step(bare, 0.0, 8, quick, HALF).waited == pytest.approx(step(bare, 0.0, 8, quick, FULL).waited / 2)


def test_an_infinite_network_is_fully_efficient() -> None:
    assert Setup(NET, Device(100.0), FREE).efficiency(512, 1) == pytest.approx(1)


def test_more_processes_more_bytes_and_fewer_images_are_less_efficient() -> None:
    setup = Setup(NET, Device(100.0), CLUSTER)
    assert setup.efficiency(4, 8) > setup.efficiency(8, 8) > setup.efficiency(64, 8)
    assert Setup(NET, Device(100.0), CLUSTER, HALF).efficiency(8, 8) > setup.efficiency(8, 8)
    assert setup.efficiency(8, 16) > setup.efficiency(8, 8)


def test_a_step_shorter_than_the_host_can_launch_is_a_loss() -> None:
    assert Setup(NET, Device(100.0, shortest_step=0.5), FREE).efficiency(2, 10) == pytest.approx(0.2)


def test_the_hosts_agree_while_the_gpu_computes_or_are_waited_for() -> None:
    """Two exchanges of 7 + 7 messages with 8 processes: 0.28 s here."""
    slow = Cluster("", inside=1e30, outside=1e30, inside_latency=0.0, outside_latency=0.0, host_latency=0.01)
    setup = Setup(NET, Device(100.0, shortest_step=0.2), slow)
    assert setup.step(8, 10).seconds == pytest.approx(0.48)
    assert setup.step(8, 50).seconds == pytest.approx(0.5)
    assert setup.step(1, 10).seconds == pytest.approx(0.2)


@pytest.mark.parametrize("goal", [0.5, 0.9, 0.99])
def test_the_smallest_share_is_the_first_that_reaches_the_goal(goal: float) -> None:
    setup = Setup(NET, Device(100.0), CLUSTER)
    images = setup.smallest_share(8, goal)
    assert setup.efficiency(8, images) >= goal
    assert images == 1 or setup.efficiency(8, images - 1) < goal
