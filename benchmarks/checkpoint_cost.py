"""What a checkpoint and the best model cost, in seconds and as a share of a CIFAR epoch timed in the same run.

    python benchmarks/checkpoint_cost.py [--steps 30] [--rounds 15] [--out FOLDER]

ResNet-18 with the 3x3 stem, 10 classes, on synthetic 32x32 images, batch 128, in the precision that `auto` chooses,
once with SGD and momentum and once with Adam. An epoch is 45,000 images: 351 steps of what the timed steps took, median
each. Every round writes what a run writes when an epoch was its best, model file and checkpoint, flushed to the disk
under --out (default: the system's folder for temporary files). Printed and kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnetlab.data.loaders import Batch
from resnetlab.data.preprocess import Preprocessing
from resnetlab.facts import environment
from resnetlab.model_file import save_model
from resnetlab.models import build_model
from resnetlab.runtime import Runtime, start
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import Plan, TrainState, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

HERE = Path(__file__).parent
EPOCH = 45_000 // 128  # steps
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())  # noqa: SIM905
SEE = Preprocessing(image_size=32, resize_to=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def seconds(work: Callable[[], object], runtime: Runtime) -> float:
    """How long `work` takes, its share of the device included."""
    runtime.synchronize()
    began = time.perf_counter()
    work()
    runtime.synchronize()
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the quarter and three quarter points."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartile_1": low, "quartile_3": high, "longest": max(values)}


def measure(optimizer: str, steps: int, rounds: int, folder: Path, runtime: Runtime) -> dict[str, Any]:
    model = runtime.place(build_model("resnet18", len(CLASSES), image_size=32))
    state = TrainState.begin(model.train(), make_optimizer(model, optimizer, lr=1e-3), runtime)
    plan = Plan(steps=10**6, schedule=Schedule("constant", 1e-3, 10**6, EPOCH), loss_fn=nn.CrossEntropyLoss())
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 32, 32, 3), generator=draw, dtype=torch.uint8).to(runtime.device)
    labels = torch.randint(0, len(CLASSES), (128,), generator=draw).to(runtime.device)
    batch = Batch(SEE.normalize(images), labels, torch.arange(128))
    for _ in range(3):  # warm-up
        train_step(state, batch, plan, runtime)
    timed = [seconds(lambda: train_step(state, batch, plan, runtime), runtime) for _ in range(steps)]

    best, checkpoint = folder / f"{optimizer}.safetensors", folder / f"{optimizer}.ckpt"
    models, checkpoints = [], []
    for _ in range(rounds):
        models.append(seconds(lambda: save_model(best, model, CLASSES, SEE, {}), runtime))
        checkpoints.append(seconds(lambda: save_checkpoint(checkpoint, state, {}), runtime))
    epoch = EPOCH * statistics.median(timed)
    both = statistics.median(a + b for a, b in zip(models, checkpoints, strict=True))
    return {
        "step_seconds": spread(timed),
        "epoch_seconds": epoch,
        "best_model_seconds": spread(models),
        "best_model_bytes": best.stat().st_size,
        "checkpoint_seconds": spread(checkpoints),
        "checkpoint_bytes": checkpoint.stat().st_size,
        "share_of_an_epoch": both / epoch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="training steps that are timed")
    parser.add_argument("--rounds", type=int, default=15, help="times that both files are written")
    parser.add_argument("--out", type=Path, default=None, help="where they are written")
    parser.add_argument("--dry", action="store_true", help="keep no result")
    options = parser.parse_args()
    if min(options.steps, options.rounds) < 2:
        parser.error("a spread needs at least 2 steps and 2 rounds")
    runtime = start()
    report: dict[str, Any] = {"steps": options.steps, "rounds": options.rounds}
    for optimizer in ("sgd", "adam"):
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            report[optimizer] = measure(optimizer, options.steps, options.rounds, Path(folder), runtime)
    report["environment"] = environment(runtime)
    text = json.dumps(report, indent=2)
    if not options.dry:
        kept = HERE / "results" / "checkpoint_cost.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
