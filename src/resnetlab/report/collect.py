"""Collect the facts of a run, or of a cross-validation, from its files; missing and damaged ones are listed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnetlab.errors import BadInput, Damaged, as_typed, printable
from resnetlab.evaluation.access_log import AccessCount
from resnetlab.evaluation.metrics import Score, confusion_of
from resnetlab.inference.model_file import Model, read_model
from resnetlab.report.render import is_number
from resnetlab.runs.config import RunConfig
from resnetlab.runs.csv_files import read_csv
from resnetlab.runs.evaluation_files import Metrics, Predictions, read_metrics, read_predictions
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.report_samples import ReportSamples
from resnetlab.runs.series import Pooled, Series, has_seeds, scores_of
from resnetlab.training.selection import best_epoch

Value = TypeVar("Value")
SPLITS = {"test": "test", "val": "validation"}
"""Splits and their names on a page, in the order of preference for the headline."""


@dataclass(frozen=True)
class Scored:
    """The scores of one split; `predictions` are None if their file is missing or belongs to other scores."""

    split: str  # "val" or "test"
    tta: str
    metrics: Metrics
    predictions: Predictions | None

    @property
    def key(self) -> str:
        """The name of its folder below evaluation/."""
        return self.split if self.tta == "none" else f"{self.split}-{self.tta}"

    def source(self, *path: str | int) -> str:
        """The place of a value in the run's files, such as "test/macro/f1"."""
        return "/".join(map(str, (self.key, *path)))

    @property
    def short_title(self) -> str:
        return self.title.removesuffix(" split")

    @property
    def title(self) -> str:
        if folds := self.at("folds"):
            return f"test images of all {folds} folds"
        augmented = "" if self.tta == "none" else f", test-time augmentation: {self.tta}"
        return f"{SPLITS[self.split]} split{augmented}"

    @property
    def classes(self) -> list[str]:
        return [row["name"] for row in self.metrics["per_class"]]

    @property
    def matrix(self) -> NDArray[np.int64] | None:
        """Confusion matrix (K, K), row = true class; None without predictions."""
        found = self.predictions
        return None if found is None else confusion_of(found.predicted, found.labels, len(self.classes))

    def at(self, *path: str | int) -> Any:
        """The value at a path in metrics.json; None if there is none."""
        value: Any = self.metrics
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def bins(self, *path: str) -> list[dict[str, Any]] | None:
        """The bins of confidence at a path in metrics.json; None if there are none."""
        found, keys = self.rows("low", "high", "images", path=path), ("confidence", "accuracy")
        if not found or not all(is_number(row.get(key)) for row in found if row["images"] for key in keys):
            return None
        return found

    def rows(self, *keys: str, path: tuple[str, ...]) -> list[dict[str, Any]] | None:
        """The rows at a path in metrics.json, if each has numbers under these keys; else None."""
        found = self.at(*path)
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            return None
        return found if all(is_number(row.get(key)) for row in found for key in keys) else None


class Fold(NamedTuple):
    """One run of a cross-validation: its name, its scores in the summary, and its epochs."""

    name: str
    scores: Mapping[str, Any]
    rows: list[dict[str, Any]]


