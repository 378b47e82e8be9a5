"""Compare `resnetlab train notebook-resnet34` with the plain script, as complete processes from start to exit.

Both train a ResNet-34 with the 7x7 stem on the images in FOLDER/train, batch 128, Adam, and validate after each of two
epochs. Our time includes reading the folder, scoring the fixed training sample, checkpoints, and the final scores,
tables and figures of validation and test in fp32.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.options import Options
from benchmarks.rounds import Sample, details, group, interleaved

SCRIPT = Path(__file__).parent / "plain_script.py"
EPOCHS = 2
LIMIT = 4 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    folder, epochs = options.small_images(256), 1 if options.quick else EPOCHS
    contenders = {"resnetlab": partial(ours, folder, epochs), "plain script": partial(script, folder, epochs)}
    outcomes = interleaved(contenders, options.rounds, options.say)
    title = f"notebook-resnet34, {epochs} epoch{'s' * (epochs > 1)}, from start to exit"
    first, second = (outcome.values(seconds) for outcome in outcomes.values())
    return {
        "groups": [
            group("notebook", title, "seconds", outcomes, seconds, more_is_better=False),
            group("notebook", title, "GB at the peak", outcomes, gigabytes, more_is_better=False),
        ],
        "samples": details(outcomes),
        "epochs": epochs,
        "resnetlab_seconds": first,
        "plain_script_seconds": second,
        "ratio": statistics.median(first) / statistics.median(second) if first and second else None,
    }


def seconds(sample: Sample) -> float:
    return float(sample["seconds"])


def gigabytes(sample: Sample) -> float | None:
    return None if sample["peak_bytes"] is None else float(sample["peak_bytes"] / 1e9)


def whole(command: list[str]) -> Sample:
    done = run(command, limit=LIMIT)
    return {"seconds": done.seconds, "peak_bytes": done.memory.peak()}


def script(folder: Path, epochs: int) -> Sample:
    return whole([sys.executable, str(SCRIPT), str(folder), "--epochs", str(epochs)])


def ours(folder: Path, epochs: int) -> Sample:
    with tempfile.TemporaryDirectory() as scratch:
        train = [sys.executable, "-m", "resnetlab", "train", "notebook-resnet34", "--data", str(folder)]
        return whole([*train, "--epochs", str(epochs), "--out", f"{scratch}/run"])
