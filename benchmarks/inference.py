"""Measure prediction from image files to probabilities: the time of one image, and images per second in lists of 64.

Ours is the Classifier; torchvision is its network in evaluation mode with the usual transforms. Both use fp32 and
inference_mode; fast: channels_last.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import Contender
from benchmarks.options import Options
from benchmarks.rounds import Sample, details, group, interleaved
from benchmarks.training import images_per_second

SUBJECTS = {  # title, job
    "resnet18": ("ResNet-18, 3×3 stem, 32 px", {"model": "resnet18", "stem": "cifar", "image_size": 32}),
    "resnet50": ("ResNet-50, 224 px", {"model": "resnet50", "stem": "imagenet", "image_size": 224}),
}
TASKS = {"resnetlab": "ours", "torchvision": "plain", "torchvision, channels_last": "plain_fast"}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for name, (title, net) in SUBJECTS.items():
        if (options.nets and name not in options.nets) or (options.quick and name != "resnet18"):
            continue
        folder = options.small_images(256) if net["image_size"] == 32 else options.large_images(256)
        for images, what, unit in ((1, "one image", "ms"), (64, "lists of 64 images", "images/s")):
            options.say(f"inference of {what}, {title}")
            calls = options.steps or (2 if options.quick else 100 if images == 1 else 6)
            job = {**net, "folder": str(folder), "batch": images, "warmup": 1 if options.quick else 2, "steps": calls}
            contenders = {text: Contender("inference", {**job, "task": task}) for text, task in TASKS.items()}
            outcomes = interleaved(contenders, options.rounds, options.say)
            value = milliseconds if images == 1 else images_per_second
            shown = f"{what}, {title}"
            result["groups"].append(group(name, shown, unit, outcomes, value, more_is_better=images > 1))
            result["samples"][shown] = details(outcomes)
    return result


def milliseconds(sample: Sample) -> float:
    return float(1000 * sample["median_step_seconds"])
