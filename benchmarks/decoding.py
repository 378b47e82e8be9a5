"""Measure batches for ImageNet from JPEG files without training: random resized crop and mirror at 224 px, batch 64.

The files have about the sides, the quality and the bytes of ImageNet's photos. Ours are the batches of the recipe
imagenet-resnet50: decoded for each batch, from a folder and from tar shards, and from a file of images that were
decoded once. The others are torchvision's ImageFolder with its usual transforms, the same with `decode_jpeg` and the
transforms v2 on tensors, and timm's loader. All have a process for each core, and one that takes the batches.

The processor time of all processes is measured beside the time by the clock: on a machine that others use, too, it is
the steadier of the two.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.environments import python_of
from benchmarks.options import Options
from benchmarks.rounds import Sample, details, group, interleaved
from benchmarks.training import images_per_second, peak_gigabytes

TITLE = "normalised batches of 64 images of 224 px"
PART = "what a processor does beside a GPU: uint8 images of 64"

TICK = 0.01  # seconds, in which processor time is counted


def measure(options: Options) -> dict[str, Any]:
    from resnetlab.data.pack import pack

    batch, warmup, steps = (4, 1, 2) if options.quick else (64, 4, 16)
    steps = options.steps or steps
    folder = options.imagenet(2 * batch * (steps + warmup + 4))
    shards = folder.with_name(f"{folder.name}-shards")
    if not shards.exists():
        list(pack(folder, shards))
    job: dict[str, Any] = {"folder": str(folder), "batch": batch, "warmup": warmup, "steps": steps, "image_size": 224}
    job["workers"] = os.cpu_count()
    kept = {"XDG_CACHE_HOME": str(options.scratch / "decoded")}  # not the user's
    python = partial(python_of, "timm", options.environments, options.say)
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for subject, title, is_whole in (("whole", TITLE, True), ("part", PART, False)):
        job["normalized"] = is_whole
        contenders = {
            name: Contender("decoding", {**job, **own}, environment=kept)
            for name, own in {
                "resnetlab, files": {"task": "stream"},
                "resnetlab, shards": {"task": "stream", "folder": str(shards)},
                **({"resnetlab, decoded once": {"task": "cache"}} if is_whole else {}),  # else nothing is left to do
            }.items()
        }
        if options.wants("plain"):
            contenders["torchvision, PIL"] = Contender("decoding", {**job, "task": "plain"})
            contenders["torchvision, v2 on tensors"] = Contender("decoding", {**job, "task": "tensors"})
        if options.wants("timm"):
            contenders["timm"] = Contender("timm", {**job, "task": "data", "fast": True}, python)
        outcomes = interleaved(contenders, options.rounds, options.say)
        for unit, value in (("images/s", images_per_second), ("images per second of a core", images_per_core_second)):
            result["groups"].append(group(subject, title, unit, outcomes, value, more_is_better=True))
        result["groups"].append(group(subject, title, "GB at the peak", outcomes, peak_gigabytes, more_is_better=False))
        result["samples"][subject] = details(outcomes)
    return result


def images_per_core_second(sample: Sample) -> float | None:
    """Return images by the processor time of all processes; None if it is not known."""
    spent = sample["cpu_seconds"]
    return None if spent is None else float(sample["images"] / max(spent, TICK))
