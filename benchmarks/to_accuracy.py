"""Measure training time and accuracy on CIFAR-10: `cifar10-fast` and the speed record airbench94_muon.

Both run in turn, once per seed, each in its own process with the machine's default number of threads, on the same
images and with the same allocator settings. The time is that of training with augmentation, without reading images,
compiling or scoring. The peer trains on all of train/ and is scored on test/ after each epoch; ours holds out a
fiftieth of train/ for validation. Both are scored on test/ with plain images and with the peer's six views of each
image: the image, moved by a pixel up left and down right, and their mirror images.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contenders import run
from benchmarks.images import given_folder
from benchmarks.options import Options
from benchmarks.pictures import OURS
from benchmarks.rounds import Failed, Outcome, Sample, details, group
from resnetlab.errors import BadInput
from resnetlab.plots.style import MUTED, empty_figure, fit_below_header, house_style, new_figure, save
from resnetlab.runs.folder import RunFolder

RECIPE, PEER = "cifar10-fast", "airbench"
SEEDS = 3  # at most; fewer with --rounds
LIMIT = 3 * 3600.0  # seconds
ROOM = 0.12  # of accuracy, shown below the worst result


def measure(options: Options) -> dict[str, Any]:
    """Train both with each seed; store the results after each seed."""
    if given_folder(options.data) is None and not options.quick:
        raise BadInput(
            "to_accuracy needs CIFAR-10 as image files: --data FOLDER, with train/<class>/* and test/<class>/*"
        )
    folder = options.small_images(2000)  # one batch of the peer, if images are generated
    length = ("--epochs", "1") if options.quick else ()
    contenders: dict[str, Callable[[int], Sample]] = {
        f"resnetlab {RECIPE}": partial(ours, folder, length),
        "airbench94_muon": partial(airbench, options.peer_path.get(PEER), folder, length),
    }
    outcomes = {name: Outcome() for name in contenders}
    for seed in range(min(options.rounds, SEEDS)):
        for name, train in contenders.items():
            outcome = outcomes[name]
            if outcome.failed:
                continue
            try:
                outcome.samples.append(train(seed))
                told = "{train_seconds:.0f} s, {test_accuracy:.2%}, {test_accuracy_tta:.2%} with six views".format(
                    **outcome.samples[-1]
                )
            except Failed as error:
                outcome.failed = told = str(error)
            options.say(f"seed {seed}  {name}: {told}")
        options.keep(report(outcomes))
    return report(outcomes)


def ours(folder: Path, length: tuple[str, ...], seed: int) -> Sample:
    """Train with the recipe; score it on test/, and again with six views."""
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
        where = Path(scratch, "run")
        lab = [sys.executable, "-m", "resnetlab"]
        trained = run(
            [*lab, "train", RECIPE, "--data", str(folder), "--seed", str(seed), "--out", str(where), *length],
            limit=LIMIT,
        )
        viewed = run([*lab, "evaluate", str(where), "--split", "test", "--tta", "flip-shift", "--json"], limit=LIMIT)
        found = RunFolder.open(where)
        seconds = list(accumulate(row["train_seconds"] for row in found.rows))
        splits = found.read_json("split.json")["splits"]
        scores = found.read_json("evaluation/test/metrics.json")
        threads = found.read_json("environment.json")["threads"]
        accuracies = [row["val_accuracy"] for row in found.rows]
    return {
        "seed": seed,
        "threads": threads,
        "train_images": splits["train"]["images"],
        "test_images": scores["images"],
        "train_seconds": seconds[-1],
        "epochs": [  # on validation
            {"train_seconds": so_far, "accuracy": accuracy}
            for so_far, accuracy in zip(seconds, accuracies, strict=True)
        ],
        "test_accuracy": scores["accuracy"],
        "test_accuracy_tta": json.loads(viewed.said)["accuracy"],
        "process_seconds": trained.seconds,
        "peak_bytes": trained.memory.peak(),
    }


def airbench(checkout: Path | None, folder: Path, length: tuple[str, ...], seed: int) -> Sample:
    """Run the peer through its adapter."""
    if checkout is None:
        raise Failed(
            f"not on PyPI: give --peer-path {PEER}=FOLDER, a checkout of github.com/KellerJordan/cifar10-airbench"
        )
    adapter = [sys.executable, "-m", "benchmarks.peers.airbench", "--peer-path", str(checkout), "--data", str(folder)]
    done = run([*adapter, "--seed", str(seed), *length], limit=LIMIT)
    found = json.loads(done.said.strip().splitlines()[-1])
    return {**found, "process_seconds": done.seconds, "peak_bytes": done.memory.peak()}


def report(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Seconds and accuracies of each contender: per seed, mean and standard deviation."""
    values: dict[str, Callable[[Sample], float]] = {
        "seconds of training": lambda sample: float(sample["train_seconds"]),
        "% of test images": lambda sample: 100 * float(sample["test_accuracy"]),
        "% with six views": lambda sample: 100 * float(sample["test_accuracy_tta"]),
    }
    groups = []
    for unit, value in values.items():
        found = group(
            "to_accuracy", "CIFAR-10 from scratch", unit, outcomes, value, more_is_better=unit.startswith("%")
        )
        for row in found["contenders"]:
            if row["values"]:
                row["extra"] = {"mean": statistics.fmean(row["values"]), "standard deviation": deviation(row["values"])}
        groups.append(found)
    return {"groups": groups, "samples": details(outcomes)}


