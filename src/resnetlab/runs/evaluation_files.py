"""Files of an evaluation: metrics.json, tables and figures, computed from one array of probabilities."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from resnetlab.data.digests import names_digest
from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable
from resnetlab.evaluation.calibration import Temperature, calibration
from resnetlab.evaluation.intervals import intervals
from resnetlab.evaluation.metrics import Floats, Labels, Probabilities, confusion, losses, metrics
from resnetlab.evaluation.selective import Rejection, selective
from resnetlab.files import read_regular, write_json
from resnetlab.host import one_thread_at_a_time
from resnetlab.runs.csv_files import class_columns, read_csv, write_csv

if TYPE_CHECKING:  # they import torch, which readers of these files do not need
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.data.splits import Split


class ClassMetrics(TypedDict):
    """Scores of one class; None where a score is undefined."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


class Metrics(TypedDict):
    """Content of metrics.json: the keys that all versions write; newer keys are optional."""

    split: str
    data: str
    model: str
    weights_digest: str
    split_digest: str
    images: int
    loss: float
    accuracy: float
    macro: dict[str, float | None]
    per_class: list[ClassMetrics]
    contents_digest: NotRequired[str | None]
    skipped_images: NotRequired[int]
    tta: NotRequired[str]
    intervals: NotRequired[dict[str, Any]]
    calibration: NotRequired[dict[str, Any]]
    selective: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Content of predictions.csv: the image names (N), and for each image true and predicted class and probability."""

    names: tuple[str, ...]
    labels: Labels
    predicted: Labels
    probability: Floats  # of the predicted class

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels == self.predicted)


@dataclass(frozen=True)
class Evaluation:
    """One model on one split: the source of its numbers, tables and figures."""

    probabilities: Probabilities
    split: Split
    classes: Sequence[str]
    preprocessing: Preprocessing
    facts: Mapping[str, Any]  # split, data, model, test-time augmentation, digests; the first keys of metrics.json
    temperature: Temperature | None = None  # fitted on validation
    rejections: Sequence[Rejection] | None = ()  # fitted on validation; None: to be fitted on this split

    @property
    def labels(self) -> Labels:
        return np.asarray(self.split.labels.cpu())

    @property
    def predicted(self) -> Labels:
        return np.asarray(self.probabilities.argmax(1))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return {
            **self.facts,
            **metrics(self.probabilities, self.labels, self.classes),
            "intervals": intervals(confusion(self.probabilities, self.labels)),
            "calibration": calibration(self.probabilities, self.labels, self.temperature),
            "selective": selective(self.probabilities, self.labels, self.temperature, self.rejections),
        }

    @property
    def title(self) -> str:
        """Title of the figures."""
        augmented = "" if self.facts["tta"] == "none" else ", test-time augmentation: {tta}"
        return ("{model} on {data}, {split} split" + augmented).format(**self.facts)


def write_evaluation(folder: Path, evaluation: Evaluation, *, all_probabilities: bool = False) -> dict[str, Any]:
    """Write metrics.json, tables and figures of one split into `folder`; return the content of metrics.json.

    metrics.json is written last: a folder that has it has all files.
    """
    make_folder(folder)
    result = evaluation.metrics
    columns = ("name", "precision", "recall", "f1", "support", "roc_auc")
    rows = ([row[column] for column in columns] for row in result["per_class"])
    write_csv(folder / "per_class.csv", ["class", *columns[1:]], rows)
    write_predictions(folder / "predictions.csv", evaluation, every=all_probabilities)
    matrix = confusion(evaluation.probabilities, evaluation.labels)
    table = ([name, *counts] for name, counts in zip(evaluation.classes, matrix.tolist(), strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *evaluation.classes], table)
    draw(folder, evaluation, matrix, result)
    write_json(folder / "metrics.json", result)
    return result


def make_folder(folder: Path) -> None:
    """Make a folder and its parents if they do not exist. Raises DiskTrouble."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not make {printable(folder)}: {error.strerror or error}") from error


def write_predictions(path: Path, evaluation: Evaluation, *, every: bool) -> None:
    """Write one line for each image: file, true, predicted, probability; with `every` the probability of each class."""
    classes, probabilities = evaluation.classes, evaluation.probabilities
    columns = ["file", "true", "predicted", "probability"]
    header = [*columns, *(class_columns(classes, columns) if every else ())]
    rows = (
        [name, classes[label], classes[guess], float(row[guess]), *(row.tolist() if every else ())]
        for name, label, guess, row in zip(
            evaluation.split.names, evaluation.labels, evaluation.predicted, probabilities, strict=True
        )
    )
    write_csv(path, header, rows)


