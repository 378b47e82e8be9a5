"""A series: runs with the same settings and different seeds in one folder, and a summary of their scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput, Damaged, printable
from resnetlab.evaluation.intervals import LEVEL, Repeats
from resnetlab.files import write_json
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder

SUMMARY = "summary.json"
SCORES = ("accuracy", "macro_f1", "loss", "train_seconds")


@dataclass(frozen=True)
class Series:
    """A folder with one run for each seed, `seed-N`. Its summary.json lists all seeds from the start."""

    path: Path
    config: RunConfig  # with the first of the seeds
    count: int

    @classmethod
    def open(cls, path: Path) -> Series:
        """The series in an existing folder."""
        plan = RunFolder(path).read_json(SUMMARY)
        try:
            return cls(path, RunConfig.model_validate(plan["config"]), len(plan["seeds"]))
        except (KeyError, TypeError, BadInput) as error:
            raise Damaged(f"{printable(path / SUMMARY)} is not what we wrote: {printable(error)}") from error

    @property
    def seeds(self) -> list[int]:
        return list(range(self.config.seed, self.config.seed + self.count))

    def run(self, seed: int) -> RunFolder:
        return RunFolder(self.path / f"seed-{seed}")

    def config_of(self, seed: int) -> RunConfig:
        return self.config.changed({"seed": seed})

    def is_begun(self, seed: int) -> bool:
        return (self.run(seed).path / "config.json").exists()

    def is_finished(self, seed: int) -> bool:
        return self.is_begun(seed) and self.run(seed).is_scored

    def summary(self) -> dict[str, Any]:
        """The scores of the finished runs, one by one and together, JSON-able."""
        split = "test" if self.config.final_test == "once" else "val"
        finished = [seed for seed in self.seeds if self.is_finished(seed)]
        rows = [scores_of(self.run(seed), seed, split) for seed in finished]
        if len({row["split_digest"] for row in rows}) > 1:
            raise BadInput(f"the runs in {printable(self.path)} were scored on different {split} images")
        together = {name: Repeats.of([row[name] for row in rows]) for name in SCORES}
        return {
            "config": self.config.to_json(),
            "seeds": self.seeds,
            "split": split,
            "level": LEVEL,
            "runs": rows,
            "together": {name: None if repeats is None else asdict(repeats) for name, repeats in together.items()},
        }

    def write_summary(self) -> None:
        write_json(self.path / SUMMARY, self.summary())


def is_series(path: Path) -> bool:
    return (path / SUMMARY).is_file()


def scores_of(run: RunFolder, seed: int, split: str) -> dict[str, Any]:
    """The scores of a finished run on a split, and the duration of its training in seconds."""
    scores = run.final_metrics(split) or {}
    try:
        return {
            "seed": seed,
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