def deviation(values: list[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draw the figure of a stored result."""
    save(accuracy_over_seconds(result), file)


@house_style()
def accuracy_over_seconds(result: Mapping[str, Any]) -> Figure:
    """Figure of accuracy over seconds of training: a point for the end of each seed, and a thin line of its epochs."""
    samples = {name: runs for name, runs in result["samples"].items() if runs}
    heading = "CIFAR-10 from scratch: accuracy against seconds of training"
    environment = result.get("environment", {})
    machine = f"{environment.get('device_name', '')}, {environment.get('threads', '?')} threads"
    told = f"{machine}; the lines show each epoch, ours on validation, the peer's on test images"
    if not samples:
        return empty_figure(heading, told, "No run is finished yet.")
    figure = new_figure(9, 4.6, heading, told)
    axes = figure.subplots()
    for place, (name, runs) in enumerate(samples.items()):
        draw_runs(axes, name, runs, MUTED if place else OURS)
    ends = [sample["test_accuracy"] for runs in samples.values() for sample in runs]
    top = max(sample["test_accuracy_tta"] for runs in samples.values() for sample in runs)
    axes.set_ylim(100 * max(0.0, min(ends) - ROOM), 100 * min(1.0, top + 0.02))
    axes.set_xlim(0, 1.08 * max(sample["train_seconds"] for runs in samples.values() for sample in runs))
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("accuracy, %")
    axes.grid()
    axes.legend(loc="lower right", fontsize=9, labelcolor=MUTED)
    fit_below_header(figure)
    return figure


def draw_runs(axes: Axes, name: str, runs: list[Mapping[str, Any]], colour: str) -> None:
    """Draw one contender: lines for the epochs of each seed, dots for its end, rings for the end with six views."""
    for sample in runs:
        so_far = [epoch["train_seconds"] for epoch in sample["epochs"]]
        reached = [100 * epoch["accuracy"] for epoch in sample["epochs"]]
        axes.plot(so_far, reached, color=colour, alpha=0.35, linewidth=1)
    seconds = [sample["train_seconds"] for sample in runs]
    plain, viewed = ([100 * sample[key] for sample in runs] for key in ("test_accuracy", "test_accuracy_tta"))
    told = f"{name}, {statistics.fmean(seconds):.0f} s"
    axes.plot(seconds, plain, "o", color=colour, label=f"{told}: {statistics.fmean(plain):.2f} % of test images")
    axes.plot(
        seconds,
        viewed,
        "o",
        color=colour,
        mfc="none",
        label=f"with six views of each: {statistics.fmean(viewed):.2f} %",
    )
