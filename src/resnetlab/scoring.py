"""Scoring a trained model on a split: the final numbers, in fp32, from the model's own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from resnetlab.assembly import evaluation_batches, open_data
from resnetlab.config import DataConfig
from resnetlab.data.datasets import ImageData
from resnetlab.errors import BadInput, NonFinite, printable
from resnetlab.evaluation.evaluate import probabilities
from resnetlab.evaluation.record import Evaluation, write_evaluation
from resnetlab.model_file import Model, read_model
from resnetlab.run_folder import RunFolder
from resnetlab.runtime import Runtime, start
from resnetlab.stopping import StopRequest, Watched

SplitName = Literal["val", "test"]


def evaluate(
    source: Path | str,
    data: str | None = None,
    split: SplitName = "val",
    *,
    out: Path | str | None = None,
    all_probabilities: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a run's best weights, or a model file, on a split: what metrics.json says, JSON-able.

    A run brings its own data, and its tables and pictures go to `evaluation/<split>` in it; with other `data`, or a
    model file, they are written only where `out` says. Raises BadInput for what cannot be scored.
    """
    path, folder = Path(source), None if out is None else Path(out)
    if path.is_dir():
        run = RunFolder.open(path)
        model = read_model(run.best)
        config = run.config.data
        if data is None and folder is None:
            folder = run.evaluation(split)
    elif not path.exists():
        raise BadInput(f"{printable(path)} does not exist; give a run's folder or a model file")
    elif data is None:
        raise BadInput("a model file brings no data; say what to score it on with --data")
    else:
        model, config = read_model(path), DataConfig()
    if data is not None:
        config = config.model_copy(update={"name": data})
    opened = open_data(config, model.preprocessing)
    return score_split(model, opened, split, start(device, "fp32").device, folder, all_probabilities=all_probabilities)


def score_split(
    model: Model,
    data: ImageData,
    split_name: SplitName,
    device: torch.device,
    folder: Path | None = None,
    *,
    all_probabilities: bool = False,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """The metrics of a model on a split, JSON-able; with a `folder`, its tables and pictures are written there too.

    Raises BadInput if the data has other classes than the model, NonFinite if the network gives no numbers, and
    StopAsked when `stop` has been requested.
    """
    require_same_classes(model.classes, data.classes)
    runtime = Runtime(device)  # fp32, whatever the training computed in
    split = getattr(data, split_name)
    batches = Watched(evaluation_batches(split, data, runtime), stop or StopRequest())
    scores, _ = probabilities(runtime.place(model.network), batches, runtime)
    unsound = int((~np.isfinite(scores).all(1)).sum())
    if unsound:
        raise NonFinite(f"the network's output is NaN or infinite for {unsound:,} of {len(scores):,} images")
    facts = {
        "split": split_name,
        "data": data.name,
        "model": model.network.name,
        "weights_digest": model.weights_digest,
        "split_digest": split.digest,
    }
    evaluation = Evaluation(scores, split, model.classes, data.preprocessing, facts)
    if folder is None:
        return evaluation.metrics()
    return write_evaluation(folder, evaluation, all_probabilities=all_probabilities)


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
