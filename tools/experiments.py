"""The long trainings behind the pages and notebooks, as commands: `python tools/experiments.py --data FOLDER [NAME …]`.

Each is a `resnetlab train` that can be stopped and restarted; its run folder is runs/NAME. The small files of a
finished run are copied to results/NAME, from which the pages and notebooks take their figures. Without names, the
experiments that results/ lacks are trained: repeat the command until none is left. The cheapest is trained first. A GPU
is used if there is one. `--list` shows the commands and stops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from results import RESULTS, SUMMARY, add

CLASSIC = "notebook-resnet34"
VARIED = f"{CLASSIC} --augment.crop 4 --augment.flip"
SCHEDULED = f"{VARIED} --schedule.name cosine"
SHORT = "cifar10-fast --epochs 6 --augment.sizes 0.75 0.875 1"
STOPPED = 6  # exit code of a run that was stopped and can be resumed

EXPERIMENTS = {
    # the accuracies of README.md
    "cifar10-fast": "cifar10-fast --seeds 5",
    "cifar10-resnet18": "cifar10-resnet18 --seeds 5",
    # the effect of each improvement of the tutorial: 10 epochs, Adam, 7x7 stem
    "notebook-resnet34": CLASSIC,
    "improvements/crop-flip": VARIED,
    "improvements/crop-flip-step": f"{VARIED} --schedule.name multistep",
    "improvements/crop-flip-cosine": SCHEDULED,
    "improvements/cifar-stem": f"{SCHEDULED} --stem cifar --epochs 2",
    "improvements/cifar-stem-10": f"{SCHEDULED} --stem cifar",
    # degradation on the paper's CIFAR nets: its Section 4.2, 20 and 40 epochs instead of 182
    "degradation/plain20": "paper-resnet20 --model plain20 --epochs 20",
    "degradation/resnet20": "paper-resnet20 --epochs 20",
    "degradation/plain56": "paper-resnet56 --model plain56 --epochs 20",
    "degradation/resnet56": "paper-resnet56 --epochs 20",
    "degradation/plain20-40": "paper-resnet20 --model plain20 --epochs 40",
    "degradation/resnet20-40": "paper-resnet20 --epochs 40",
    "degradation/plain56-40": "paper-resnet56 --model plain56 --epochs 40",
    "degradation/resnet56-40": "paper-resnet56 --epochs 40",
    # and on the ImageNet nets with their 7x7 stem; residual 34 is improvements/crop-flip-cosine
    "degradation/plain18": f"{SCHEDULED} --model plain18",
    "degradation/resnet18": f"{SCHEDULED} --model resnet18",
    "degradation/plain34": f"{SCHEDULED} --model plain34",
    # variations of degradation/resnet18, whose shortcuts are option B
    "shortcuts/A": f"{SCHEDULED} --model resnet18 --model.shortcut A",
    "shortcuts/C": f"{SCHEDULED} --model resnet18 --model.shortcut C",
    "shortcuts/zero-init": f"{SCHEDULED} --model resnet18 --model.zero-init",
    # a short cifar10-fast with one of its ingredients replaced: docs/cifar10-fast.md, written by tools/ablation.py
    "ablation/cifar10-fast": SHORT,
    "ablation/sgd": f"{SHORT} --optim.name sgd --lr 0.1 --optim.momentum 0.9 --optim.weight-decay 5e-4",
    "ablation/full-size": f"{SHORT} --augment.sizes 1",
    "ablation/random-flip": f"{SHORT} --augment.no-alternate",
    "ablation/no-crop": f"{SHORT} --augment.crop 0",
    "ablation/no-smoothing": f"{SHORT} --label-smoothing 0",
    "ablation/one-cycle": f"{SHORT} --schedule.name one_cycle",
    "ablation/cifar-stem": f"{SHORT} --stem cifar",
    "ablation/small-batch": f"{SHORT} --batch-size 128 --lr 0.065",
}


def seeds(name: str) -> int:
    """Number of runs of an experiment.

    >>> seeds("cifar10-fast"), seeds("shortcuts/A")
    (5, 1)
    """
    words = EXPERIMENTS[name].split()
    return int(words[words.index("--seeds") + 1]) if "--seeds" in words else 1


def is_stored(name: str) -> bool:
    """True if results/ has the finished runs of an experiment."""
    if seeds(name) == 1:
        return (RESULTS / name / "config.json").exists()
    file = RESULTS / name / SUMMARY
    return file.exists() and len(json.loads(file.read_text())["runs"]) >= seeds(name)


def missing() -> list[str]:
    return [name for name in EXPERIMENTS if not is_stored(name)]


def work(name: str) -> float:
    """Multiply-adds of an experiment's forward passes, which order the experiments by cost; 45,000 training images.

    >>> work("degradation/plain56-40") == 2 * work("degradation/plain56") > 4 * work("degradation/plain20")
    True
    """
    from resnetlab.cli.arguments import TrainArguments
    from resnetlab.cli.parsing import parse
    from resnetlab.models import summary

    config = parse(TrainArguments, EXPERIMENTS[name].split(), "train").run_config()
    model, sizes = config.model, config.augment.sizes or (1.0,)
    macs = sum(
        stage.macs / len(sizes)
        for size in sizes
        for stage in summary.describe(
            model.name, round(32 * size), num_classes=10, stem=model.stem, shortcut=model.shortcut
        )
    )
    assert config.epochs, "every experiment has its length in epochs"
    return seeds(name) * config.epochs * 45_000 * macs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="experiments, or the beginning of their names; default: those not in results/"
    )
    parser.add_argument("--data", default="cifar10", help="cifar10, or a folder of its images")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument(
        "--max-minutes", type=float, help="save a checkpoint and stop after this time, for all together"
    )
    parser.add_argument("--list", action="store_true", help="show the commands, in order, and stop")
    given = parser.parse_args()
    chosen = [name for name in EXPERIMENTS if name.startswith(tuple(given.names))] if given.names else missing()
    if given.names and not chosen:
        sys.exit(f"no experiment begins with {given.names[0]!r}; choose from {', '.join(EXPERIMENTS)}")
    deadline = None if given.max_minutes is None else time.monotonic() + 60 * given.max_minutes
    for name in sorted(chosen, key=work):
        words = ["train", *EXPERIMENTS[name].split(), "--data", given.data, "--out", str(given.runs / name)]
        print("resnetlab", *words, flush=True)
        if given.list:
            continue
        limit = [] if deadline is None else ["--max-minutes", f"{max(0.0, (deadline - time.monotonic()) / 60):.2f}"]
        done = subprocess.run([sys.executable, "-m", "resnetlab", *words, "--resume", "auto", *limit], check=False)
        if done.returncode:
            again = "; repeat the command to continue" if done.returncode == STOPPED else ""
            print(f"{name} is not finished{again}", file=sys.stderr)
            sys.exit(done.returncode)
        add(given.runs / name, name)


if __name__ == "__main__":
    main()
