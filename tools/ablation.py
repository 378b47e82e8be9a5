"""docs/cifar10-fast.md, from the runs in results/ablation/: `python tools/ablation.py` (--check: fail if it is old).

The runs are made by `python tools/experiments.py ablation --data FOLDER`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

from experiments import EXPERIMENTS, SHORT

ROOT = Path(__file__).parents[1]
RUNS, PAGE = ROOT / "results" / "ablation", ROOT / "docs" / "cifar10-fast.md"
WHOLE = "cifar10-fast"

# What a run does differently, in words; the options beside them are those of its command.
INGREDIENTS = {
    "sgd": "SGD with Nesterov momentum in the place of Muon",
    "full-size": "no growing images: 32 px from the first epoch",
    "random-flip": "flips at random, not alternating",
    "no-crop": "no shifted images",
    "no-smoothing": "no label smoothing",
    "one-cycle": "one cycle in the place of a falling line",
    "cifar-stem": "a trained 3×3 stem in the place of whitened 3×3 patches",
    "small-batch": "batches of 128 at a third of the learning rate",
}


class Result(NamedTuple):
    """One run: accuracies in percent, and how it was trained."""

    validation: float
    test: float
    images: int  # of the test split
    validation_images: int
    seconds: float
    machine: str
    seed: int


def read(folder: Path) -> Result:
    scores = {split: json.loads((folder / f"evaluation/{split}/metrics.json").read_text()) for split in ("val", "test")}
    environment: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    header, *lines = (folder / "metrics.csv").read_text().split()
    column = header.split(",").index("train_seconds")
    return Result(
        validation=100 * scores["val"]["accuracy"],
        test=100 * scores["test"]["accuracy"],
        images=scores["test"]["images"],
        validation_images=scores["val"]["images"],
        seconds=sum(float(line.split(",")[column]) for line in lines),
        machine=f"{environment['device_name']}, {environment['threads']} threads, {environment['precision']}",
        seed=json.loads((folder / "config.json").read_text())["seed"],
    )


def page() -> str:
    whole = read(RUNS / WHOLE)
    others = {name: read(RUNS / name) for name in INGREDIENTS if (RUNS / name / "config.json").exists()}
    rows = [row("as it is", "", whole, None)]
    for name, result in sorted(others.items(), key=lambda item: item[1].test):
        changed = EXPERIMENTS[f"ablation/{name}"].removeprefix(SHORT).strip()
        rows.append(row(INGREDIENTS[name], f"`{changed}`", result, whole))
    machines = sorted({result.machine for result in (whole, *others.values())})
    # The standard error of the difference of two accuracies p, each on so many images of its own, times 1.96.
    share = whole.test / 100
    chance = 196 * math.sqrt(2 * share * (1 - share) / whole.images)
    return f"""# What each ingredient of cifar10-fast gives

<!-- written by `python tools/ablation.py` from results/ablation/; do not edit -->

`resnetlab train {SHORT}`,
and the same with one ingredient exchanged at a time: seed {whole.seed}, the JPEG copy of CIFAR-10, {whole.images:,}
test images that chose nothing. The recipe itself is longer, and gives half of its epochs to the smallest images, not a
third. Runs on {"; ".join(machines)}.

| ingredient exchanged | option | test, % | Δ | validation, % of {whole.validation_images:,} | training, s |
|---|---|---:|---:|---:|---:|
{"".join(rows)}
One run each. Were each scored on {whole.images:,} images of its own, two equally good recipes would differ by up to
{chance:.1f} points in 95 of 100 pairs; on the same images they differ less, but a difference of half a point tells
nothing by itself. Nothing was tuned again for an exchange, but for SGD's learning rate: with 0.4 it is 25 points worse.
Made by `python tools/experiments.py ablation --data FOLDER`.
"""


def row(what: str, option: str, result: Result, whole: Result | None) -> str:
    delta = "" if whole is None else f"{result.test - whole.test:+.2f}".replace("-", "−")
    return f"| {what} | {option} | {result.test:.2f} | {delta} | {result.validation:.2f} | {result.seconds:,.0f} |\n"


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv and (not PAGE.exists() or PAGE.read_text() != written):
        sys.exit("docs/cifar10-fast.md is not what results/ablation/ says; run: python tools/ablation.py")
    PAGE.write_text(written)