@dataclass
class Facts:
    """The content of a report; `missing` are sentences about files that do not exist or could not be read."""

    run: RunFolder
    config: RunConfig
    sessions: list[dict[str, Any]]  # the first one first
    rows: list[dict[str, Any]]
    model: Model | None
    scored: dict[str, Scored]  # by the names of their folders
    samples: ReportSamples | None
    count: AccessCount | None  # of the test set
    folds: tuple[Fold, ...] = ()  # of a cross-validation, whose predictions are scored together
    missing: list[str] = field(default_factory=list)

    @property
    def environment(self) -> Mapping[str, Any]:
        """Machine, packages, command and time of the first session; empty if they are not known."""
        return self.sessions[0] if self.sessions else {}

    @property
    def main(self) -> Scored | None:
        """The scores of the headline: the test split's, or else validation's."""
        return next((self.scored[split] for split in SPLITS if split in self.scored), None)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights were kept, from 1."""
        scores = [Score(row["val_loss"], row["val_accuracy"], row["val_macro_f1"]) for row in self.rows]
        return best_epoch(scores, self.config.best_by) + 1 if scores else None

    @property
    def state(self) -> str:
        """State of the run in words."""
        if self.folds:
            return "finished"
        if not self.rows:
            return "not one epoch finished"
        last = "test" if self.config.final_test == "once" else "val"
        return "finished" if last in self.scored else "unfinished"

    @property
    def title(self) -> str:
        return f"{self.config.model.name} on {Path(self.config.data.name).name}"


def read_facts(path: Path) -> Facts:
    """Collect the facts of the run in a folder. Raises BadInput if there is no run or its config cannot be read."""
    run = RunFolder.open(path)
    config, missing = run.config, []

    def attempt(read: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return read()
        except BadInput as error:
            missing.append(f"{str(error)[:1].upper()}{str(error)[1:]}.")
            return otherwise

    no_rows: list[dict[str, Any]] = []
    rows = attempt(lambda: checked_rows(run), no_rows)
    scored = {}
    for key in folders(run):
        split, _, tta = key.partition("-")
        found = attempt(partial(read_scored, run, split, tta or "none"), None)
        if found is not None:
            scored[key] = found
    no_sessions: list[dict[str, Any]] = []
    facts = Facts(
        run=run,
        config=config,
        sessions=attempt(lambda: run.sessions, no_sessions),
        rows=rows,
        model=attempt(lambda: read_model(run.best), None) if run.best.exists() else None,
        scored=scored,
        samples=attempt(lambda: ReportSamples.read(run.evaluation("val")), None),
        count=count(run, scored.get("test")),
    )
    facts.missing = [*missing, *gaps(facts)]
    return facts


def read_facts_of_folds(path: Path) -> Facts:
    """Collect the facts of a cross-validation: the scores of all predictions together, and those of each fold.

    Raises BadInput for a series of seeds, and if not all folds are scored.
    """
    series = Series.open(path)
    runs = [series.run(number) for number in series.numbers]
    if has_seeds(path):
        raise BadInput(
            f"{printable(path)} is a series of seeds; a report is of one run, such as {printable(runs[0].path)}; "
            "`resnetlab compare` compares series"
        )
    pooled = Pooled.open(path)
    scored = read_scored(pooled, "test", "none")
    return Facts(
        run=pooled,
        config=series.config,
        sessions=runs[0].sessions[:1],
        rows=[],
        model=None,
        scored={} if scored is None else {"test": scored},
        samples=None,
        count=None,
        folds=tuple(Fold(run.path.name, scores_of(run, "test"), checked_rows(run)) for run in runs),
    )


def gaps(facts: Facts) -> Iterator[str]:
    """Sentences about the parts of a complete run that this one lacks."""
    path, scored = as_typed(facts.run.path), facts.scored
    if not facts.rows:
        yield f"No epoch has been finished yet; `resnetlab resume {path}` continues the run."
        return
    if "val" not in scored:
        yield f"The run has not been scored yet; `resnetlab resume {path}` continues it."
    if "test" not in scored and scored:
        never = " (final_test is never)" if facts.config.final_test == "never" else ""
        yield f"The test split has not been scored{never}. All scores are of validation, which selected the best epoch."
    without_table = [one for one in scored.values() if one.predictions is None]
    without_intervals = [one for one in scored.values() if not one.at("calibration")]
    of_others = [one for one in scored.values() if of_other_weights(one, facts.model)]
    for lacking, sentence in (
        (without_table, "The table of predictions of {} is missing or damaged."),
        (without_intervals, "There are no intervals: an older version scored {}."),
        (of_others, "Other weights than best.safetensors scored {}."),
    ):
        if lacking:
            yield sentence.format(" and ".join(f"the {one.title}" for one in lacking))
    if facts.model is None:
        yield "The best weights (best.safetensors) are missing, so the first filters are not drawn."
    if "val" in scored and facts.samples is None:
        evaluate = f"; `resnetlab evaluate {path}` writes them" if facts.model is not None else ""
        yield f"There are no report samples: single images, Grad-CAM and the map of the features{evaluate}."


def of_other_weights(scored: Scored, model: Model | None) -> bool:
    return model is not None and scored.metrics["weights_digest"] != model.weights_digest


def folders(run: RunFolder) -> list[str]:
    """The scored splits, validation first, plain before augmented."""
    found = {path.parent.name for path in run.path.glob("evaluation/*/metrics.json")}
    return sorted((name for name in found if name.partition("-")[0] in SPLITS), key=lambda n: (n[:1] != "v", n))


NUMBERS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "lr")


def checked_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl or, if only the table was kept, in metrics.csv. Raises Damaged."""
    rows = run.rows
    table = run.path / "metrics.csv"
    try:
        if not rows and table.exists():
            header, *lines = read_csv(table)
            rows = [dict(zip(header, map(float, line), strict=True)) for line in lines]
        return [{**row, "epoch": int(row["epoch"]), **{name: float(row[name]) for name in NUMBERS}} for row in rows]
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"the record of the epochs of {printable(run.path)} is damaged ({printable(error)})") from error


def read_scored(run: RunFolder, split: str, tta: str) -> Scored | None:
    """The metrics of a split, and its predictions if they belong to the metrics."""
    folder = run.evaluation(split, tta)
    metrics = read_metrics(folder)
    if metrics is None:
        return None
    try:
        return Scored(split, tta, metrics, read_predictions(folder, metrics))
    except Damaged:
        return Scored(split, tta, metrics, None)


def count(run: RunFolder, test: Scored | None) -> AccessCount | None:
    """Uses of the test set in the access log; None if there are none."""
    if test is None:
        return None
    found = run.access_log.count(test.metrics["weights_digest"], test.metrics["split_digest"])
    return found if found.accesses else None
