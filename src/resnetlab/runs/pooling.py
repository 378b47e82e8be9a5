"""Score the predictions of all folds of a cross-validation as one set: every image once, by a network that has not seen
it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnetlab.data.splits import Split
from resnetlab.errors import BadInput, Damaged, as_typed, printable
from resnetlab.inference.model_file import read_model
from resnetlab.runs.csv_files import class_columns, read_csv
from resnetlab.runs.evaluation_files import Evaluation, read_metrics, read_predictions, write_evaluation
from resnetlab.runs.series import Series


def write_pooled(series: Series) -> None:
    """Write metrics.json, tables and figures of the test predictions of all folds into the series' `evaluation/test`.

    Raises Damaged if the files of a fold are not what was scored, BadInput if an image is in two folds.
    """
    names: list[str] = []
    facts: dict[str, Any] = {}
    classes: list[str] = []
    labels, probabilities, digests = [], [], []
    for number in series.numbers:
        run = series.run(number)
        metrics = read_metrics(run.evaluation("test"))
        assert metrics is not None  # every fold is finished
        classes = [row["name"] for row in metrics["per_class"]]
        found = read_predictions(run.evaluation("test"), metrics)
        names += found.names
        labels.append(found.labels)
        probabilities.append(all_probabilities(run.evaluation("test"), classes, len(found.names)))
        digests.append(metrics["weights_digest"])
        facts = {"split": "test", "data": metrics["data"], "model": metrics["model"], "tta": "none"}
    if len(set(names)) < len(names):
        raise BadInput(f"an image is in more than one fold of {printable(series.path)}; train the folds again")
    facts |= {"folds": series.count, "weights_digest": hashlib.sha256("".join(digests).encode()).hexdigest()}
    together = np.concatenate(labels)
    pixels = torch.zeros(len(names), 0, 0, 1, dtype=torch.uint8)
    split = Split(pixels, torch.from_numpy(together), tuple(names))
    preprocessing = read_model(series.run(series.numbers[0]).best).preprocessing
    evaluation = Evaluation(
        np.concatenate(probabilities), split, classes, preprocessing, {**facts, "split_digest": split.digest}
    )
    write_evaluation(series.pooled, evaluation, all_probabilities=True)


def all_probabilities(folder: Path, classes: list[str], images: int) -> np.ndarray:
    """Return the probability of every class, float64 (N, K), from the predictions of an evaluation."""
    file = folder / "predictions.csv"
    again = f"run: resnetlab evaluate {as_typed(folder.parents[1])} --split test --all-probabilities"
    try:
        header, *rows = read_csv(file)
        scores = np.array([row[4:] for row in rows], dtype=np.float64)
    except (OSError, csv.Error, ValueError) as error:
        raise Damaged(f"{printable(file)} cannot be read: {printable(error)}; {again}") from error
    if header[4:] != class_columns(classes, header[:4]) or scores.shape != (images, len(classes)):
        raise Damaged(f"{printable(file)} lacks the probability of every class; {again}")
    return scores
