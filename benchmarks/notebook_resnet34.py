"""`resnetlab train notebook-resnet34` beside the plain script, whole processes, one after the other in one run.

    python benchmarks/notebook_resnet34.py FOLDER [--epochs 2] [--rounds 1]

Both train a ResNet-34 with the 7x7 stem on the images in FOLDER/train (45,000 of CIFAR-10's), batch 128, Adam, and
validate after each epoch. Ours is timed with everything it does besides: reading the folder, scoring the fixed
training sample, checkpoints, and the final scores, tables and pictures of validation and test in fp32. The result is
printed and kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resnetlab.facts import environment
from resnetlab.runtime import start

HERE = Path(__file__).parent


def seconds(command: list[str]) -> float:
    """How long a process takes, from start to exit."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    epochs = ["--epochs", str(options.epochs)]
    script, ours = [], []
    for _ in range(options.rounds):
        script.append(seconds([sys.executable, str(HERE / "plain_script.py"), str(options.folder), *epochs]))
        with tempfile.TemporaryDirectory() as scratch:
            train = [sys.executable, "-m", "resnetlab", "train", "notebook-resnet34", "--data", str(options.folder)]
            ours.append(seconds([*train, *epochs, "--out", f"{scratch}/run"]))
    report = {
        "epochs": options.epochs,
        "plain_script_seconds": script,
        "resnetlab_seconds": ours,
        "ratio": statistics.median(ours) / statistics.median(script),
        "environment": environment(start()),
    }
    kept = HERE / "results" / "notebook_resnet34.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
