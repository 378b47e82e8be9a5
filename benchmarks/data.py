"""Measure augmented images per second without training, in batches of 128 images of 32 px.

Files are cropped and flipped: ours makes batches from pixels in memory, in the training process; the tutorial's
DataLoader and timm's loader read JPEG files in workers, and change them with PIL. Pixels that all have in memory, as
those of CIFAR-10, are cropped, flipped, cut out and normalised.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.environments import python_of
from benchmarks.options import Options
from benchmarks.rounds import details, group, interleaved
from benchmarks.training import images_per_second, peak_gigabytes

TITLE = "augmented batches of 128 images of 32 px"
IN_MEMORY = "crop, flip, cutout and normalisation of pixels in memory, 128 images of 32 px"


def measure(options: Options) -> dict[str, Any]:
    batch, warmup, steps = (8, 1, 3) if options.quick else (128, 10, 150)
    steps = options.steps or steps
    folder = options.small_images(2 * batch * (steps + warmup + 8))
    job = {"task": "data", "folder": str(folder), "batch": batch, "warmup": warmup, "steps": steps}
    contenders = {"resnetlab": Contender("loading", {**job, "task": "ours"})}
    if options.wants("plain"):
        contenders["torchvision, PIL, 2 workers"] = Contender("loading", {**job, "task": "plain"})
    if options.wants("timm"):
        python = partial(python_of, "timm", options.environments, options.say)
        contenders["timm, 4 workers"] = Contender("timm", job, python)
        contenders["timm, a worker a core"] = Contender("timm", {**job, "fast": True}, python)
    outcomes = interleaved(contenders, options.rounds, options.say)
    in_memory = interleaved(contenders_in_memory(options, batch, warmup, steps), options.rounds, options.say)
    return {
        "groups": [
            found
            for subject, title, those in (("data", TITLE, outcomes), ("in memory", IN_MEMORY, in_memory))
            for found in (
                group(subject, title, "images/s", those, images_per_second, more_is_better=True),
                group(subject, title, "GB at the peak", those, peak_gigabytes, more_is_better=False),
            )
        ],
        "samples": {"data": details(outcomes), "in memory": details(in_memory)},
    }


def contenders_in_memory(options: Options, batch: int, warmup: int, steps: int) -> dict[str, Contender]:
    """Ours, and torchvision's transforms of PIL images in two workers, of both versions."""
    images = 50_000 if not options.quick else batch * (steps + warmup)
    job = {"batch": batch, "warmup": warmup, "steps": steps, "images": images}
    tasks = {"resnetlab": "ours_in_memory"}
    if options.wants("plain"):
        tasks["torchvision, 2 workers"] = "torchvision_in_memory"
        tasks["torchvision v2, 2 workers"] = "torchvision_v2_in_memory"
    return {name: Contender("loading", {**job, "task": task}) for name, task in tasks.items()}
