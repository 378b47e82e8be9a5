"""Measure training with one process and with two, of one thread each, and compare it with the cost model.

The same network, batch and images: strong scaling. The efficiency is the speed of two processes, divided by twice that
of one. The model predicts the step of two processes from the step of one process with half of the batch, and from the
time to sum a bucket of gradients while nothing else is computed. On a CPU the exchange uses the cores that compute, so
the model is a lower bound of the step. docs/scaling-out.md has the model and its predictions for GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import cost_model
from benchmarks.contenders import Contender
from benchmarks.distributed_page import SMALL, network
from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, details, group, interleaved

BATCH, STEPS, WARMUP = 256, 12, 3
ONE, HALF, TWO, COMPRESSED = "1 process", "1 process, half the batch", "2 processes", "2 processes, bf16 gradients"
CONTENDERS: dict[str, dict[str, Any]] = {
    ONE: {},
    HALF: {"batch": BATCH // 2},
    TWO: {"processes": 2},
    COMPRESSED: {"processes": 2, "compress": "bf16"},
}


def measure(options: Options) -> dict[str, Any]:
    outcomes = interleaved(
        {
            title: Contender("distributed", job_of(fields, options), environment={"OMP_NUM_THREADS": "1"})
            for title, fields in CONTENDERS.items()
        },
        options.rounds,
        options.say,
    )
    title = f"ResNet-18, 3×3 stem, 32 px, batch {job_of({}, options)['batch']}: one thread per process"
    speed = group("distributed", title, "images/s", outcomes, images_per_second, more_is_better=True, compared=False)
    time = group("distributed", title, "ms per step", outcomes, milliseconds, more_is_better=False, compared=False)
    return {"groups": [speed, time], "samples": {"distributed": details(outcomes)}, "scaling": scaling(outcomes)}


def job_of(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    job = {"task": "training", "model": SMALL.model, "stem": "cifar", "image_size": 32, "batch": BATCH, **fields}
    steps, warmup = options.steps or STEPS, WARMUP
    if options.quick:
        job["batch"], steps, warmup = job["batch"] // 32, options.steps or 2, 1
    return {**job, "steps": steps, "warmup": warmup}


def images_per_second(sample: Sample) -> float:
    return float(sample["images"] / sample["seconds"])


def milliseconds(sample: Sample) -> float:
    return 1000 * float(sample["median_step_seconds"])


def scaling(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """For each way to exchange gradients: the measured efficiency and the predicted one, a number per round."""
    found = []
    for title in (TWO, COMPRESSED):
        rounds = list(zip(*(outcomes[name].samples for name in (ONE, HALF, title)), strict=False))
        found.append(
            {
                "name": title,
                "measured": [images_per_second(two) / images_per_second(one) / 2 for one, _, two in rounds],
                "predicted": [predicted(one, half, two) for one, half, two in rounds],
            }
        )
    return found


def predicted(one: Sample, half: Sample, two: Sample) -> float:
    """Return the efficiency that the cost model expects from the two processes."""
    bandwidth = cost_model.BUCKET / two["exchange_seconds"]  # of float32 gradients, whatever the format that is sent
    pair = cost_model.Cluster("this machine", bandwidth, bandwidth, 0.0, 0.0, per_machine=2)
    step = cost_model.step(network(SMALL), float(half["median_step_seconds"]), 2, pair)
    return float(one["median_step_seconds"]) / step.seconds / 2
