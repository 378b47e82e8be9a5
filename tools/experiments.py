"""The long trainings behind notebooks and pages, as commands: `python tools/experiments.py --data FOLDER [NAME …]`.

Each is a `resnetlab train` that can be stopped and restarted. Its run folder is runs/NAME. The small files of a
finished run are copied to results/NAME, where the notebooks read them. `--list` shows the commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from results import add

CLASSIC = "notebook-resnet34"
VARIED = f"{CLASSIC} --augment.crop 4 --augment.flip"
SCHEDULED = f"{VARIED} --schedule.name cosine"
SHORT = "cifar10-fast --epochs 6 --augment.sizes 0.75 0.875 1"

EXPERIMENTS = {
    # the effect of each improvement of the tutorial: 10 epochs, Adam, 7x7 stem
    "notebook-resnet34": CLASSIC,
    "improvements/crop-flip": VARIED,
    "improvements/crop-flip-step": f"{VARIED} --schedule.name multistep",
    "improvements/crop-flip-cosine": SCHEDULED,
    "improvements/cifar-stem": f"{SCHEDULED} --stem cifar --epochs 2",
    # degradation on the paper's CIFAR nets: its Section 4.2, 20 epochs instead of 182
    "degradation/plain20": "paper-resnet20 --model plain20 --epochs 20",
    "degradation/resnet20": "paper-resnet20 --epochs 20",
    "degradation/plain56": "paper-resnet56 --model plain56 --epochs 20",
    "degradation/resnet56": "paper-resnet56 --epochs 20",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="experiments, or the beginning of their names; default: all")
    parser.add_argument("--data", default="cifar10", help="cifar10, or a folder of its images")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--list", action="store_true", help="show the commands and stop")
    given = parser.parse_args()
    chosen = [name for name in EXPERIMENTS if not given.names or name.startswith(tuple(given.names))]
    if not chosen:
        sys.exit(f"no experiment begins with {given.names[0]!r}; choose from {', '.join(EXPERIMENTS)}")
    for name in chosen:
        words = ["train", *EXPERIMENTS[name].split(), "--data", given.data, "--out", str(given.runs / name)]
        print("resnetlab", *words, flush=True)
        if not given.list:
            subprocess.run([sys.executable, "-m", "resnetlab", *words, "--resume", "auto"], check=True)
            add(given.runs / name, name)


if __name__ == "__main__":
    main()
