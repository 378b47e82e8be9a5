"""Our training on images generated in memory, by one process or by several, which torchrun starts here."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.peers.common import Clock, Job, main
from benchmarks.peers.scaling import config_of, made_images

if TYPE_CHECKING:
    from resnetlab.distributed import Processes

REPEATS = 5


def training(job: Job, clock: Clock) -> None:
    """Train; the batch is divided among the processes. Only the first one returns."""
    if job.processes > 1 and "RANK" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.processes)]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "benchmarks.peers.distributed", sys.argv[1]])
    from resnetlab.cli.process import keep_freed_memory
    from resnetlab.distributed import joined

    keep_freed_memory()  # as `resnetlab train` does
    with joined("cpu") as processes:
        train(job, clock, processes)
        is_main = processes.is_main
    if not is_main:
        os._exit(0)


def train(job: Job, clock: Clock, processes: Processes) -> None:
    import torch

    from resnetlab.runs import build
    from resnetlab.runtime import start
    from resnetlab.training.loop import StepDone, fit
    from resnetlab.training.replicas import replicate

    runtime, config = start(processes=processes), config_of(job)
    data = made_images(config.steps * job.batch, job.image_size)
    network, _ = build.make_network(config, data)
    batches = build.make_batches(config, data, runtime)
    plan, state = build.make_plan(config, len(batches.train)), build.make_state(config, network, runtime)
    replicate(state, torch.zeros(2, 3, job.image_size, job.image_size), runtime, compress=job.compress)
    clock.start()
    for event in fit(state, batches, plan, runtime):
        if isinstance(event, StepDone) and clock.step(job.batch):
            break
    clock.result["exchange_seconds"] = exchange_seconds(job.compress, processes.world_size)


def exchange_seconds(compress: str, world_size: int) -> float:
    """Return the seconds to sum one bucket of gradients over the processes, while they compute nothing else."""
    if world_size == 1:
        return 0.0
    import torch
    import torch.distributed as dist

    from benchmarks.cost_model import BUCKET, FULL

    bucket = torch.zeros(BUCKET // FULL, dtype=torch.bfloat16 if compress == "bf16" else torch.float32)
    dist.all_reduce(bucket)
    began = time.perf_counter()
    for _ in range(REPEATS):
        dist.all_reduce(bucket)
    return (time.perf_counter() - began) / REPEATS


if __name__ == "__main__":
    main({"training": training})
