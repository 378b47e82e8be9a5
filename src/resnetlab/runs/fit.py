"""`fit` trains any network that maps images to logits, with the loop, settings and checkpoints of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from resnetlab.data.datasets import ImageData
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import WEIGHTS_FORMAT
from resnetlab.runs.arguments import require_arguments
from resnetlab.runs.build import Training, begin_state, make_plan
from resnetlab.runs.config import HARMLESS, OptimConfig, RunConfig
from resnetlab.runs.data_notes import notes_on_dropped
from resnetlab.runs.differences import differences
from resnetlab.runs.effects import alone, chosen, long_warm_up, without_effect
from resnetlab.runs.fit_data import (
    Images,
    Source,
    batches_of,
    contiguous,
    in_default_layout,
    open_source,
    with_classes,
)
from resnetlab.runs.fit_network import (
    as_given,
    number_of_classes,
    prefers_channels_last,
    require_trainable,
    whiten_stem,
)
from resnetlab.runs.folder import RunFolder, is_beginning
from resnetlab.runs.history import History, Row
from resnetlab.runs.log import RunLog
from resnetlab.runs.messages import fit_introduction
from resnetlab.runs.resume import inexact, load_newest
from resnetlab.runs.session import OnEvent, Session
from resnetlab.runs.stop import StopRequest
from resnetlab.runs.writer import CheckpointWriter, MemoryWriter
from resnetlab.runtime import isolated, start
from resnetlab.training import loop
from resnetlab.training.loop import EpochReport, own_generators
from resnetlab.training.optim import MUON_DECAY
from resnetlab.training.selection import best_epoch

SETTINGS, BEST = "fit.json", "best.safetensors"
UNUSED = (
    "recipe",
    "data",
    "model",
    "final_test",
    "track",
    "license",
)  # settings of a run that have no meaning here


@dataclass(frozen=True)
class Fitted:
    """The result of `fit`. `model` has the weights of the last step."""

    model: nn.Module
    history: tuple[Row, ...]  # a record for each epoch, as in metrics.jsonl
    best_epoch: int  # from 1
    best_weights: Mapping[str, Tensor]  # of the best epoch, for `model.load_state_dict`; averaged if `ema` is on


@isolated(gradients=True)
def fit(
    model: nn.Module,
    train: Source | ImageData,
    val: Source | None = None,
    config: RunConfig | None = None,
    *,
    folder: Path | str | None = None,
    resume: Literal["auto"] | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Fitted:
    """Train any network that maps images (N, C, H, W) to logits (N, classes), in place.

    `train` and `val` are each one of

    - a pair (images, labels): tensors (N, C, H, W), or arrays (N, H, W, C) or (N, H, W), and N class numbers. uint8
      images are normalised with mean and standard deviation of the training images; floating-point images are used as
      they are;
    - a `Split` of a data set, uint8;
    - a map-style torch `Dataset` of (image, label), read item by item while training. Its random transforms get a seed
      for each epoch and item, so that a resumed training equals an uninterrupted one.

    Instead of both, `train` may be an `ImageData` from `open_dataset`.

    The weights keep their layout. `model.to(memory_format=torch.channels_last)`, before, is often faster, and in
    bfloat16 on the CPU lets `accelerate`'s kernels compute; a network that calls `view` on its maps cannot use it.
    Networks of resnetlab and torchvision need no such call.

    The filters of a new `fast_resnet8`, which are not trained, are computed from training images, as `train` does.

    Dropout and other layers that draw from torch's generators get a seed for each step, from `seed`; the caller's
    generators stay as they are.

    `settings` override those of `config` and are named as in `RunConfig`: epochs or steps, batch_size, optim, schedule,
    augment, label_smoothing, clip_norm, accumulate, ema, best_by, patience, on_nonfinite, seed, device, precision,
    deterministic, checkpoint. `lr=0.1` is short for `optim={"lr": 0.1}`, `optim="adamw"` for `optim={"name": "adamw"}`,
    and `schedule="cosine"` for `schedule={"name": "cosine"}`.

    With a `folder`, new or empty, checkpoints, metrics.jsonl, metrics.csv, log.txt and best.safetensors are written to
    it. `resume="auto"` continues from the newest checkpoint there; the result equals that of an uninterrupted training
    bit for bit. `max_minutes`, `stop` and `on_event` are those of `train`.

    Raises BadInput if the network or the images cannot be trained, NonFinite, DiskTrouble or Stopped.

    >>> import torch
    >>> from torch import nn
    >>> import resnetlab
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> labels = torch.arange(64) % 2
    >>> images = torch.rand(64, 3, 8, 8) + labels.view(-1, 1, 1, 1)
    >>> pair = (images, labels)
    >>> fitted = resnetlab.fit(model, pair, pair, epochs=2, batch_size=16, optim="adam", lr=0.01)
    >>> [record["step"] for record in fitted.history]
    [4, 8]
    """
    if resume is not None and resume != "auto":
        raise BadInput(f'resume is {resume!r}, but must be "auto", or None to begin anew')
    if resume is not None and folder is None:
        raise BadInput('resume="auto" needs a folder')
    require_trainable(model)
    require_arguments(config=config, folder=folder, max_minutes=max_minutes, stop=stop, on_event=on_event)
    config = with_settings(config, settings)
    stop = StopRequest.within(max_minutes, stop)
    if folder is not None:
        require_free(Path(folder), resume=resume is not None)
    data: ImageData | None = None
    sources: tuple[object, object]
    if isinstance(train, ImageData):
        if val is not None:
            raise BadInput("val is given, but train is a whole data set; give data.train and data.val, or data alone")
        data, sources = train, (train.train, train.val)
    elif val is None:
        raise BadInput("val is missing: give the images and labels, the split or the data set to validate on")
    else:
        sources = (train, val)
    runtime = start(config.device, config.precision, deterministic=config.deterministic)
    with as_given(model):
        images = [open_source(source, name) for source, name in zip(sources, ("train", "val"), strict=True)]
        batches = batches_of(images[0], images[1], data, config, runtime)
        is_channels_last = prefers_channels_last(model)
        placed = runtime.place(model, training=True) if is_channels_last else model.to(runtime.device)
        first = next(iter(batches.val))
        with own_generators(config.seed, "probe", 0, runtime.device):
            classes = number_of_classes(placed, first if is_channels_last else contiguous(first), images, runtime)
        batches = with_classes(batches, classes)
        if not is_channels_last:
            batches = in_default_layout(batches)
        whiten_stem(placed, batches)
        state = begin_state(config, placed, runtime)
        plan = replace(make_plan(config, len(batches.train)), seed=config.seed)
        training = Training(state, batches, plan, runtime)
        if folder is None:
            history, log = History(None), RunLog()
            introduce(training, config, images, log)
            return run(training, Session(training, MemoryWriter(history), log, stop, on_event), {})
        return fit_in(Path(folder), training, config, images, resume=resume is not None, stop=stop, on_event=on_event)


def with_settings(config: RunConfig | None, settings: Mapping[str, Any]) -> RunConfig:
    """The config with the settings of a call. Raises BadInput for unknown or unused ones."""
    changes = dict(settings)
    for section in ("optim", "schedule"):
        if isinstance(changes.get(section), str):
            changes[section] = {"name": changes[section]}
    if "lr" in changes:
        optim = changes.get("optim", {})
        if not isinstance(optim, dict | OptimConfig):
            raise BadInput(f"optim is {printable(repr(optim))[:60]}, but must be a name or a table of settings")
        changes["optim"] = (optim if isinstance(optim, dict) else optim.model_dump()) | {"lr": changes.pop("lr")}
    if changes.get("epochs") is not None and changes.get("steps") is not None:
        raise BadInput("give epochs=… or steps=…, not both")
    unused = [name for name in UNUSED if name in changes]
    if unused:
        raise BadInput(f"fit does not use the setting {unused[0]!r}: the network and the images are its arguments")
    changed = (config or RunConfig(epochs=1)).changed(changes)
    if config is None and not {"epochs", "steps"} & changes.keys():
        raise BadInput("a training needs a length: give epochs=… or steps=…")
    return changed


def run(training: Training, session: Session, best_weights: Mapping[str, Tensor]) -> Fitted:
    """Train to the end and return the result. `best_weights` are those of the best epoch so far."""
    state, criterion = training.state, training.plan.criterion
    with session.running() as batches:
        for event in loop.fit(state, batches, training.plan, training.runtime):
            if isinstance(event, EpochReport) and best_epoch(state.scores, criterion) == event.epoch - 1:
                best_weights = {name: value.clone() for name, value in state.average.model.state_dict().items()}
            session.keep(event)
    history = tuple(session.writer.history.rows)
    return Fitted(state.model, history, best_epoch(state.scores, criterion) + 1, best_weights)


def fit_in(
    path: Path,
    training: Training,
    config: RunConfig,
    images: list[Images],
    *,
    resume: bool,
    stop: StopRequest,
    on_event: OnEvent | None,
) -> Fitted:
    """Train with a folder: write or continue its files."""
    record = {"config": config.to_json(), "train": images[0].record(), "val": images[1].record()}
    was_there, is_begun = path.is_dir(), resume and (path / SETTINGS).exists()
    folder = RunFolder(path) if is_begun else RunFolder.create(path, "fit")
    stop.watch()
    with folder.claimed():
        log = RunLog(folder.log)
        best_weights: Mapping[str, Tensor] = {}
        try:
            if is_begun:
                require_same_fit(folder, config, record)
                before = load_newest(folder, training.state, log)
                if training.state.epoch:
                    best_weights = read_best(path / BEST)
            introduce(training, config, images, log)
            for note in inexact(before, training.runtime.facts(), strict=False) if is_begun else ():
                log.info(f"note     {note}")
            folder.write(SETTINGS, record)
            history = History.reopened(path, training.state.epoch)

            def save_best(model: nn.Module, report: EpochReport) -> None:
                facts = {"format": WEIGHTS_FORMAT, "format_version": 1, "epoch": report.epoch, "step": report.step}
                write_sealed(path / BEST, model.state_dict(), facts)

            facts = {"config": config.to_json(), "environment": training.runtime.facts()}
            writer = CheckpointWriter(training, folder, history, log, save_best, config.checkpoint, facts)
            hint = 'call fit with resume="auto" to continue'
            return run(training, Session(training, writer, log, stop, on_event, resume_hint=hint), best_weights)
        except Exception:
            if not is_begun and not folder.all_checkpoints():
                discard(folder, keep=was_there)
            raise


def introduce(training: Training, config: RunConfig, images: list[Images], log: RunLog) -> None:
    """Log data, network, settings and machine."""
    for line in fit_introduction(config, [len(one) for one in images], training.state.model, training.runtime):
        log.info(line)
    for sentence in (
        *without_effect(config, chosen(config)),
        *alone(config, training.runtime.processes),
        *long_warm_up(config, training.plan.steps),
    ):
        log.warning(sentence)
    for note in notes_on_dropped(len(images[0]), config.batch_size):
        log.info(f"note     {note}")
    if config.optim.name == "muon" and config.optim.weight_decay:
        log.append(f"warning  {MUON_DECAY}")  # `make_optimizer` has logged it, before there was a log.txt


def require_free(path: Path, *, resume: bool) -> None:
    """Raise BadInput unless `path` is new, empty, or has a training that may be resumed."""
    if path.exists() and not path.is_dir():
        raise BadInput(f"{printable(path)} is a file; folder must be a new or empty folder")
    has_training = (path / SETTINGS).exists()
    if path.is_dir() and not (is_beginning(path) or (has_training and resume)):
        hint = ', or resume="auto" to continue the training in it' if has_training else ""
        raise BadInput(f"{printable(path)} is not empty; give a new or empty folder{hint}")


def discard(folder: RunFolder, *, keep: bool) -> None:
    """Remove the files of a training that has saved nothing; with `keep`, the folder itself stays."""
    with suppress(OSError):  # files of others are in it, or the disk is gone
        for name in (SETTINGS, BEST, "metrics.jsonl", "metrics.csv", "log.txt", ".lock"):
            (folder.path / name).unlink(missing_ok=True)
        folder.checkpoints.rmdir()
        if not keep:
            folder.path.rmdir()


def read_best(file: Path) -> dict[str, Tensor]:
    """The weights of the best epoch so far. Raises BadInput, with the way out, if they cannot be read."""
    try:
        return read_sealed(file)[0]
    except BadInput as error:
        raise BadInput(
            f"{error}; it has the weights of the best epoch so far: bring it back, or train again in another folder"
        ) from error


def require_same_fit(folder: RunFolder, config: RunConfig, record: Mapping[str, Any]) -> None:
    """Raise BadInput unless settings and images are those that the training in the folder began with."""
    had = folder.read_json(SETTINGS)
    try:
        before = RunConfig.model_validate(had["config"])
        others = [name for name in ("train", "val") if had[name] != record[name]]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{printable(folder.path / SETTINGS)} is damaged: {printable(error)}") from error
    changed = [str(difference) for difference in differences(before, config) if difference.path not in HARMLESS]
    if changed:
        raise BadInput(
            f"the training in {printable(folder.path)} has other settings ({'; '.join(changed)}); give another folder"
        )
    if others:
        raise BadInput(
            f"the {others[0]} images are not those that the training in {printable(folder.path)} began with; "
            "give another folder"
        )
