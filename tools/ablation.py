"""Write docs/cifar10-fast.md from the runs in results/ablation/: `python tools/ablation.py` (--check: fail if stale).

`python tools/experiments.py ablation --data FOLDER` makes the runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments import EXPERIMENTS, SHORT

ROOT = Path(__file__).parents[1]
RUNS, PAGE = ROOT / "results" / "ablation", ROOT / "docs" / "cifar10-fast.md"
WHOLE = "cifar10-fast"

# The ingredient that each run replaces, and its change in words; the page also shows the options of its command.
INGREDIENTS = {
    "sgd": ("Muon", "SGD with Nesterov momentum instead of Muon"),
    "full-size": ("progressive resizing", "no progressive resizing: 32 px from the first epoch"),
    "random-flip": ("alternating flips", "random instead of alternating flips"),
    "no-crop": ("random shifts", "no random shifts (crop)"),
    "no-smoothing": ("label smoothing", "no label smoothing"),
    "one-cycle": ("the linear schedule", "one-cycle instead of linear schedule"),
    "cifar-stem": ("the whitened stem", "trained 3×3 stem instead of a whitened one"),
    "small-batch": ("large batches", "batches of 128, a third of the learning rate"),
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


def stored() -> tuple[Result, dict[str, Result]]:
    """The unchanged run, and those with one ingredient replaced, from the lowest test accuracy up."""
    others = {name: read(RUNS / name) for name in INGREDIENTS if (RUNS / name / "config.json").exists()}
    return read(RUNS / WHOLE), dict(sorted(others.items(), key=lambda item: item[1].test))


def noise(whole: Result) -> float:
    """Points by which two equally good recipes differ at most in 95 of 100 pairs, each on its own set of test images:
    1.96 standard errors of the difference of two proportions."""
    share = whole.test / 100
    return 196 * math.sqrt(2 * share * (1 - share) / whole.images)


def finding(whole: Result, others: Mapping[str, Result]) -> str:
    """The ingredients whose replacement changes the test accuracy by more than the noise.

    >>> whole = Result(90.0, 90.0, 5000, 1000, 60.0, "a machine", 0)
    >>> worse, equal = whole._replace(test=80.0), whole._replace(test=90.4)
    >>> finding(whole, {"sgd": worse, "no-crop": equal})
    "only Muon's effect exceeds the noise"
    >>> finding(whole, {"sgd": worse, "no-crop": worse, "one-cycle": equal})
    'only the effects of Muon and random shifts exceed the noise'
    >>> finding(whole, {"no-crop": equal})
    'no effect exceeds the noise'
    """
    large = [INGREDIENTS[name][0] for name, one in others.items() if abs(one.test - whole.test) > noise(whole)]
    if not large:
        return "no effect exceeds the noise"
    if len(large) == 1:
        return f"only {large[0]}'s effect exceeds the noise"
    return f"only the effects of {', '.join(large[:-1])} and {large[-1]} exceed the noise"


def page() -> str:
    whole, others = stored()
    rows = [row("unchanged", "", whole, None)]
    for name, result in others.items():
        changed = EXPERIMENTS[f"ablation/{name}"].removeprefix(SHORT).strip()
        rows.append(row(INGREDIENTS[name][1], f"`{changed}`", result, whole))
    machines = sorted({result.machine for result in (whole, *others.values())})
    found = finding(whole, others)
    return f"""# Ingredients of cifar10-fast: {found}

<!-- written by `python tools/ablation.py` from results/ablation/; do not edit -->

Each of {len(others)} ingredients was replaced once, and {found}, {noise(whole):.1f} points. Two equally
good networks differ by less than that in 95 of 100 pairs, each on its own {whole.images:,} test images. On the same
images they differ less, but another seed makes a difference of its own, which was not measured: each row is one
run with one seed.

The table compares `resnetlab train {SHORT}` with the runs
in which one ingredient is replaced: seed {whole.seed}, the JPEG copy of CIFAR-10, {whole.images:,} test images, which
choose nothing. The recipe itself is longer and uses half of its epochs for the smallest images, not a third. Machine:
{"; ".join(machines)}.

| ingredient replaced | option | test, % | Δ | validation, % of {whole.validation_images:,} | training, s |
|---|---|---:|---:|---:|---:|
{"".join(rows)}
No setting was tuned again after a replacement, except SGD's learning rate. Reproduce the table with
`python tools/experiments.py ablation --data FOLDER`.
"""


def row(what: str, option: str, result: Result, whole: Result | None) -> str:
    delta = "" if whole is None else f"{result.test - whole.test:+.2f}".replace("-", "−")
    return f"| {what} | {option} | {result.test:.2f} | {delta} | {result.validation:.2f} | {result.seconds:,.0f} |\n"


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv and (not PAGE.exists() or PAGE.read_text() != written):
        sys.exit("docs/cifar10-fast.md is out of date; run: python tools/ablation.py")
    PAGE.write_text(written)
