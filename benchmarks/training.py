"""Measure images per second and peak memory of training: ours, the tutorial's script and four packages.

Every contender trains the same task in its own process with its own loader, once with its defaults and once with all
its fast options. A few steps run before the clock starts. Compilation time is part of the first step's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.environments import PACKAGES, python_of
from benchmarks.nets import NETS, Net
from benchmarks.options import PEERS, Options
from benchmarks.rounds import Outcome, Sample, details, group, interleaved

TITLES = {"plain": "plain script", "transformers": "HF Trainer"}
OURS = "resnetlab"


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for name in options.nets or (("resnet20",) if options.quick else tuple(NETS)):
        options.say(f"training {NETS[name].title}")
        outcomes = interleaved(contenders(name, options), options.rounds, options.say)
        result["groups"] += groups(name, outcomes)
        result["samples"][name] = details(outcomes)
        options.keep(result)
    return result


def contenders(name: str, options: Options) -> dict[str, Callable[[], Sample]]:
    """Ours first, then each peer with its defaults and with its fast options."""
    job = job_of(NETS[name], options)
    found: dict[str, Callable[[], Sample]] = {OURS: Contender("ours", job)}
    for peer in filter(options.wants, PEERS):
        title = TITLES.get(peer, peer)
        where: dict[str, Any] = {}
        if peer in PACKAGES:
            where["python"] = partial(python_of, peer, options.environments, options.say)
        found[title] = Contender(peer, job, **where)
        # Compiled code is kept between rounds; the first round includes the compilation.
        cache = options.scratch / "compiled" / name / peer
        found[f"{title}, fast"] = Contender(
            peer, {**job, "fast": True}, environment={"TORCHINDUCTOR_CACHE_DIR": str(cache)}, **where
        )
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
