"""What an evaluation leaves behind: numbers, tables and pictures, all from one array of probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.errors import DiskTrouble, printable
from resnetlab.evaluation.calibration import Temperature, calibration
from resnetlab.evaluation.intervals import intervals
from resnetlab.evaluation.metrics import Labels, Probabilities, confusion, losses, metrics
from resnetlab.files import write_json, write_text


@dataclass(frozen=True)
class Evaluation:
    """One split seen through one model: all that its numbers, tables and pictures are made from."""

    probabilities: Probabilities
    split: Split
    classes: Sequence[str]
    preprocessing: Preprocessing
    facts: Mapping[str, Any]  # split, data, model, test-time augmentation, digests; they come first in metrics.json
    temperature: Temperature | None = None  # fitted on validation

    @property
    def labels(self) -> Labels:
        return np.asarray(self.split.labels.cpu())

    @property
    def predicted(self) -> Labels:
        return np.asarray(self.probabilities.argmax(1))

    def metrics(self) -> dict[str, Any]:
        """What metrics.json says."""
        return {
            **self.facts,
            **metrics(self.probabilities, self.labels, self.classes),
            "intervals": intervals(confusion(self.probabilities, self.labels)),
            "calibration": calibration(self.probabilities, self.labels, self.temperature),
        }

    @property
    def title(self) -> str:
        """What stands above a picture."""
        augmented = "" if self.facts["tta"] == "none" else ", test-time augmentation: {tta}"
        return ("{model} on {data}, {split} split" + augmented).format(**self.facts)


def write_evaluation(folder: Path, evaluation: Evaluation, *, all_probabilities: bool = False) -> dict[str, Any]:
    """Write metrics.json, the tables and the pictures of one split into `folder`, and return what metrics.json says.

    metrics.json is written last: where it is, all is there.
    """
    make_folder(folder)
    result = evaluation.metrics()
    columns = ("name", "precision", "recall", "f1", "support", "roc_auc")
    rows = ([row[column] for column in columns] for row in result["per_class"])
    write_csv(folder / "per_class.csv", ["class", *columns[1:]], rows)
    write_predictions(folder / "predictions.csv", evaluation, every=all_probabilities)
    matrix = confusion(evaluation.probabilities, evaluation.labels)
    table = ([name, *counts] for name, counts in zip(evaluation.classes, matrix.tolist(), strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *evaluation.classes], table)
    draw(folder, evaluation, matrix, result["calibration"])
    write_json(folder / "metrics.json", result)
    return result


def make_folder(folder: Path) -> None:
    """Make a folder, if need be. Raises DiskTrouble."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not make {printable(folder)}: {error.strerror or error}") from error


def write_predictions(path: Path, evaluation: Evaluation, *, every: bool) -> None:
    """One line an image: file, true, predicted, probability, and with `every` the probability of each class."""
    classes, probabilities = evaluation.classes, evaluation.probabilities
    header = ["file", "true", "predicted", "probability", *(classes if every else ())]
    rows = (
        [name, classes[label], classes[guess], float(row[guess]), *(row.tolist() if every else ())]
        for name, label, guess, row in zip(
            evaluation.split.names, evaluation.labels, evaluation.predicted, probabilities, strict=True
        )
    )
    write_csv(path, header, rows)


def draw(folder: Path, evaluation: Evaluation, matrix: NDArray[np.int64], calibration: Mapping[str, Any]) -> None:
    """The pictures: confusion matrix, classes, calibration, samples, worst mistakes."""
    from resnetlab.plots.calibration import reliability_diagram  # matplotlib takes its time to import
    from resnetlab.plots.classes import class_bars
    from resnetlab.plots.confusion import confusion_matrix
    from resnetlab.plots.images import mistakes, samples
    from resnetlab.plots.style import save

    labels, predicted, probability = evaluation.labels, evaluation.predicted, evaluation.probabilities.max(1)
    images = np.asarray(evaluation.preprocessing.seen(evaluation.split.images).cpu())
    about: Any = {"classes": evaluation.classes, "title": evaluation.title}
    loss = losses(evaluation.probabilities, labels)
    save(confusion_matrix(matrix, **about), folder / "confusion_matrix.png")
    save(class_bars(matrix, **about), folder / "classes.png")
    panels = {"as it is": calibration["bins"]}
    if calibration["after"]:
        panels[f"at temperature {calibration['temperature']['value']:.3g}"] = calibration["after"]["bins"]
    save(reliability_diagram(panels, evaluation.title), folder / "calibration.png")
    save(samples(images, labels, predicted, probability, **about), folder / "samples.png")
    save(mistakes(images, labels, predicted, probability, loss, **about), folder / "mistakes.png")


def write_csv(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """A table as CSV, whole or not at all; what is undefined is left empty."""
    lines = (csv_line(["" if value is None else value for value in row]) for row in (header, *rows))
    write_text(path, "".join(lines))


def csv_line(row: Sequence[object]) -> str:
    """One line. It is first ended by CR LF, because Python 3.11 puts a cell with a CR into quotes only then."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n") + "\n"
