"""Time the writing of a checkpoint and of the best model, in seconds and as a share of a CIFAR epoch of the same run.

ResNet-18 with the 3x3 stem, 10 classes, on synthetic 32x32 images, batch 128, in the precision that `auto` chooses,
once with SGD and momentum and once with Adam. An epoch is 45,000 images: 351 times the median timed step. Every round
writes the files that a run writes after its best epoch, model file and checkpoint, flushed to the disk of the system's
temporary folder.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.options import Options
from benchmarks.rounds import Outcome, group, seconds
from resnetlab.cli.process import keep_freed_memory
from resnetlab.data.loaders import Batch
from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import save_model
from resnetlab.models import build_model
from resnetlab.runtime import Runtime, start
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import Plan, TrainState, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

EPOCH = 45_000 // 128  # steps
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())  # noqa: SIM905
SEE = Preprocessing(image_size=32, resize_to=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
TITLE = "what is written after the best epoch, ResNet-18, {}"


def measure(options: Options) -> dict[str, Any]:
    keep_freed_memory()  # as `resnetlab train` does
    runtime = start()
    steps = options.steps or (2 if options.quick else 30)
    rounds = 3 * options.rounds  # a write takes a tenth of a second
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for name, title in (("sgd", "SGD with momentum"), ("adam", "Adam")):
        options.say(f"checkpoints of ResNet-18 with {title}")
        found = costs(name, steps, rounds, options.scratch, runtime)
        written = {"model file and checkpoint": "both", "model file": "model", "checkpoint": "checkpoint"}
        for unit, scale in (("ms", 1e-3), ("% of an epoch", found["epoch_seconds"] / 100)):
            outcomes = {
                text: Outcome([{"value": value / scale} for value in found[key]]) for text, key in written.items()
            }
            about: Any = {"more_is_better": False, "compared": False}
            result["groups"].append(
                group(name, TITLE.format(title), unit, outcomes, lambda sample: sample["value"], **about)
            )
        result["samples"][name] = found
    return result


def costs(optimizer: str, steps: int, rounds: int, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Seconds of every write and of an epoch."""
    model = runtime.place(build_model("resnet18", len(CLASSES), image_size=32))
    state = TrainState.begin(model.train(), make_optimizer(model, optimizer, lr=1e-3), runtime)
    plan = Plan(steps=10**6, schedule=Schedule("constant", 1e-3, 10**6, EPOCH), loss_fn=nn.CrossEntropyLoss())
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 32, 32, 3), generator=draw, dtype=torch.uint8).to(runtime.device)
    labels = torch.randint(0, len(CLASSES), (128,), generator=draw).to(runtime.device)
    batch = Batch(SEE.normalize(images), labels, torch.arange(128))
    for _ in range(3 if steps > 3 else 1):  # warm-up
        train_step(state, batch, plan, runtime)
    timed = [seconds(lambda: train_step(state, batch, plan, runtime), runtime) for _ in range(steps)]

    best, checkpoint = folder / f"{optimizer}.safetensors", folder / f"{optimizer}.ckpt"
    models, checkpoints = [], []
    for _ in range(rounds):
        models.append(seconds(lambda: save_model(best, model, CLASSES, SEE, {}), runtime))
        checkpoints.append(seconds(lambda: save_checkpoint(checkpoint, state, {}), runtime))
    return {
        "step_seconds": timed,
        "epoch_seconds": EPOCH * statistics.median(timed),
        "model": models,
        "model_bytes": best.stat().st_size,
        "checkpoint": checkpoints,
        "checkpoint_bytes": checkpoint.stat().st_size,
        "both": [a + b for a, b in zip(models, checkpoints, strict=True)],
    }
