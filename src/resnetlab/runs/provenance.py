"""The origin of a result: machine, versions, command, images, epoch; recorded with runs and model files."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from resnetlab.data import SPLITS
from resnetlab.data.sources import is_named, published_side
from resnetlab.runs.config import DataConfig, RunConfig
from resnetlab.runs.differences import Difference

if TYPE_CHECKING:
    from resnetlab.data.datasets import ImageData
    from resnetlab.runtime import Runtime
    from resnetlab.training.loop import EpochReport

PACKAGES = ("resnetlab", "torch", "torchvision", "numpy", "scikit-learn", "pillow")


def session_record(runtime: Runtime, step: int = 0, changes: Iterable[Difference] = ()) -> dict[str, Any]:
    """A session of a run, for environment.json: machine, packages, command, time, its first step, changed settings."""
    return {
        **runtime.facts(),
        "packages": {name: version(name) for name in PACKAGES},
        "command": command(),
        "started": now(),
        "from_step": step,
        "changed": {change.path: [change.before, change.after] for change in changes},
    }


def command() -> list[str]:
    """The command line of this process."""
    program = Path(sys.argv[0])
    is_module = program.name == "__main__.py" and program.parent.name == "resnetlab"  # python -m resnetlab
    return ["resnetlab" if is_module else program.name, *sys.argv[1:]]


def split_record(data: ImageData, config: DataConfig) -> dict[str, Any]:
    """The images of each split, by name, with their labels and content digests, for split.json."""
    from resnetlab.data.stored import StoredSplits  # imports Pillow, which readers of metrics.json do not need

    fractions = {name: getattr(config, name) for name in ("split_seed", "val_fraction", "test_fraction")}
    return {"data": data.name, **fractions, **StoredSplits.of(data).to_json()}


def provenance(config: RunConfig, data: ImageData, report: EpochReport) -> dict[str, Any]:
    """The origin of a model's weights, for its file."""
    has_published_order = is_named(config.data.name) and published_side(config.data.name) is not None
    order = "published" if has_published_order else config.data.class_order
    return {
        "recipe": config.recipe,
        "settings": settings(config),
        "license": config.license,
        "seed": config.seed,
        "data": data.name,
        "class_order": order,
        "data_settings": config.data.model_dump(mode="json", exclude={"name", "root", "download"}),
        "split_digests": {name: getattr(data, name).digest for name in SPLITS},
        "contents_digests": {name: getattr(data, name).contents_digest for name in SPLITS},
        "epoch": report.epoch,
        "step": report.step,
        "val": {"loss": report.val.loss, "accuracy": report.val.accuracy, "macro_f1": finite(report.val.macro_f1)},
        "averaged_weights": config.ema > 0,
        "versions": {name: version(name) for name in PACKAGES},
        "trained": now(),
    }


def settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the result of a training, for its model file; a path of weights is reduced to its name.

    >>> settings(RunConfig(epochs=3))["optim"]["lr"]
    0.1
    """
    found = config.model_dump(mode="json", exclude={"recipe", "data", "checkpoint", "final_test", "track", "license"})
    if found["model"]["pretrained"] is not None:
        found["model"]["pretrained"] = PurePath(found["model"]["pretrained"]).name
    return found


def version(package: str) -> str | None:
    """The installed version, without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now(precision: str = "seconds") -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=precision)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
