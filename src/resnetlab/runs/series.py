"""A series: runs with the same settings and different seeds or folds in one folder, and a summary of their scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from resnetlab.errors import BadInput, Damaged, as_typed, printable
from resnetlab.evaluation.intervals import LEVEL, RANGES, Repeats
from resnetlab.files import write_json
from resnetlab.runs.config import RunConfig
from resnetlab.runs.evaluation_files import read_metrics
from resnetlab.runs.folder import RunFolder

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Series:
    """A folder with one run for each seed, `seed-N`, or for each fold of a cross-validation, `fold-N`.

    Its summary.json lists all seeds or folds from the start. A config with `data.folds` and without `data.fold` is that
    of a cross-validation.
    """

    path: Path
    config: RunConfig  # with the first of the seeds
    count: int

    @classmethod
    def open(cls, path: Path) -> Series:
        """The series in an existing folder."""
        plan = RunFolder(path).read_json(SUMMARY)
        try:
            return cls(
                path, RunConfig.model_validate(plan["config"]), len(plan["folds" if "folds" in plan else "seeds"])
            )
        except (KeyError, TypeError, BadInput) as error:
            raise Damaged(f"{printable(path / SUMMARY)} is not what we wrote: {printable(error)}") from error

    @property
    def kind(self) -> Literal["seed", "fold"]:
        """The setting in which the runs differ."""
        return "fold" if self.config.data.folds is not None and self.config.data.fold is None else "seed"

    @property
    def numbers(self) -> list[int]:
        """The seeds, or the folds from 1."""
        first = self.config.seed if self.kind == "seed" else 1
        return list(range(first, first + self.count))

    def run(self, number: int) -> RunFolder:
        return RunFolder(self.path / f"{self.kind}-{number}")

    def config_of(self, number: int) -> RunConfig:
        return self.config.changed({"seed": number} if self.kind == "seed" else {"data": {"fold": number}})

    def is_begun(self, number: int) -> bool:
        return (self.run(number).path / "config.json").exists()

    def is_finished(self, number: int) -> bool:
        return self.is_begun(number) and self.run(number).is_scored

    @property
    def pooled(self) -> Path:
        """The folder with the scores of the predictions of all folds as one set."""
        return RunFolder(self.path).evaluation("test")

    def summary(self) -> dict[str, Any]:
        """The scores of the finished runs, one by one and together, JSON-able; those of all folds as one set, too."""
        split = "test" if self.config.final_test == "once" else "val"
        finished = [number for number in self.numbers if self.is_finished(number)]
        rows = [{self.kind: number, **scores_of(self.run(number), split)} for number in finished]
        if self.kind == "seed" and len({row["split_digest"] for row in rows}) > 1:
            raise BadInput(f"the runs in {printable(self.path)} were scored on different {split} images")
        together = {name: Repeats.of([row[name] for row in rows], name) for name in RANGES}
        if self.kind == "fold":  # trained on overlapping images, the folds do not vary as Student's interval requires
            together = {name: repeats and replace(repeats, interval=None) for name, repeats in together.items()}
        pooled = {"pooled": read_metrics(self.pooled)} if self.kind == "fold" else {}
        return {
            "config": self.config.to_json(),
            f"{self.kind}s": self.numbers,
            "split": split,
            "level": LEVEL,
            "runs": rows,
            "together": {name: None if repeats is None else asdict(repeats) for name, repeats in together.items()},
            **pooled,
        }

    def write_summary(self) -> None:
        write_json(self.path / SUMMARY, self.summary())


def is_series(path: Path) -> bool:
    return (path / SUMMARY).is_file()


def has_seeds(path: Path) -> bool:
    """Return True for a series of runs that differ in their seeds."""
    return is_series(path) and Series.open(path).kind == "seed"


class Pooled(RunFolder):
    """The folder of a cross-validation, whose predictions as one set are read like those of a run."""

    @cached_property
    def config(self) -> RunConfig:
        return Series.open(self.path).config

    @property
    def extended_at(self) -> tuple[int, ...]:
        return ()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run, or a cross-validation. Raises BadInput if it is neither, or not all folds are scored."""
        if not is_series(path) or has_seeds(path):
            return RunFolder.open(path)
        if read_metrics(Series.open(path).pooled) is None:
            raise BadInput(
                f"not all folds in {printable(path)} are scored; continue it: resnetlab resume {as_typed(path)}"
            )
        return cls(path)


def scores_of(run: RunFolder, split: str) -> dict[str, Any]:
    """The scores of a finished run on a split, and the duration of its training in seconds."""
    scores = run.final_metrics(split) or {}
    try:
        return {
            "folder": run.path.name,
            "accuracy": scores["accuracy"],
            "macro_f1": scores["macro"]["f1"],
            "loss": scores["loss"],
            "train_seconds": sum(row["train_seconds"] for row in run.rows),
            "images": scores["images"],
            "split_digest": scores["split_digest"],
            "weights_digest": scores["weights_digest"],
        }
    except (KeyError, TypeError) as error:
        raise Damaged(f"{printable(run.evaluation(split) / 'metrics.json')} is not what we wrote") from error
