"""Scoring a trained model on a split: the final numbers, in fp32, from the model's own file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from resnetlab.data.datasets import ImageData
from resnetlab.errors import BadInput, NonFinite, printable
from resnetlab.evaluation.access_log import Access, AccessLog
from resnetlab.evaluation.calibration import Temperature
from resnetlab.evaluation.evaluate import probabilities
from resnetlab.evaluation.tta import Views
from resnetlab.inference.model_file import Model, read_model
from resnetlab.interpret.embedding import MOST, catching_features, spread
from resnetlab.runs.build import evaluation_batches, open_data
from resnetlab.runs.config import DataConfig
from resnetlab.runs.evaluation_files import Evaluation, write_evaluation
from resnetlab.runs.facts import command, now
from resnetlab.runs.folder import SHARED_LEDGER, RunFolder
from resnetlab.runs.report_samples import ReportSamples
from resnetlab.runs.stopping import StopRequest, Watched
from resnetlab.runtime import Runtime, start

SplitName = Literal["val", "test"]
warn = logging.getLogger("resnetlab").warning


def evaluate(
    source: Path | str,
    data: str | None = None,
    split: SplitName = "val",
    *,
    tta: Views = "none",
    out: Path | str | None = None,
    all_probabilities: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a run's best weights, or a model file, on a split: what metrics.json says, JSON-able.

    A run brings its own data, and its tables and pictures go to `evaluation/<split>` in it (`<split>-<tta>` with
    test-time augmentation); with other `data`, or a model file, they are written only where `out` says. A look at a
    test split is written into its ledger. Raises BadInput for what cannot be scored.
    """
    path, folder = Path(source), None if out is None else Path(out)
    if path.is_dir():
        run = RunFolder.open(path)
        model = read_model(run.best)
        config = run.config.data
        if data is None and folder is None:
            folder = run.evaluation(split, tta)
    elif not path.exists():
        raise BadInput(f"{printable(path)} does not exist; give a run's folder or a model file")
    elif data is None:
        raise BadInput("a model file brings no data; say what to score it on with --data")
    else:
        model, config = read_model(path), DataConfig()
    if data is not None:
        config = config.model_copy(update={"name": data})
    return score_split(
        model,
        open_data(config, model.preprocessing),
        split,
        start(device, "fp32").device,
        ledger_of(path),
        folder=folder,
        temperature=None if split == "val" else fitted_temperature(run_of(path), model, tta),
        tta=tta,
        all_probabilities=all_probabilities,
    )


def score_split(
    model: Model,
    data: ImageData,
    split_name: SplitName,
    device: torch.device,
    ledger: AccessLog,
    *,
    folder: Path | None = None,
    temperature: Temperature | None = None,
    tta: Views = "none",
    all_probabilities: bool = False,
    stop: StopRequest | None = None,
    tell: Callable[[str], object] = warn,
) -> dict[str, Any]:
    """The metrics of a model on a split, JSON-able; with a `folder`, its tables and pictures are written there too.

    On validation the temperature is fitted, on the test split the one that is given is used. A look at the test split
    is written into the ledger before anyone sees a number; where that fails, `tell` is told, and the work goes on.

    Raises BadInput if the data has other classes than the model, NonFinite if the network gives no numbers, and
    StopAsked when `stop` has been requested.
    """
    require_same_classes(model.classes, data.classes)
    runtime = Runtime(device)  # fp32, whatever the training computed in
    split = getattr(data, split_name)
    batches = Watched(evaluation_batches(split, data, runtime), stop or StopRequest())
    network = runtime.place(model.network)
    with catching_features(network, spread(len(split), MOST)) as features:
        scores, labels = probabilities(network, batches, runtime, tta)
    unsound = int((~np.isfinite(scores).all(1)).sum())
    if unsound:
        raise NonFinite(f"the network's output is NaN or infinite for {unsound:,} of {len(scores):,} images")
    facts = {
        "split": split_name,
        "data": data.name,
        "model": model.network.name,
        "tta": tta,
        "weights_digest": model.weights_digest,
        "split_digest": split.digest,
    }
    if split_name == "val":
        temperature = Temperature.fitted(scores, labels, split_name, split.digest)
    else:
        seen = {name: value for name, value in facts.items() if name != "split"}
        look = Access(now("microseconds"), tuple(command()), ledger.run, images=len(split), **seen)
        for failure in ledger.record(look):
            tell(f"warning  {failure}")
    evaluation = Evaluation(scores, split, model.classes, data.preprocessing, facts, temperature)
    if folder is None:
        return evaluation.metrics()
    if split_name == "val" and tta == "none":  # a report shows validation images only
        ReportSamples.of(evaluation, network, torch.cat(features), runtime).write(folder)
    return write_evaluation(folder, evaluation, all_probabilities=all_probabilities)


def run_of(path: Path) -> RunFolder | None:
    """The run that a folder is, or that a model file is the best of."""
    run = RunFolder(path if path.is_dir() else path.parent)
    return run if (run.path / "config.json").is_file() and path in (run.path, run.best) else None


def ledger_of(path: Path) -> AccessLog:
    """The ledger of a run, or of a model file: that of its run, or one that lies beside it."""
    run = run_of(path)
    return AccessLog(None, (path.resolve().parent / SHARED_LEDGER,)) if run is None else run.ledger


def fitted_temperature(run: RunFolder | None, model: Model, tta: Views = "none") -> Temperature | None:
    """The temperature that was fitted when these weights were scored on a run's validation split, in the same way."""
    scores = run.final_metrics("val", tta) if run else None
    if not scores or scores.get("weights_digest") != model.weights_digest:
        return None
    found = scores.get("calibration")
    return Temperature.from_json(found.get("temperature")) if isinstance(found, dict) else None


def looks_line(ledger: AccessLog, scores: Mapping[str, Any]) -> str:
    """Sentence with the number of times that the test set of these scores was used."""
    return ledger.count(scores["weights_digest"], scores["split_digest"]).sentence()


def require_same_classes(of_model: Sequence[str], of_data: Sequence[str]) -> None:
    """BadInput with the exact difference unless both have the same classes in the same order."""
    if tuple(of_model) == tuple(of_data):
        return
    missing = sorted(set(of_model) - set(of_data))
    extra = sorted(set(of_data) - set(of_model))
    told = [
        f"{what}: {', '.join(map(printable, names))}"
        for what, names in (("missing in the data", missing), ("unknown to the model", extra))
        if names
    ]
    raise BadInput(f"the data and the model have different classes ({'; '.join(told) or 'another order'})")
