"""The same recipe under several seeds: a folder of runs, and a summary that says how much the seed matters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput, Damaged, DiskTrouble, Stopped, printable
from resnetlab.evaluation.intervals import LEVEL, Repeats
from resnetlab.files import write_json
from resnetlab.runs import experiment, resume
from resnetlab.runs.build import resolved
from resnetlab.runs.config import RunConfig, differences
from resnetlab.runs.console import Voice
from resnetlab.runs.folder import RunFolder, next_folder
from resnetlab.runs.stopping import StopRequest

SUMMARY = "summary.json"
HARMLESS = resume.HARMLESS - {"final_test"}  # which decides what the summary is of
SCORES = ("accuracy", "macro_f1", "loss", "train_seconds")


@dataclass(frozen=True)
class Series:
    """A folder with one run for each seed, `seed-N`; its summary.json says which there will be, from the start."""

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


def train(
    config: RunConfig,
    count: int,
    folder: Path | None = None,
    *,
    go_on: bool = False,
    voice: Voice | None = None,
    max_minutes: float | None = None,
) -> Series:
    """Train `config` under `count` seeds, from its own one up, in a new or empty folder.

    With `go_on` the folder may hold a series of the same recipe, which is gone on with, and may get more seeds.
    Raises BadInput before anything is written, NonFinite, or Stopped; the time limit is that of all runs together.
    """
    if count < 2:
        raise BadInput(f"--seeds is {count}, but a series needs 2 seeds or more; without --seeds it is one run")
    path = next_folder(config.recipe) if folder is None else folder
    series = Series(path, resolved(config), count)
    series.config_of(series.seeds[-1])  # BadInput if a seed grows too large
    if not is_series(path):
        RunFolder.require_free(path)
    elif not go_on:
        raise BadInput(f"there is a series in {printable(path)}; give another --out, or --resume auto to go on with it")
    else:
        require_same(Series.open(path), series)
    return carry_out(series, voice or Voice(), max_minutes)


def resume_series(
    folder: Path,
    config: RunConfig | None = None,
    *,
    voice: Voice | None = None,
    max_minutes: float | None = None,
    strict: bool = False,
) -> Series:
    """Go on with a series where it stopped: finished runs stay, the unfinished one is resumed, the rest are trained.

    `config` may differ from the one it has in what changes no score, such as how many checkpoints are kept.
    """
    had = Series.open(folder)
    series = Series(folder, config or had.config, had.count)
    require_same(had, series)
    return carry_out(series, voice or Voice(), max_minutes, strict=strict)


def require_same(had: Series, wanted: Series) -> None:
    """BadInput unless a series would go on as it began; it may get more seeds."""
    require_unchanged(had.path, had.config, wanted.config, "leave that as it was, or train in a new folder")
    if wanted.count < had.count:
        raise BadInput(f"the series in {printable(had.path)} has {had.count} seeds; it cannot go on with fewer")


def require_unchanged(path: Path, had: RunConfig, wanted: RunConfig, advice: str) -> None:
    """BadInput, with `advice`, if a setting that matters differs."""
    told = [str(difference) for difference in differences(had, wanted) if difference.path not in HARMLESS]
    if told:
        raise BadInput(
            f"{printable(path)}: all runs of a series have the same settings, but {'; '.join(told)}; {advice}"
        )


def carry_out(series: Series, voice: Voice, max_minutes: float | None, *, strict: bool = False) -> Series:
    """Train what is not finished, seed by seed, with a summary after each."""
    stop = StopRequest(max_minutes)
    for seed in filter(series.is_begun, series.seeds):
        advice = "move that run away, and the series trains it anew"
        require_unchanged(series.run(seed).path, series.config_of(seed), series.run(seed).config, advice)
    todo = [seed for seed in series.seeds if not series.is_finished(seed)]
    with leaving_nothing(series.path):
        write_plan(series)
        for place, seed in enumerate(todo):
            if place and stop.reason:
                raise Stopped(f"stopped by {stop.reason} before seed {seed}; {how_to_go_on(series)}")
            voice.log = None  # that of the run before
            voice.say(f"seed     {seed}: run {series.seeds.index(seed) + 1} of {series.count}")
            minutes = None if stop.deadline is None else max(0.0, stop.deadline - time.monotonic()) / 60
            try:
                train_one(series, seed, voice, minutes, strict=strict)
            except Stopped as error:
                at = str(error).split("; ")[0]
                raise Stopped(f"seed {seed}: {at}; {how_to_go_on(series)}") from None
            series.write_summary()
    return series


def train_one(series: Series, seed: int, voice: Voice, minutes: float | None, *, strict: bool) -> None:
    config, path = series.config_of(seed), series.run(seed).path
    if series.is_begun(seed):
        resume.resume(path, changes=config.to_json(), strict=strict, voice=voice, max_minutes=minutes)
    else:
        experiment.train(config, path, voice=voice, max_minutes=minutes)


def write_plan(series: Series) -> None:
    """Make the folder, and say in it what will be trained."""
    try:
        series.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskTrouble(f"could not make {printable(series.path)}: {error.strerror or error}") from error
    series.write_summary()


@contextmanager
def leaving_nothing(path: Path) -> Iterator[None]:
    """Take the folder of a series away again if its first run could not begin, say because there are no such data."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    had = is_series(path)
    try:
        yield
    except BaseException:
        if not had and not list(path.glob("seed-*")):
            (path / SUMMARY).unlink(missing_ok=True)
            for folder in new:
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def scores_of(run: RunFolder, seed: int, split: str) -> dict[str, Any]:
    """The scores of a finished run on a split, and what its training took."""
    scores = run.final_metrics(split)
    assert scores is not None, "the run is finished"
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


def how_to_go_on(series: Series) -> str:
    return f"go on with: resnetlab resume {series.path}"
