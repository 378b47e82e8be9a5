"""Transfer-learning baseline: one network trained from scratch, on frozen ImageNet weights, and fine-tuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnetlab.data.classes import ClassChoice
from resnetlab.data.datasets import preprocessing_for
from resnetlab.data.folder import scan
from resnetlab.data.sources import is_named, published_side
from resnetlab.errors import BadInput, Stopped, printable
from resnetlab.evaluation.comparison import Comparison
from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained
from resnetlab.runs import recipes
from resnetlab.runs.build import open_data, resolved
from resnetlab.runs.compare import compare
from resnetlab.runs.config import HARMLESS, DataConfig, RunConfig
from resnetlab.runs.differences import differences
from resnetlab.runs.experiment import train
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import RunLog
from resnetlab.runs.messages import length_line
from resnetlab.runs.probes import settled
from resnetlab.runs.resume import resume
from resnetlab.runs.session import OnEvent
from resnetlab.runs.stop import StopRequest

EPOCHS = 10  # unless a length is given
LEAST_SIZE = 64
CHECKPOINT_MINUTES = 5.0  # on a CPU an epoch may take an hour, which a power cut must not cost


class Part(NamedTuple):
    """One of the three runs: the recipe it starts from, and the settings that differ from the recipe."""

    description: str
    recipe: str
    own: dict[str, Any]


PARTS = {
    "scratch": Part("new weights, every layer trained", "folder", {}),
    # Training the head alone cannot harm the layers below it: ten times the fine-tuning rate, and no weight decay.
    "frozen": Part("given weights, only the head trained", "finetune", {"optim": {"lr": 3e-3, "weight_decay": 0.0}}),
    "finetuned": Part("given weights, every layer trained", "finetune", {}),
}


def baseline(
    settings: Mapping[str, Any],
    weights: str = "torchvision",
    out: Path | str | None = None,
    *,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Comparison, Path]:
    """Train and score the three parts, each a run in `out` (default: `runs/baseline-<data>`), and compare them on the
    test split. Returns the comparison and the folder that contains the runs.

    `settings` are shared by all parts, as for `RunConfig.changed`: data, model, augmentation, length, batch size, seed.
    A repeated call skips finished parts and resumes an unfinished one. Every part is scored once on the test split,
    which is recorded in the access log in `out`. The time limit is for all parts together.

    Raises BadInput, before training, if settings, data or weights cannot be used or `out` was begun with other
    settings; Stopped if a part was asked to stop.
    """
    stop, log = StopRequest.within(max_minutes, stop), RunLog()
    parts = configs(settings, weights)
    shared = parts["scratch"]
    folder = Path(out) if out is not None else Path("runs") / f"baseline-{Path(shared.data.name).name}"
    left = unfinished(parts, folder)
    if any(parts[name].model.pretrained for name in left):
        require_weights(shared.model.name, weights)
        log.info(f"weights  {weights}: available, and fit {shared.model.name}")
    for number, (name, config) in enumerate(parts.items(), 1):
        log.info(f"part {number} of {len(parts)}: {name} ({PARTS[name].description})")
        if name not in left:
            log.info(f"already finished: {folder / name}")
            continue
        try:
            train_or_resume(config, folder / name, stop, on_event)
        except Stopped as error:
            raise Stopped(f"{error}; or repeat the command, which also trains the remaining parts") from None
    comparison = compare([folder / name for name in parts], "test")
    return dataclasses.replace(comparison, notes=(*descriptions(parts, weights), *comparison.notes)), folder


def configs(settings: Mapping[str, Any], weights: str) -> dict[str, RunConfig]:
    """The configs of the parts by name: their own optimisers, and everything else the same.

    The stem is ImageNet's, because the weights need it. The image size is that of the data, but at least 64 px. The
    recipe `finetune` uses 224, the size that the weights were trained at, but small images gain no detail there and
    cost 12 times as much as at 64. At 32 px the maps of the last stage would be a single pixel.
    """
    is_path = weights != "torchvision" and "://" not in weights
    source = str(Path(weights).resolve()) if is_path else weights  # a run is resumed from anywhere
    pretrained: dict[str, dict[str, Any]] = {
        "scratch": {"pretrained": None, "freeze": False},
        "frozen": {"pretrained": source, "freeze": True},
        "finetuned": {"pretrained": source, "freeze": False},
    }
    found = {}
    size = None
    for name, part in PARTS.items():
        usual = {
            "epochs": EPOCHS,
            "checkpoint": {"every_minutes": CHECKPOINT_MINUTES},
            "model": {"name": "resnet34"},
            "augment": {"policy": "none"},  # all parts have the same: no probes for one of them
        }
        base = recipes.get(part.recipe).changed(usual)
        config = base.changed(settings).changed({"model": {"stem": "imagenet", **pretrained[name]}, **part.own})
        size = size or image_size(config.data)
        found[name] = resolved(config.changed({"data": {"image_size": size}}))
    return found


def image_size(data: DataConfig) -> int:
    """The image size of the networks in pixels: as given, or chosen by the data and the stem.

    Reads only names and headers. Raises BadInput if the data does not exist.

    >>> image_size(DataConfig(name="cifar10"))
    64
    """
    if is_named(data.name):
        if (side := published_side(data.name)) is not None:
            return data.image_size or max(LEAST_SIZE, side)
    elif not Path(data.name).exists():
        open_data(data)  # raises BadInput
    choice = ClassChoice(data.classes, data.merge, data.class_order)
    listing = scan(data.name, choice, root=data.root, may_download=data.download)
    preprocessing, _ = preprocessing_for(listing, data.image_size, data.fit, data.channels)
    return preprocessing.image_size if data.image_size else max(LEAST_SIZE, preprocessing.image_size)


def unfinished(parts: Mapping[str, RunConfig], folder: Path) -> list[str]:
    """The parts that are not trained or not scored yet. Raises BadInput if one was begun with other settings."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{printable(folder)} is a file; `out` must be a folder")
    left = []
    for name, config in parts.items():
        path = folder / name
        if not (path / "config.json").exists():
            RunFolder.require_free(path)
            left.append(name)
            continue
        run = RunFolder.open(path)
        wanted = settled(config, run.config)
        changed = [difference for difference in differences(run.config, wanted) if difference.path not in HARMLESS]
        if changed:
            change = "; ".join(map(str, changed))
            raise BadInput(f"{printable(path)} was begun with other settings ({printable(change)}); give another `out`")
        if not run.is_scored:
            left.append(name)
    return left


