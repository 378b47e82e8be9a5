"""Measure images per second and peak memory of training: ours, plain PyTorch and four packages.

Every contender trains the same task in its own process with its own loader. The packages run with their defaults and
with all their fast options; the tutorial's script in fp32, and in bf16 with channels_last. The bare loops train on one
batch in memory: they show what plain PyTorch reaches when data cost nothing. A few steps run before the clock starts.
Compilation time is part of the first step's time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.environments import PACKAGES, python_of
from benchmarks.nets import NETS, Net
from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, details, group, interleaved

TITLES = {"transformers": "HF Trainer"}
OURS = "resnetlab"
PLAIN, PLAIN_FAST = "plain script", "plain script, bf16"
BARE = {  # title: the fields of its job
    "bare loop, fp32": {},
    "bare loop, bf16": {"fast": True},
    "bare loop, bf16, compiled": {"fast": True, "compiled": True},
}
UNKNOWN = 60.0  # seconds of a process that was never measured


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    left = options.left(options.nets or (("resnet20",) if options.quick else tuple(NETS)))
    seconds = {name: estimate(name, options) for name in left}
    for place, name in enumerate(left):
        minutes = sum(seconds[later] for later in left[place:]) / 60
        after = len(left) - place - 1
        told = f"this and {after} more" if after else "this"
        options.say(f"training {NETS[name].title}; {told}: about {minutes:.0f} minutes")
        outcomes = interleaved(contenders(name, options), options.rounds, options.say)
        result["groups"] += groups(name, outcomes)
        result["samples"][name] = details(outcomes)
        options.keep(result)
    return result


def estimate(name: str, options: Options) -> float:
    """Seconds of a task, from the process times of its contenders in stored rounds, whichever machine they ran on."""
    stored = [entry.get("samples", {}).get(name, {}) for entry in options.stored]
    known = {
        title: statistics.fmean(float(sample["process_seconds"]) for sample in samples)
        for found in stored
        for title, samples in found.items()
        if samples
    }
    other = statistics.median(known.values()) if known else UNKNOWN
    return options.rounds * sum(known.get(title, other) for title, *_ in plan(options))


def plan(options: Options) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Title, module and job fields of every contender, ours first."""
    yield OURS, "ours", {}
    if options.wants("plain"):
        yield PLAIN, "plain", {}
        yield PLAIN_FAST, "plain", {"fast": True}
    if options.wants("bare"):
        for title, fields in BARE.items():
            yield title, "bare", fields
    for peer in filter(options.wants, PACKAGES):
        title = TITLES.get(peer, peer)
        if not options.fast_only:
            yield title, peer, {}
        yield f"{title}, fast", peer, {"fast": True}


def contenders(name: str, options: Options) -> dict[str, Callable[[], Sample]]:
    job = job_of(NETS[name], options)
    found: dict[str, Callable[[], Sample]] = {}
    for title, module, fields in plan(options):
        where: dict[str, Any] = {}
        if module in PACKAGES:
            where["python"] = partial(python_of, module, options.environments, options.say)
        if fields:
            # Compiled code is kept between rounds; the first round includes the compilation.
            cache = options.scratch / "compiled" / name / title.replace(" ", "-")
            where["environment"] = {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
        found[title] = Contender(module, {**job, **fields}, **where)
    return found


def job_of(net: Net, options: Options) -> dict[str, Any]:
    """Job of a net for every contender, with enough images for a single epoch."""
    job = {key: value for key, value in asdict(net).items() if key != "title"}
    if options.quick:
        job |= {"batch": 8, "steps": 2, "warmup": 1}
    if options.steps:
        job["steps"] = options.steps
    images = 2 * (job["steps"] + job["warmup"] + 8) * job["batch"]  # ours holds some out, and loaders prefetch
    folder: Path = options.small_images(images) if net.image_size <= 64 else options.large_images(images)
    return {**job, "task": "training", "folder": str(folder)}


def groups(name: str, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    speed = group(name, NETS[name].title, "images/s", outcomes, images_per_second, more_is_better=True)
    for row in speed["contenders"]:
        first = outcomes[row["name"]].values(lambda sample: sample["setup_seconds"] + sample["first_step_seconds"])
        if first:
            row["extra"] = {"first step done after, s": first[0]}
    memory = group(name, NETS[name].title, "GB at the peak", outcomes, peak_gigabytes, more_is_better=False)
    return [speed, memory]


def images_per_second(sample: Sample) -> float:
    return float(sample["images"] / sample["seconds"])


def peak_gigabytes(sample: Sample) -> float | None:
    """Peak proportional set size of the process tree, from the start to the end of the timed steps."""
    return None if sample["peak_bytes"] is None else float(sample["peak_bytes"] / 1e9)
