"""Write docs/cifar10-fast.md from the runs in results/ablation/: `python tools/ablation.py` (--check: fail if stale).

`python tools/experiments.py ablation --data FOLDER` makes the runs.
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

# The change of each run, in words; the page also shows the options of its command.
INGREDIENTS = {
    "sgd": "SGD with Nesterov momentum instead of Muon",
    "full-size": "no progressive resizing: 32 px from the first epoch",
    "random-flip": "random instead of alternating flips",
    "no-crop": "no random shifts (crop)",
    "no-smoothing": "no label smoothing",
    "one-cycle": "one-cycle instead of linear schedule",
    "cifar-stem": "trained 3×3 stem instead of a whitened one",
    "small-batch": "batches of 128, a third of the learning rate",
}


class Result(NamedTuple):
    """Result of one run: accuracies in percent, training time, machine and seed."""

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
    rows = [row("unchanged", "", whole, None)]
    for name, result in sorted(others.items(), key=lambda item: item[1].test):
        changed = EXPERIMENTS[f"ablation/{name}"].removeprefix(SHORT).strip()
        rows.append(row(INGREDIENTS[name], f"`{changed}`", result, whole))
    machines = sorted({result.machine for result in (whole, *others.values())})
    # 1.96 standard errors of the difference of two accuracies, each on its own set of this many images.
    share = whole.test / 100
    chance = 196 * math.sqrt(2 * share * (1 - share) / whole.images)
    return f"""# The effect of each ingredient of cifar10-fast

<!-- written by `python tools/ablation.py` from results/ablation/; do not edit -->

The table compares `resnetlab train {SHORT}`
with runs in which one ingredient is replaced: seed {whole.seed}, the JPEG copy of CIFAR-10, {whole.images:,} test
images, which choose nothing. The recipe itself is longer and uses half of its epochs for the smallest images, not a
third. Machine: {"; ".join(machines)}.

| ingredient replaced | option | test, % | Δ | validation, % of {whole.validation_images:,} | training, s |
|---|---|---:|---:|---:|---:|
{"".join(rows)}
Each row is one run. On two different sets of {whole.images:,} images, two equally good recipes would differ by up to
{chance:.1f} points in 95 of 100 pairs. On the same images they differ less, but a difference of half a point is not
significant by itself. No setting was tuned again after a replacement, except SGD's learning rate: with 0.4 it is 25
points worse. Reproduce it with `python tools/experiments.py ablation --data FOLDER`.
"""


def row(what: str, option: str, result: Result, whole: Result | None) -> str:
    delta = "" if whole is None else f"{result.test - whole.test:+.2f}".replace("-", "−")
    return f"| {what} | {option} | {result.test:.2f} | {delta} | {result.validation:.2f} | {result.seconds:,.0f} |\n"


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv and (not PAGE.exists() or PAGE.read_text() != written):
        sys.exit("docs/cifar10-fast.md is out of date; run: python tools/ablation.py")
    PAGE.write_text(written)
