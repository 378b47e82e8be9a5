"""A cost model of distributed training: seconds of a step, from bytes of gradients, bandwidths and compute.

DistributedDataParallel sums gradients in buckets, in the order in which the backward pass computes them: from the head
to the stem. A bucket is exchanged while the backward pass continues, one bucket after another. What is not finished at
the end of the backward pass is waited for.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

MIB = 2**20
FIRST_BUCKET, BUCKET = 1 * MIB, 25 * MIB  # bytes of float32 gradients, the defaults of DistributedDataParallel
FULL, HALF = 4, 2  # bytes of a gradient that is exchanged in float32, and in bfloat16
BACKWARD = 2 / 3  # of the compute of a step: gradients of the inputs and of the weights, each as costly as the forward
AGREEMENTS = 2  # in each step, of the hosts: all have read their images, and none has failed or was asked to stop


@dataclass(frozen=True)
class Cluster:
    """Machines of equal GPUs. Bandwidths are bytes per second in each direction, latencies seconds of a message."""

    name: str
    inside: float  # of a GPU, to the others of its machine
    outside: float  # of a machine, over all its network adapters
    inside_latency: float
    outside_latency: float
    per_machine: int = 8
    host_latency: float = 0.0  # of a message between two processes, through their hosts


@dataclass(frozen=True)
class Network:
    """The parameters and multiply-adds of the stages of a network in forward order, and its running statistics."""

    name: str
    parameters: tuple[int, ...]
    macs: tuple[int, ...]  # of one image
    statistics: int  # float32 values that are averaged after the backward pass

    @property
    def gradients(self) -> int:
        """The number of values that are exchanged in a step."""
        return sum(self.parameters)


@dataclass(frozen=True)
class Device:
    """A GPU: the images per second of one alone, and the shortest step that its host can launch, in seconds."""

    images_per_second: float
    shortest_step: float = 0.0

    def compute(self, images: float, agreements: float = 0.0) -> float:
        """Return the seconds of a step without exchanged gradients; `agreements` are those of the hosts, in seconds."""
        return max(self.shortest_step + agreements, images / self.images_per_second)


@dataclass(frozen=True)
class Step:
    """Seconds of a step: compute, the exchange in total, and the part of it that the compute does not hide."""

    compute: float
    exchange: float
    waited: float

    @property
    def seconds(self) -> float:
        return self.compute + self.waited

    @property
    def efficiency(self) -> float:
        """The share of a step that is compute."""
        return self.compute / self.seconds


def all_reduce(size: float, processes: int, cluster: Cluster) -> float:
    """Return the seconds to sum `size` bytes over the processes.

    Inside of a machine, a ring reduces and then gathers: each GPU sends and receives 2 (g - 1) / g of the bytes.
    Between machines the bytes of all GPUs together are summed once, in the same way; messages there follow a tree.

    >>> pair = Cluster("", inside=1e9, outside=1e9, inside_latency=0.0, outside_latency=0.0, per_machine=2)
    >>> all_reduce(1e9, 1, pair), all_reduce(1e9, 2, pair), all_reduce(1e9, 8, pair)
    (0.0, 1.0, 2.5)
    """
    gpus = min(processes, cluster.per_machine)
    machines = math.ceil(processes / cluster.per_machine)
    inside = 2 * (gpus - 1) / gpus * size / cluster.inside + 2 * (gpus - 1) * cluster.inside_latency
    outside = 2 * (machines - 1) / machines * size / cluster.outside
    return inside + outside + 2 * math.ceil(math.log2(machines)) * cluster.outside_latency


def agreements(processes: int, cluster: Cluster) -> float:
    """Return the seconds in which the hosts agree in a step: by gloo, whose messages follow a ring of all processes.

    >>> agreements(3, Cluster("", 1e9, 1e9, 0.0, 0.0, host_latency=1.0))
    8.0
    """
    return AGREEMENTS * 2 * (processes - 1) * cluster.host_latency


def buckets(gradients: int) -> list[int]:
    """Return the number of gradients in each bucket, in the order in which they are exchanged.

    >>> [count * FULL / MIB for count in buckets(10 * MIB)]
    [1.0, 25.0, 14.0]
    """
    found, left = [], gradients
    while left:
        found.append(min(left, (BUCKET if found else FIRST_BUCKET) // FULL))
        left -= found[-1]
    return found


def ready_at(network: Network, compute: float) -> list[float]:
    """Return when the gradients of each bucket are known, in seconds from the start of the step.

    Within a stage, gradients and multiply-adds are taken as evenly distributed.
    """
    gradients = np.cumsum([0, *reversed(network.parameters)])
    work = np.cumsum([0, *reversed(network.macs)]) / sum(network.macs)
    ends = np.cumsum(buckets(network.gradients))
    return [compute * (1 - BACKWARD + BACKWARD * share) for share in np.interp(ends, gradients, work)]


def step(network: Network, compute: float, processes: int, cluster: Cluster, width: int = FULL) -> Step:
    """Return the time of a step in which each process computes for `compute` seconds; `width` is bytes per gradient."""
    end = exchange = 0.0
    for count, ready in zip(buckets(network.gradients), ready_at(network, compute), strict=True):
        seconds = all_reduce(count * width, processes, cluster)
        end = max(end, ready) + seconds
        exchange += seconds
    statistics = all_reduce(network.statistics * FULL, processes, cluster)
    return Step(compute, exchange + statistics, max(0.0, end - compute) + statistics)


@dataclass(frozen=True)
class Setup:
    """A network, the GPUs that train it, their connections, and the bytes per exchanged gradient."""

    network: Network
    device: Device
    cluster: Cluster
    width: int = FULL

    def step(self, processes: int, images: float) -> Step:
        """Return the time of a step with so many images in each process."""
        compute = self.device.compute(images, agreements(processes, self.cluster))
        return step(self.network, compute, processes, self.cluster, self.width)

    def efficiency(self, processes: int, images: float) -> float:
        """Return the images per second of each process, divided by those of a GPU alone with a large batch.

        A step that is shorter than the host can launch, and agree on with the others, counts as a loss, too.
        """
        return images / self.step(processes, images).seconds / self.device.images_per_second

    def smallest_share(self, processes: int, goal: float) -> int:
        """Return the fewest images in each process with which the efficiency reaches `goal`, below 1."""
        most = 1
        while self.efficiency(processes, most) < goal:
            most *= 2
        return bisect_left(range(most), goal, key=lambda images: self.efficiency(processes, images))


def state_bytes(parameters: int, moments: int) -> int:
    """Return the bytes that each GPU holds at any batch: weights, gradients, buckets, moments of the optimiser.

    >>> state_bytes(1_000_000, moments=1)
    16000000
    """
    return parameters * FULL * (3 + moments)


def linear_rate(base: float, base_batch: int, batch: int) -> float:
    """Return the learning rate of a batch by the linear scaling rule (Goyal et al. 2017).

    >>> linear_rate(0.1, 256, 8192)
    3.2
    """
    return base * batch / base_batch
