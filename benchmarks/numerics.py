"""Compare the validation loss of the fast path with plain float32: ResNet-20, three epochs of CIFAR-10, same seeds.

Each round has one run per precision, each in its own process. `auto` is the default of a training on this machine:
bfloat16 with the kernels where they are supported. float32 uses torch's operations only. The validation losses after
the last epoch are compared.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, details, group, interleaved
from resnetlab.runs.folder import RunFolder

EPOCHS, SEEDS = 3, 3
# The recipe's schedule, with a small network and images at their full size.
TRAIN = ["train", "cifar10-resnet18", "--model.name", "resnet20", "--augment.sizes", "1"]
LIMIT = 2 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    folder, epochs = options.small_images(1000), 1 if options.quick else EPOCHS
    seeds = {precision: iter(range(SEEDS)) for precision in ("auto", "fp32")}
    outcomes = interleaved(
        {f"precision {name}": partial(trained, folder, epochs, name, seeds[name]) for name in seeds},
        min(options.rounds, SEEDS),
        options.say,
    )
    title = f"ResNet-20, {epochs} epoch{'s' * (epochs > 1)} of the recipe cifar10-resnet18"
    return {
        "groups": [
            group("numerics", title, "validation loss", outcomes, loss, more_is_better=False, compared=False),
            group("numerics", title, "% of validation", outcomes, accuracy, more_is_better=True, compared=False),
            group("numerics", title, "seconds of training", outcomes, seconds, more_is_better=False),
        ],
        "samples": details(outcomes),
        **difference(outcomes),
    }


def trained(folder: Path, epochs: int, precision: str, seeds: Any) -> Sample:
    seed = next(seeds)
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
        options = ["--data", str(folder), "--epochs", str(epochs), "--seed", str(seed), "--precision", precision]
        run([sys.executable, "-m", "resnetlab", *TRAIN, *options, "--out", f"{scratch}/run"], limit=LIMIT)
        found = RunFolder.open(Path(scratch, "run"))
        precision = found.read_json("environment.json")["precision"]
        rows = found.rows
    return {"seed": seed, "precision": precision, "epochs": [dict(row) for row in rows]}


def loss(sample: Sample) -> float:
    return float(sample["epochs"][-1]["val_loss"])


def accuracy(sample: Sample) -> float:
    return 100 * float(sample["epochs"][-1]["val_accuracy"])


def seconds(sample: Sample) -> float:
    return sum(float(row["train_seconds"]) for row in sample["epochs"])


def difference(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Difference of the two mean losses with its standard error (Welch)."""
    fast, plain = (outcome.values(loss) for outcome in outcomes.values())
    if min(len(fast), len(plain)) < 2:
        return {}
    apart = statistics.fmean(fast) - statistics.fmean(plain)
    error = math.sqrt(statistics.variance(fast) / len(fast) + statistics.variance(plain) / len(plain))
    return {
        "difference": apart,
        "standard_error": error,
        "notes": [
            f"The mean validation losses differ by {apart:+.4f}, which is {abs(apart) / error:.1f} standard errors "
            f"({error:.4f}) of that difference."
        ],
    }