def require_weights(model: str, weights: str) -> None:
    """Download the weights if needed; raise BadInput unless they fit. This runs before hours of training."""
    try:
        load_pretrained(build_model(model, 1000, stem="imagenet"), weights)
    except BadInput as error:
        raise BadInput(
            f"there is no baseline without weights (`weights` may be a file with those of {model}): {error}"
        ) from error


def train_or_resume(config: RunConfig, path: Path, stop: StopRequest, on_event: OnEvent | None) -> None:
    """Train one part to its end; resume it if it has been begun."""
    if (path / "config.json").exists():
        resume(path, changes=config.to_json(), stop=stop, on_event=on_event)
    else:
        train(config, path, stop=stop, on_event=on_event)


def descriptions(parts: Mapping[str, RunConfig], weights: str) -> Iterator[str]:
    """A line with the settings that all parts share, and a line with those of each part."""
    one = parts["scratch"]
    side = one.data.image_size
    yield (
        f"all: {one.model.name}, {length_line(one)} of batch {one.batch_size}, {side}x{side} px, {one.data.normalize} "
        f"normalisation, split seed {one.data.split_seed}, seed {one.seed}; weights: {weights}"
    )
    for name, config in parts.items():
        optim = f"{config.optim.name} at {config.optim.lr:g}, weight decay {config.optim.weight_decay:g}"
        yield f"{name}: {PARTS[name].description}; {optim}, {config.schedule.name} schedule"
