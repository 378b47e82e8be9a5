"""Measure servers: requests per second, and the median and 99th percentile of the time to an answer.

Ours is `resnetlab serve`. naive is a FastAPI handler around torchvision's network, as most people write it; LitServe
collects batches of up to 32 for 10 ms, as its documentation advises. 1, 8 or 32 clients send JPEG files as forms, each
the next one after its answer. Clients and server share the machine.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import Contender
from benchmarks.options import Options
from benchmarks.rounds import Sample, details, group, interleaved
from benchmarks.training import images_per_second

SUBJECTS = {  # title, job
    "resnet18-32": ("ResNet-18, 3×3 stem, 32 px", {"model": "resnet18", "stem": "cifar", "image_size": 32}),
    "resnet18-224": ("ResNet-18, 224 px", {"model": "resnet18", "stem": "imagenet", "image_size": 224}),
}
TASKS = {"resnetlab serve": "ours", "FastAPI + torchvision": "naive", "LitServe": "litserve"}
CLIENTS = (1, 8, 32)


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for name, (title, net) in SUBJECTS.items():
        if options.quick and net["image_size"] > 32:
            continue
        folder = options.small_images(256) if net["image_size"] == 32 else options.large_images(256)
        for clients in CLIENTS:
            requests = options.steps or (2 if options.quick else 200) * (4 + clients)
            shown = f"{title}, {clients} client{'s' * (clients > 1)}"
            options.say(f"serving {shown}")
            job = {**net, "folder": str(folder), "batch": clients, "warmup": clients * 2, "steps": requests}
            contenders = {text: Contender("serving", {**job, "task": task}) for text, task in TASKS.items()}
            outcomes = interleaved(contenders, options.rounds, options.say)
            result["samples"][shown] = details(outcomes)
            result["groups"] += [
                group(name, shown, "requests/s", outcomes, images_per_second, more_is_better=True),
                group(name, shown, "ms, median", outcomes, median, more_is_better=False),
                group(name, shown, "ms, 99th percentile", outcomes, worst, more_is_better=False),
            ]
    return result


def median(sample: Sample) -> float:
    return float(sample["p50_ms"])


def worst(sample: Sample) -> float:
    return float(sample["p99_ms"])
