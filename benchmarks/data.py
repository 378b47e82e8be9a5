"""Measure augmented images per second without training: crop and flip at 32 px, batch 128.

Ours makes batches from pixels in memory, in the training process. The tutorial's DataLoader and timm's loader read JPEG
files in workers, and crop and flip them with PIL.
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
    return {
        "groups": [
            group("data", TITLE, "images/s", outcomes, images_per_second, more_is_better=True),
            group("data", TITLE, "GB at the peak", outcomes, peak_gigabytes, more_is_better=False),
        ],
        "samples": details(outcomes),
    }
