"""Compare the time of the recipe `cifar10-resnet18` with that of ten epochs of the plain script.

Both train a ResNet-18 with the 3x3 stem on 45,000 images with crop and flip. The script uses Adam without a schedule
and keeps its best epoch. Its accuracy comes from one stored run (`script_epochs.json`, which contains its command). Its
time comes from a tenth of an epoch, plus validation, before and after each of our runs, in the script's fp32. Ours is
the unchanged recipe; both times include validation.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.options import RESULTS, Options
from benchmarks.results import read
from benchmarks.rounds import Outcome, Sample, details, group
from resnetlab.errors import BadInput
from resnetlab.runs.folder import RunFolder

SCRIPT = Path(__file__).parent / "plain_script.py"
STORED = "script_epochs.json"
RECIPE, EPOCHS, PART = "cifar10-resnet18", 10, 10
LIMIT = 3 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    reached = stored_accuracy(options)
    folder = options.small_images(1000)
    script, ours = Outcome(), Outcome()
    result: dict[str, Any] = {}
    for seed in range(options.rounds):
        script.samples.append(part_of_an_epoch(folder))
        ours.samples.append(recipe(folder, seed, options))
        script.samples.append(part_of_an_epoch(folder))
        result = report(ours, script, reached)
        options.keep(result)
        options.say(f"seed {seed}  {result['notes'][0]}")
    return result


def stored_accuracy(options: Options) -> dict[str, Any]:
    """The script's stored accuracies on these images."""
    if options.quick:
        return {"epochs": [{"val_accuracy": 0.1}], "test_accuracy": 0.1}
    if not (RESULTS / STORED).exists():
        raise BadInput(
            f"file not found: {RESULTS / STORED}; run python benchmarks/plain_script.py FOLDER --epochs {EPOCHS} "
            "--model resnet18 --stem cifar --augment --bf16 --checkpoint FILE, and store its output there"
        )
    return read(RESULTS / STORED)


def part_of_an_epoch(folder: Path) -> Sample:
    """Seconds of an epoch of the script with validation, extrapolated from a tenth of its training images."""
    images = sum(1 for path in (folder / "train").rglob("*") if path.is_file())
    kept = images - images // 10
    options = ["--epochs", "1", "--model", "resnet18", "--stem", "cifar", "--augment", "--images", str(kept // PART)]
    done = run([sys.executable, str(SCRIPT), str(folder), *options], limit=LIMIT)
    epoch = json.loads(done.said.splitlines()[0])
    train = epoch["train_seconds"] * kept / (kept // PART)
    return {"epoch_seconds": train + epoch["seconds"] - epoch["train_seconds"], "peak_bytes": done.memory.peak()}


def recipe(folder: Path, seed: int, options: Options) -> Sample:
    """Train with the recipe; return its validation scores and times per epoch and its test accuracy."""
    length = ["--epochs", "1"] if options.quick else []
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
        train = [sys.executable, "-m", "resnetlab", "train", RECIPE, "--data", str(folder), "--seed", str(seed)]
        done = run([*train, *length, "--out", f"{scratch}/run"], limit=LIMIT)
        found = RunFolder.open(Path(scratch, "run"))
        rows = [dict(row) for row in found.rows]
        test = found.read_json("evaluation/test/metrics.json")["accuracy"]
    return {"seed": seed, "seconds": done.seconds, "epochs": rows, "test_accuracy": test}


def report(ours: Outcome, script: Outcome, reached: dict[str, Any]) -> dict[str, Any]:
    best = max(epoch["val_accuracy"] for epoch in reached["epochs"])
    whole = EPOCHS * statistics.median(script.values(lambda sample: sample["epoch_seconds"]))
    mine = statistics.median(ours.values(lambda sample: sample["seconds"]))
    accuracies = ours.values(lambda sample: max(row["val_accuracy"] for row in sample["epochs"]))
    outcomes = {f"resnetlab {RECIPE}": ours, f"plain script, {EPOCHS} epochs": script}
    title = "ResNet-18 from scratch, as whole runs"

    def seconds(sample: Sample) -> float:
        return float(sample["seconds"] if "seconds" in sample else EPOCHS * sample["epoch_seconds"])

    return {
        "groups": [group("beside_script", title, "seconds", outcomes, seconds, more_is_better=False)],
        "samples": details(outcomes),
        "script_val_accuracy": best,
        "script_test_accuracy": reached["test_accuracy"],
        "val_accuracy": accuracies,
        "test_accuracy": ours.values(lambda sample: sample["test_accuracy"]),
        "share_of_time": mine / whole,
        "notes": [
            f"The script's best epoch has {best:.2%} of validation. The recipe has {statistics.fmean(accuracies):.2%} "
            f"({seeds_of(len(accuracies))}) in {mine / whole:.2f} of its time, with start, scores and pictures."
        ],
    }


def seeds_of(count: int) -> str:
    """
    >>> seeds_of(1), seeds_of(3)
    ('one seed', 'mean of 3 seeds')
    """
    return "one seed" if count == 1 else f"mean of {count} seeds"
