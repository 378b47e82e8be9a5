"""Complete a run's model file: what is fitted and measured on validation, the scores, and the licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from resnetlab.data.pixels import in_turn
from resnetlab.errors import BadInput, NonFinite
from resnetlab.evaluation.selective import CONFIDENCE, rejections_in
from resnetlab.inference.model_file import Model, read_model, save_model
from resnetlab.inference.predict import Classifier
from resnetlab.inference.validation import SplitScore, Validation
from resnetlab.runs.build import EVAL_BATCH
from resnetlab.runs.evaluation_files import Evaluation
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import RunLog
from resnetlab.runs.stop import Interruptible, StopRequest
from resnetlab.runtime import Runtime, reduced_precisions


def measure(model: Model, evaluation: Evaluation, device: torch.device, stop: StopRequest) -> Validation:
    """Return temperature and rejections of an evaluation on validation, and the agreement of other precisions.

    Raises StopRequested.
    """
    found = evaluation.metrics["selective"]
    return Validation(
        temperature=found["temperature"],
        images=len(evaluation.split),
        split_digest=evaluation.split.digest,
        rejections=rejections_in(found),
        confidence=CONFIDENCE,
        agreement=agreement(model, evaluation, device, stop),
    )


def agreement(model: Model, evaluation: Evaluation, device: torch.device, stop: StopRequest) -> dict[str, float]:
    """Return the share of images whose top-1 class equals that of the evaluation, for each precision besides fp32.

    The classes are those of a `Classifier`, with the network that predictions use. The precisions are those that the
    device multiplies in hardware. One in which an output is not finite has an agreement of 0. Raises StopRequested.
    """
    found = {}
    count = len(evaluation.split)
    rows = [torch.arange(first, min(first + EVAL_BATCH, count)) for first in range(0, count, EVAL_BATCH)]
    for name, precision in reduced_precisions(device).items():
        classifier = Classifier(model, Runtime(device, precision))
        batches = (np.asarray(images.cpu()) for images in in_turn(evaluation.split.images, rows))
        try:
            predicted = [classifier.logits(batch).argmax(1) for batch in Interruptible(batches, stop)]
            found[name] = float((np.concatenate(predicted) == evaluation.predicted).mean())
        except NonFinite:
            found[name] = 0.0
    return found


def with_score(validation: Validation, scores: Mapping[str, Any]) -> Validation:
    """Add the scores of a split, the content of metrics.json; those of the same split are replaced."""
    others = tuple(score for score in validation.scores if score.split != scores["split"])
    intervals = scores.get("intervals") or {}  # the first versions wrote none
    accuracy, macro_f1 = (ends and tuple(ends) for ends in map(intervals.get, ("accuracy", "macro_f1")))
    score = SplitScore(
        split=scores["split"],
        split_digest=scores["split_digest"],
        images=scores["images"],
        accuracy=scores["accuracy"],
        accuracy_interval=accuracy,
        macro_f1=scores["macro"]["f1"],
        macro_f1_interval=macro_f1,
        loss=scores["loss"],
    )
    return replace(validation, scores=tuple(sorted((*others, score), key=lambda one: one.split != "val")))


def complete(run: RunFolder, model: Model, validation: Validation, license: str | None = None) -> None:
    """Write the model file again, whole or not at all, with the same weights, unless it has all of this already."""
    provenance = dict(model.provenance) if license is None else {**model.provenance, "license": license}
    if (validation, provenance) != (model.validation, model.provenance):
        parts = (model.network, model.classes, model.preprocessing, provenance)
        save_model(run.best, *parts, validation=validation)


def store_test_score(run: RunFolder, scores: Mapping[str, Any], log: RunLog) -> None:
    """Add the scores of the test split to a run's model file, if it is complete but for them.

    While the run trains, its model file may be replaced at any time; then, or on a failure, this is logged instead.
    """
    try:
        with run.claimed():
            model = read_model(run.best)
            if model.validation is not None and model.weights_digest == scores["weights_digest"]:
                complete(run, model, with_score(model.validation, scores))
    except BadInput as error:
        log.warning(f"the scores were not added to best.safetensors: {error}")
