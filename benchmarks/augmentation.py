"""Time each augmentation of a batch, as a share of a ResNet-18 training step on the same batch.

The network has the 3x3 stem for 128 images of 32 px, and the 7x7 stem for 32 images of 224 px. The time of an
augmentation is that of drawing its random numbers and of changing the images, in the process that trains. Every round
times a step and then each augmentation several times, of which the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.options import Options
from benchmarks.rounds import Outcome, Sample, group, seconds
from resnetlab.cli.process import tune
from resnetlab.data.loaders import Batch
from resnetlab.data.preprocess import for_size
from resnetlab.data.random import RandomTables
from resnetlab.models import build_model
from resnetlab.runs.build import make_augmentations, make_mixing
from resnetlab.runs.config import AugmentConfig
from resnetlab.runtime import Runtime, start
from resnetlab.training.loop import Plan, TrainState, train_step
from resnetlab.training.optim import make_optimizer
from resnetlab.training.schedule import Schedule

CLASSES = 10
SIZES = {32: (128, "3×3"), 224: (32, "7×7")}  # side in pixels: images in a batch, stem of the network
TITLE = "{} images of {} px, beside a step of ResNet-18 with the {} stem"
AUGMENTATIONS = {
    "RandAugment, 2 operations": AugmentConfig(policy="rand"),
    "TrivialAugment": AugmentConfig(policy="trivial"),
    "colour jitter": AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "brightness and contrast": AugmentConfig(brightness=0.4, contrast=0.4),
    "random erasing": AugmentConfig(erasing=0.25),
    "rotation": AugmentConfig(rotation=15),
    "MixUp": AugmentConfig(mixup=0.2),
    "CutMix": AugmentConfig(cutmix=1),
}


def measure(options: Options) -> dict[str, Any]:
    tune()
    runtime = start()
    repeats = options.steps or (1 if options.quick else 9)
    result: dict[str, Any] = {"groups": [], "samples": {}}
    for size, (count, stem) in SIZES.items():
        batch = 4 if options.quick else count
        title = TITLE.format(batch, size, stem)
        options.say(title)
        work = {"step": training_step(size, batch, runtime), **augmentations(size, batch, runtime)}
        for action in work.values():  # warm-up
            for _ in range(1 if options.quick else 3):
                action()
        rounds = [times(work, repeats, runtime) for _ in range(options.rounds)]
        for unit, scale in (("% of a step", 1e-2), ("ms", 1e-3)):
            outcomes = {
                name: Outcome([{"value": one[name] / (scale * (one["step"] if unit != "ms" else 1))} for one in rounds])
                for name in work
                if name != "step" or unit == "ms"
            }
            result["groups"].append(
                group(f"{size} px", title, unit, outcomes, value, more_is_better=False, compared=False)
            )
        result["samples"][f"{size} px"] = rounds
    return result


def value(sample: Sample) -> float:
    return float(sample["value"])


def times(work: Mapping[str, Callable[[], object]], repeats: int, runtime: Runtime) -> dict[str, float]:
    """Seconds of each action: the median of its repetitions, one of all actions after the other."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(repeats):
        for name, action in work.items():
            if name != "step" or number % 3 == 0:  # which takes long
                found[name].append(seconds(action, runtime))
    return {name: statistics.median(values) for name, values in found.items()}


def training_step(size: int, batch: int, runtime: Runtime) -> Callable[[], object]:
    """A step on one batch, which is on the device."""
    see = for_size(size, 3, "crop")
    model = runtime.place(build_model("resnet18", CLASSES, image_size=size), training=True)
    state = TrainState.begin(model.train(), make_optimizer(model, "sgd", lr=1e-3), runtime)
    plan = Plan(steps=10**6, schedule=Schedule("constant", 1e-3, 10**6, 100), loss_fn=nn.CrossEntropyLoss())
    labels = torch.arange(batch, device=runtime.device) % CLASSES
    images = Batch(see.normalize(noise(batch, size, runtime)), labels, torch.arange(batch))
    return lambda: train_step(state, images, plan, runtime)


def augmentations(size: int, batch: int, runtime: Runtime) -> dict[str, Callable[[], object]]:
    """Each augmentation of one batch."""
    return {name: augmented(config, size, batch, runtime) for name, config in AUGMENTATIONS.items()}


def augmented(config: AugmentConfig, size: int, batch: int, runtime: Runtime) -> Callable[[], object]:
    """Draw the random numbers of a batch and change its images, as `TrainBatches` does."""
    images = noise(batch + 1, size, runtime)
    normalized = for_size(size, 3, "crop").normalize(images)
    labels = torch.arange(batch + 1, device=runtime.device) % CLASSES
    steps, mixing = make_augmentations(config, size), make_mixing(config, CLASSES)
    epoch = iter(range(10**9))

    def change() -> None:
        tables, changed = RandomTables(0, next(epoch), batch), images[:batch]
        for step in steps:
            numbers = tables.uniform(step.purpose, step.columns)
            changed = step.apply(changed, numbers if step.on_cpu else numbers.to(runtime.device))
        if mixing is not None:
            mixing.apply(normalized, labels, mixing.draw(tables).to(runtime.device))

    return change


def noise(batch: int, size: int, runtime: Runtime) -> torch.Tensor:
    """Random images, uint8 (batch, size, size, 3)."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, size, size, 3), generator=draw, dtype=torch.uint8).to(runtime.device)
