"""Compare the time of the recipe `cifar10-resnet18` with that of ten epochs of the plain script.

Both train a ResNet-18 with the 3x3 stem on 45,000 images with crop and flip. The script uses Adam without a schedule
and keeps its best epoch. Its accuracy comes from one stored run in bf16 (`script_epochs.json`, which contains its
command). Its time comes from a tenth of an epoch, plus validation, before and after each of our runs, in the script's
fp32 and in bf16 with channels_last. Ours is the unchanged recipe; all times include validation.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
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
SCRIPT_FP32, SCRIPT_BF16 = f"plain script, {EPOCHS} epochs", f"plain script, bf16, {EPOCHS} epochs"
EXTRAPOLATED = "the time is extrapolated from a tenth of an epoch, with validation"
LIMIT = 3 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    reached = stored_accuracy(options)
    folder = options.small_images(1000)
    ours, scripts = Outcome(), {name: Outcome() for name in (SCRIPT_FP32, SCRIPT_BF16)}
    result: dict[str, Any] = {}
    for seed in range(options.rounds):
        for name, script in scripts.items():
            script.samples.append(part_of_an_epoch(folder, name))
        ours.samples.append(recipe(folder, seed, options))
        for name, script in scripts.items():
            script.samples.append(part_of_an_epoch(folder, name))
        result = report(ours, scripts, reached)
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


def part_of_an_epoch(folder: Path, name: str) -> Sample:
    """Seconds of an epoch of the script with validation, extrapolated from a tenth of its training images."""
    images = sum(1 for path in (folder / "train").rglob("*") if path.is_file())
    kept = images - images // 10
    options = ["--epochs", "1", "--model", "resnet18", "--stem", "cifar", "--augment", "--images", str(kept // PART)]
    options += ["--bf16"] * (name == SCRIPT_BF16)
    done = run([sys.executable, str(SCRIPT), str(folder), *options], limit=LIMIT)
    epoch = json.loads(done.said.splitlines()[0])
    train = epoch["train_seconds"] * kept / (kept // PART)
    whole = train + epoch["seconds"] - epoch["train_seconds"]
    return {"epoch_seconds": whole, "peak_bytes": done.memory.peak(), "notes": [EXTRAPOLATED]}


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


def report(ours: Outcome, scripts: Mapping[str, Outcome], reached: dict[str, Any]) -> dict[str, Any]:
    """Compare the recipe with the faster of the scripts that were timed."""
    best = max(epoch["val_accuracy"] for epoch in reached["epochs"])
    times = {
        name: EPOCHS * statistics.median(script.values(lambda sample: sample["epoch_seconds"]))
        for name, script in scripts.items()
    }
    fastest = min(times, key=lambda name: times[name])
    share = statistics.median(ours.values(lambda sample: sample["seconds"])) / times[fastest]
    said = f"Our time is {share:.2f} of the script's in {'bf16' if fastest == SCRIPT_BF16 else 'fp32'}."
    if SCRIPT_BF16 not in scripts:
        said += " Its time in bf16 was not measured; [training](#training) shows how much faster it is then."
    accuracies = ours.values(lambda sample: max(row["val_accuracy"] for row in sample["epochs"]))
    outcomes = {f"resnetlab {RECIPE}": ours, **scripts}
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
        "share_of_time": share,
        "notes": [
            f"The recipe has {statistics.fmean(accuracies):.2%} of validation ({seeds_of(len(accuracies))}); its time "
            f"includes start, scores and pictures. The script's best epoch has {best:.2%}, in one run in bf16. {said}"
        ],
    }


def seeds_of(count: int) -> str:
    """
    >>> seeds_of(1), seeds_of(3)
    ('one seed', 'mean of 3 seeds')
    """
    return "one seed" if count == 1 else f"mean of {count} seeds"
