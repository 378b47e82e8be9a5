"""Train a series of runs that differ only in their seeds, or in the fold that is their test split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resnetlab.data.tree import require_outside
from resnetlab.errors import BadInput, Stopped, as_typed, printable
from resnetlab.runs import saved_data
from resnetlab.runs.build import resolved
from resnetlab.runs.config import HARMLESS, RunConfig
from resnetlab.runs.differences import differences
from resnetlab.runs.evaluation_files import make_folder, read_metrics
from resnetlab.runs.experiment import train
from resnetlab.runs.folder import RunFolder, claim_next
from resnetlab.runs.log import RunLog
from resnetlab.runs.pooling import write_pooled
from resnetlab.runs.probes import settled
from resnetlab.runs.resume import resume
from resnetlab.runs.series import SUMMARY, Series, is_series
from resnetlab.runs.session import OnEvent
from resnetlab.runs.stop import StopRequest


def train_series(
    config: RunConfig,
    count: int,
    folder: Path | None = None,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
) -> Series:
    """Train `config` with `count` consecutive seeds, starting with its own, in a new or empty folder (default: as for
    `train`). A config with `data.folds` and without `data.fold` is trained once for each fold instead, and the
    predictions of all folds are scored as one set.

    With `resume` the folder may hold a series with the same settings, which is then resumed, and may get more seeds.
    Raises BadInput before anything is written, NonFinite, DiskTrouble or Stopped. The time limit is for all runs
    together.
    """
    stop = StopRequest.within(max_minutes, stop)
    if Series(Path(), config, count).kind == "fold":
        require_scored(config)
        count = config.data.folds or count
    elif count < 2:
        raise BadInput(f"`count` is {count}, but a series needs 2 seeds or more; without `count` it is one run")
    config = resolved(config)
    require_outside(folder, config.data.name)
    plan = Series(Path(), config, count)
    plan.config_of(plan.numbers[-1])  # BadInput if a seed is out of range
    if folder is not None and is_series(folder):
        if not resume:
            raise BadInput(f"there is a series in {printable(folder)}; give another `folder`, or add `resume=True`")
        series = Series(folder, config, count)
        require_same(Series.open(folder), series)
        return run_series(series, stop, on_event)
    if folder is not None:
        RunFolder.require_free(folder)
    target = folder or Path("runs")
    made = [path for path in (target, *target.parents) if not path.exists()]
    if folder is None:
        folder = claim_next(config.recipe)
        made = [folder, *made]
    with removed_unless_begun(folder, made):
        return run_series(Series(folder, config, count), stop, on_event)


def resume_series(
    folder: Path,
    config: RunConfig | None = None,
    *,
    strict: bool = False,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
) -> Series:
    """Continue a series: keep finished runs, resume an unfinished one, and train the others.

    `config` may differ from the series' own in settings that change no score, such as the number of checkpoints.
    """
    stop = StopRequest.within(max_minutes, stop)
    had = Series.open(folder)
    series = Series(folder, config or had.config, had.count)
    require_same(had, series)
    return run_series(series, stop, on_event, strict=strict)


def require_same(had: Series, wanted: Series) -> None:
    """Raise BadInput unless a series keeps its settings; it may get more seeds."""
    require_unchanged(had.path, had.config, wanted.config, "undo the change, or train in a new folder")
    if wanted.count < had.count:
        raise BadInput(f"the series in {printable(had.path)} has {had.count} seeds; it cannot be resumed with fewer")


def require_unchanged(path: Path, had: RunConfig, wanted: RunConfig, advice: str) -> None:
    """Raise BadInput, with `advice`, if a setting that matters differs."""
    harmless = HARMLESS - {"final_test"}  # the split that the summary is of
    changed = [str(difference) for difference in differences(had, wanted) if difference.path not in harmless]
    if changed:
        change = "; ".join(changed)
        raise BadInput(f"{printable(path)}: all runs of a series have the same settings, but {change}; {advice}")


def require_scored(config: RunConfig) -> None:
    """Raise BadInput unless each fold is scored: a cross-validation is made of these scores."""
    if config.final_test == "never":
        raise BadInput("a cross-validation scores every fold as the test split of one run; keep `final_test='once'`")


def run_series(series: Series, stop: StopRequest, on_event: OnEvent | None, *, strict: bool = False) -> Series:
    """Train the unfinished runs in the order of their numbers, and write the summary after each."""
    log, resume_hint = RunLog(), f"resume with: resnetlab resume {as_typed(series.path)}"
    for number in filter(series.is_begun, series.numbers):
        advice, of_run = "move that run away, and the series trains it again", series.run(number).config
        require_unchanged(series.run(number).path, settled(series.config_of(number), of_run), of_run, advice)
    unfinished = [number for number in series.numbers if not series.is_finished(number)]
    make_folder(series.path)
    series.write_summary()
    for place, number in enumerate(unfinished):
        if place and stop.reason:
            raise Stopped(f"stopped by {stop.reason} before {series.kind} {number}; {resume_hint}")
        log.info(f"{series.kind:<8} {number}: run {series.numbers.index(number) + 1} of {series.count}")
        try:
            train_one(series, number, stop, on_event, strict=strict)
        except Stopped as error:
            where = str(error).split("; ")[0]
            raise Stopped(f"{series.kind} {number}: {where}; {resume_hint}") from None
        series.write_summary()
    if series.kind == "fold" and (unfinished or read_metrics(series.pooled) is None):
        write_pooled(series)
        series.write_summary()
    return series


def train_one(series: Series, number: int, stop: StopRequest, on_event: OnEvent | None, *, strict: bool) -> None:
    """Train one run of a series to its end; resume it if it has been begun.

    Raises BadInput, before a new run is trained, if the images are no longer those of the earlier runs.
    """
    config, path = series.config_of(number), series.run(number).path
    if series.is_begun(number):
        resume(path, changes=config.to_json(), strict=strict, stop=stop, on_event=on_event)
        return
    earlier = next(filter(series.is_begun, series.numbers), None)
    if earlier is not None:
        saved_data.require_unchanged(series.run(earlier), config.data)
    train(config, path, stop=stop, on_event=on_event)


@contextmanager
def removed_unless_begun(path: Path, made: Sequence[Path]) -> Iterator[None]:
    """Remove the folders `made` for a new series if its first run could not begin."""
    try:
        yield
    except BaseException:
        if not [*path.glob("seed-*"), *path.glob("fold-*")]:
            (path / SUMMARY).unlink(missing_ok=True)
            for folder in made:
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        raise