@one_thread_at_a_time()
def draw(folder: Path, evaluation: Evaluation, matrix: NDArray[np.int64], result: Mapping[str, Any]) -> None:
    """Draw confusion matrix, classes, calibration, risk and coverage, samples and worst mistakes."""
    from resnetlab.data.pixels import Cropped  # imports Pillow
    from resnetlab.plots.calibration import reliability_diagram  # matplotlib takes its time to import
    from resnetlab.plots.classes import class_bars
    from resnetlab.plots.confusion import confusion_matrix
    from resnetlab.plots.images import mistakes, samples
    from resnetlab.plots.selective import risk_coverage
    from resnetlab.plots.style import save

    labels, predicted, probability = evaluation.labels, evaluation.predicted, evaluation.probabilities.max(1)
    about: Any = {"classes": evaluation.classes, "title": evaluation.title}
    loss = losses(evaluation.probabilities, labels)
    save(confusion_matrix(matrix, **about), folder / "confusion_matrix.png")
    save(class_bars(matrix, **about), folder / "classes.png")
    calibration, rejecting = result["calibration"], result["selective"]
    panels = {"uncalibrated": calibration["bins"]}
    if calibration["after"]:
        panels[f"at temperature {calibration['temperature']['value']:.3g}"] = calibration["after"]["bins"]
    save(reliability_diagram(panels, evaluation.title), folder / "calibration.png")
    figure = risk_coverage(rejecting["curve"], rejecting["rejections"], result["images"], evaluation.title)
    save(figure, folder / "risk_coverage.png")
    if 0 in evaluation.split.images.shape:  # those of a cross-validation are in its folds
        return
    images = Cropped(evaluation.split.images, evaluation.preprocessing)
    save(samples(images, labels, predicted, probability, **about), folder / "samples.png")
    save(mistakes(images, labels, predicted, probability, loss, **about), folder / "mistakes.png")


def read_metrics(folder: Path) -> Metrics | None:
    """Read metrics.json of an evaluation folder; None if there is none. Raises Damaged, and BadInput if unreadable."""
    file = folder / "metrics.json"
    try:
        found = json.loads(read_regular(file).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"could not read {printable(file)}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(file, printable(error)) from error
    if not isinstance(found, dict):
        raise damaged(file, "it is not a JSON object")
    for key, kind in KINDS.items():
        if not isinstance(found.get(key), kind) or isinstance(found.get(key), bool):
            raise damaged(file, f"its {key!r} is missing or has another type")
    if "f1" not in found["macro"] or not all(is_class(row) for row in found["per_class"]):
        raise damaged(file, "it lacks scores of a class")
    return cast(Metrics, found)


KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("split", "data", "model", "weights_digest", "split_digest"), str),
    **{"images": int, "loss": (int, float), "accuracy": (int, float), "macro": dict, "per_class": list},
}


def is_class(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("support"), int)


def read_predictions(folder: Path, metrics: Metrics) -> Predictions:
    """Read predictions.csv of an evaluation folder.

    Raises Damaged if it is missing, is not CSV of ours, or does not belong to `metrics`: the images, their labels and
    the accuracy are compared.
    """
    file = folder / "predictions.csv"
    number = {row["name"]: place for place, row in enumerate(metrics["per_class"])}
    try:
        header, *rows = read_csv(file)
        names = tuple(row[0] for row in rows)
        labels, predicted = (np.array([number[row[column]] for row in rows], np.int64) for column in (1, 2))
        found = Predictions(names, labels, predicted, np.array([float(row[3]) for row in rows]))
    except FileNotFoundError as error:
        raise damaged(file) from error
    except OSError as error:
        raise damaged(file, error.strerror or str(error)) from error
    except (csv.Error, KeyError, IndexError, ValueError) as error:
        raise damaged(file, f"it is not a table of predictions ({printable(error)})") from error
    if header[:4] != ["file", "true", "predicted", "probability"]:
        raise damaged(file, "it has other columns")
    if names_digest(names, labels.tolist()) != metrics["split_digest"]:
        raise damaged(file, "it lists other images or labels than were scored")
    if float(found.correct.mean()) != metrics["accuracy"]:
        raise damaged(file, "its accuracy differs from that in metrics.json")
    return found


def damaged(file: Path, reason: str | None = None) -> Damaged:
    """Return the error for a damaged file of an evaluation or, without a `reason`, a missing one.

    It contains the command that writes the file again, except for a test split, which should not be used again.
    """
    split, _, tta = file.parent.name.partition("-")
    state = "is missing" if reason is None else f"is damaged: {reason}"
    again = f"run: `resnetlab.evaluate({str(file.parents[2])!r}, split={split!r}{f', tta={tta!r}' if tta else ''})`"
    if split == "test":
        again = "restore it from a copy, because scoring again would use the test set once more"
    return Damaged(f"{printable(file)} {state}; {printable(again)}")
