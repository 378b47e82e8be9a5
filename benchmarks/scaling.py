"""Measure time and memory of training over batch size, image size, depth and the number of images.

Every point is its own process, on images generated in memory; the points of a curve are interleaved. Work is
multiply-adds, or images for the curve over the data set. That curve measures the data pipeline alone, because the time
of the network does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import scaling_page
from benchmarks.contenders import Contender
from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, details, interleaved, spread

BENT = 1.25  # relative cost above which time no longer counts as proportional to work


@dataclass(frozen=True)
class Curve:
    """The field that varies, its values, and the fixed fields."""

    title: str
    varies: str  # a field of the job
    values: tuple[int | str, ...]
    fixed: Mapping[str, Any]
    steps: int = 8
    task: str = "training"


SMALL = {"model": "resnet18", "stem": "cifar", "image_size": 32}
CURVES = {
    "batch": Curve("batch size (ResNet-18, 3×3 stem, 32 px)", "batch", (8, 16, 32, 64, 128, 256, 512), SMALL),
    "image": Curve(
        "image size (ResNet-18, 7×7 stem, batch 32)",
        "image_size",
        (32, 64, 96, 128, 160, 192, 224),
        {"model": "resnet18", "stem": "imagenet", "batch": 32},
    ),
    "depth": Curve(
        "depth (3×3 stem, 32 px, batch 64)",
        "model",
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        {"stem": "cifar", "image_size": 32, "batch": 64},
        steps=5,
    ),
    "images": Curve(
        "data set (pipeline alone, 32 px, batch 128)",
        "images",
        (1_000, 10_000, 100_000, 1_000_000),
        {"image_size": 32, "batch": 128, "warmup": 1},
        steps=200,
        task="pipeline",
    ),
}
QUICK: dict[str, tuple[int | str, ...]] = {
    "batch": (8, 16),
    "image": (32, 64),
    "depth": ("resnet18",),
    "images": (1_000, 10_000),
}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"curves": {}, "page": "docs/scaling.md"}
    for name, curve in CURVES.items():
        values = QUICK[name] if options.quick else curve.values
        points: dict[str, Contender] = {
            str(value): Contender("scaling", job_of(curve, value, options)) for value in values
        }
        options.say(f"scaling over {curve.title}")
        outcomes = interleaved(points, options.rounds, options.say)
        result["curves"][name] = {
            "title": curve.title,
            "points": [point(text, outcome) for text, outcome in outcomes.items()],
            "samples": details(outcomes),
        }
        judge(result["curves"][name]["points"])
    return result


def job_of(curve: Curve, value: int | str, options: Options) -> dict[str, Any]:
    steps = options.steps or (2 if options.quick else curve.steps)
    return {"warmup": 3, "steps": steps, **curve.fixed, "task": curve.task, curve.varies: value}


def point(text: str, outcome: Outcome) -> dict[str, Any]:
    """One point of a curve: medians over the rounds, or the reason why there are none."""
    if outcome.failed:
        return {"at": text, "failed": outcome.failed}
    times = [seconds_of(sample) for sample in outcome.samples]
    images = outcome.samples[0]["images_of_work"]
    found = {
        "at": text,
        "work": outcome.samples[0]["work"],
        "seconds": spread(times),
        "images_per_second": spread([images / seconds for seconds in times]),
    }
    for key in ("epoch_seconds", "median_step_seconds", "peak_bytes"):
        values = [sample[key] for sample in outcome.samples if sample.get(key) is not None]
        if values:
            found[key] = spread(values)
    return found


def seconds_of(sample: Sample) -> float:
    """Seconds of a training step; for the pipeline, of an epoch: up to its first batch, plus the other batches."""
    if "epoch_seconds" not in sample:
        return float(sample["seconds"] / sample["images"] * sample["images_of_work"])
    others = max(0, sample["images_of_work"] // sample["batch"] - 1)
    return float(sample["epoch_seconds"] + others * sample["median_step_seconds"])


def judge(points: Sequence[dict[str, Any]]) -> None:
    """Add to every point its cost per work, relative to the cheapest point, and if it is within BENT."""
    prices = [found["seconds"]["median"] / found["work"] for found in points if "work" in found]
    for found in points:
        if "work" in found:
            found["price"] = found["seconds"]["median"] / found["work"] / min(prices)
            found["straight"] = found["price"] <= BENT


draw = scaling_page.draw
write = partial(scaling_page.page, bent=BENT)
