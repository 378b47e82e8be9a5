"""What a run tells about itself: the lines on the console, and the records beside its results."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetlab.data.datasets import ImageData
from resnetlab.errors import printable
from resnetlab.models.resnet import ResNet
from resnetlab.runs.config import RunConfig
from resnetlab.runtime import Runtime
from resnetlab.training.loop import EpochReport

PACKAGES = ("resnetlab", "torch", "torchvision", "numpy", "scikit-learn", "pillow")
SPLITS = ("train", "val", "test")


def introduction(config: RunConfig, data: ImageData, network: ResNet, runtime: Runtime) -> list[str]:
    """What is about to happen, in a few lines."""
    see = data.preprocessing
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    counts = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS)
    length = f"{config.epochs} epochs" if config.epochs else f"{config.steps:,} steps"
    return [
        f"data     {data.name}: {counts}; {len(data.classes)} classes, "
        f"{see.image_size}x{see.image_size} px, {'grey' if see.channels == 1 else 'RGB'}",
        f"network  {network.name}, {network.architecture.stem} stem, {trained / 1e6:.2f} M trained parameters",
        f"training {config.recipe}: {length} of batch {config.batch_size}, {config.optim.name} at {config.optim.lr:g}, "
        f"{config.schedule.name} schedule, seed {config.seed}",
        f"machine  {runtime.describe()}",
    ]


def epoch_line(report: EpochReport, epochs: int, *, is_best: bool) -> str:
    """One epoch on one line. The training score is that of a fixed sample in evaluation mode."""
    width = len(str(epochs))
    left_out = f"  {report.left_out} steps left out so far" if report.left_out else ""
    return (
        f"epoch {report.epoch:{width}d}/{epochs}  "
        f"train loss {report.train.loss:.4f} accuracy {report.train.accuracy:7.2%}  "
        f"val loss {report.val.loss:.4f} accuracy {report.val.accuracy:7.2%}{' *' if is_best else '  '}  "
        f"lr {report.lr:.2e}  {report.images_per_second:,.0f} images/s  {report.train_seconds:.1f} s{left_out}"
    )


def score_line(scores: Mapping[str, Any]) -> str:
    """The headline numbers of a split."""
    f1, spread = scores["macro"]["f1"], scores.get("intervals", {}).get("accuracy")  # older files have none
    tta = scores.get("tta", "none")
    return (
        f"{scores['split']:<5} accuracy {scores['accuracy']:.2%}{between(spread)}, loss {scores['loss']:.4f}, "
        f"macro-F1 {'undefined' if f1 is None else f'{f1:.2%}'}, {scores['images']:,} images, best weights in fp32"
        f"{'' if tta == 'none' else f', test-time augmentation: {tta}'}"
    )


def between(spread: Sequence[float] | None) -> str:
    """A 95 % interval in brackets, nothing where there is none.

    >>> between([0.8193, 0.8404])
    ' (95% interval 81.93% to 84.04%)'
    """
    return "" if spread is None else f" (95% interval {spread[0]:.2%} to {spread[1]:.2%})"


def environment(runtime: Runtime) -> dict[str, Any]:
    """What a result depends on besides config and code, and the command that was given."""
    return {
        **runtime.facts(),
        "packages": {name: version(name) for name in PACKAGES},
        "command": command(),
        "started": now(),
    }


def command() -> list[str]:
    """The words that this program was started with."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def split_facts(data: ImageData, split_seed: int) -> dict[str, Any]:
    """Which images are in which split, by name."""
    splits = {name: getattr(data, name) for name in SPLITS}
    return {
        "data": data.name,
        "classes": list(data.classes),
        "split_seed": split_seed,
        "splits": {
            name: {"images": len(split), "digest": split.digest, "names": [printable(n) for n in split.names]}
            for name, split in splits.items()
        },
    }


def provenance(config: RunConfig, data: ImageData, report: EpochReport) -> dict[str, Any]:
    """Where a model's weights come from."""
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "data": data.name,
        "split_digests": {name: getattr(data, name).digest for name in SPLITS},
        "epoch": report.epoch,
        "step": report.step,
        "val": {"loss": report.val.loss, "accuracy": report.val.accuracy, "macro_f1": _number(report.val.macro_f1)},
        "averaged_weights": config.ema > 0,
        "versions": {name: version(name) for name in PACKAGES},
        "trained": now(),
    }


def version(package: str) -> str | None:
    """The installed version, without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now(precision: str = "seconds") -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=precision)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
