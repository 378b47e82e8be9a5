"""Measure predicting many image files, from the start of a process to a table of classes on disk.

Ours is `resnetlab predict`; the others are scripts with torchvision's network, which has the same weights, and its
usual transforms: one image at a time, and batches of 64 from a DataLoader with 2 workers, in fp32 and in bf16 with
channels_last. The classes of the two fp32 processes are compared.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.options import Options
from benchmarks.rounds import Failed, Outcome, Sample, details, group, interleaved

# Title, stem, pixels of the network's input, images, and the least share of them that torchvision gives the same class,
# in fp32. It crops photos after resizing, at a whole pixel: a shift of up to half a pixel, which changes the class of
# some, because the network is not trained.
SUBJECTS = {
    "small": ("small images, ResNet-18, 3×3 stem, 32 px", "cifar", 32, 10_000, 0.999),
    "photos": ("photos, ResNet-18, 224 px", "imagenet", 224, 1_000, 0.6),
}
OURS = {"fp32": "resnetlab predict, fp32", "bf16": "resnetlab predict, bf16"}
ONE_BY_ONE = "torchvision, one by one, fp32"
BATCHED = {
    "fp32": "torchvision, batches of 64, 2 workers, fp32",
    "bf16": "torchvision, batches of 64, 2 workers, bf16, channels_last",
}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for subject, (title, stem, size, images, least) in SUBJECTS.items():
        count = options.steps or (24 if options.quick else images)
        options.say(f"predicting {count:,} {title}")
        scratch = options.scratch / subject
        folder = (options.small_images if size == 32 else options.photos)(count)
        files = some_files(folder, count, scratch / "images")
        job = {"folder": str(files), "scratch": str(scratch), "stem": stem, "image_size": size}
        run([sys.executable, "-m", "benchmarks.peers.predicting", json.dumps({**job, "task": "prepare"})])
        contenders: dict[str, Callable[[], Sample]] = {}
        for precision, text in OURS.items():
            contenders[text] = partial(ours, scratch, files, precision, count)
        tasks = {ONE_BY_ONE: ("one_by_one", "fp32"), **{text: ("batched", name) for name, text in BATCHED.items()}}
        for text, (task, precision) in tasks.items():
            contenders[text] = partial(plain, {**job, "task": task, "precision": precision}, count)
        outcomes = interleaved(contenders, options.rounds, options.say)
        compare_classes(scratch, outcomes, least)
        for precision, text in OURS.items():
            chosen = {name: outcomes[name] for name in (text, ONE_BY_ONE, *BATCHED.values())}
            shown = f"{count:,} {title}, {precision}"
            result["groups"].append(group(subject, shown, "images/s", chosen, images_per_second, more_is_better=True))
            result["samples"][shown] = details(chosen)
    return result


def some_files(folder: Path, count: int, target: Path) -> Path:
    """Copy `count` images, evenly from all classes, into one folder."""
    files = sorted(folder.glob("train/*/*"))
    target.mkdir(parents=True)
    for number, file in enumerate(files[index * len(files) // count] for index in range(count)):
        shutil.copyfile(file, target / f"{number:06d}{file.suffix}")
    return target


def ours(scratch: Path, files: Path, precision: str, count: int) -> Sample:
    table = scratch / f"ours-{precision}.csv"
    for old in (table, Path(f"{table}.json")):
        old.unlink(missing_ok=True)
    words = [str(scratch / "model.safetensors"), str(files), "--csv", str(table), "--precision", precision]
    return {"seconds": run([sys.executable, "-m", "resnetlab", "predict", *words]).seconds, "images": count}


def plain(job: Mapping[str, Any], count: int) -> Sample:
    done = run([sys.executable, "-m", "benchmarks.peers.predicting", json.dumps(job)])
    return {"seconds": done.seconds, "images": count}


def images_per_second(sample: Sample) -> float:
    return float(sample["images"] / sample["seconds"])


def compare_classes(scratch: Path, outcomes: Mapping[str, Outcome], least: float) -> None:
    """Note the share of images with the same class in the two fp32 processes. Raises Failed if it is too small."""
    ours = outcomes[OURS["fp32"]]
    if ours.failed or outcomes[ONE_BY_ONE].failed:
        return
    first, other = (classes(scratch / f"{name}.csv") for name in ("ours-fp32", "one_by_one-fp32"))
    share = sum(first[file] == name for file, name in other.items()) / len(other)
    if first.keys() != other.keys() or share < least:
        raise Failed(f"only {share:.2%} of the images have the same class in resnetlab and torchvision, both in fp32")
    note = f"the class of {share:.2%} of the images is that of torchvision in fp32; {len(set(other.values()))} classes"
    ours.samples[0] = {**ours.samples[0], "notes": [note]}


def classes(table: Path) -> dict[str, str]:
    """The class of each file in a table, by its name without the folder."""
    with table.open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: row["predicted"] for row in csv.DictReader(file)}
