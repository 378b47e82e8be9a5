"""Measure the evaluation of 10,000 CIFAR-size images with ResNet-18: ours, bare forward passes, the tutorial's loop.

Ours has the images in memory, as during training, and computes loss, accuracy and macro-F1. The bare passes run the
network alone on normalised tensors. The tutorial's loop reads JPEG files with two workers.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import Contender
from benchmarks.options import Options
from benchmarks.rounds import details, group, interleaved
from benchmarks.training import images_per_second, peak_gigabytes

TITLE = "evaluating 10,000 images, ResNet-18, 3×3 stem, 32 px"
TASKS = {
    "resnetlab": "ours",
    "bare forward passes": "bare",
    "resnetlab, fp32": "ours_fp32",
    "bare forward passes, fp32": "bare_fp32",
    "plain script": "plain",
}


def measure(options: Options) -> dict[str, Any]:
    images = 64 if options.quick else 10_000
    job = {"folder": str(options.small_images(images)), "images": images, "warmup": 1, "steps": options.steps or 1}
    contenders = {
        name: Contender("evaluation", {**job, "task": task})
        for name, task in TASKS.items()
        if task != "plain" or options.wants("plain")
    }
    outcomes = interleaved(contenders, options.rounds, options.say)
    title = TITLE if not options.quick else TITLE.replace("10,000", str(images))
    return {
        "groups": [
            group("evaluation", title, "images/s", outcomes, images_per_second, more_is_better=True),
            group("evaluation", title, "GB at the peak", outcomes, peak_gigabytes, more_is_better=False),
        ],
        "samples": details(outcomes),
    }
