"""Compare runs by the scores and predictions in their folders."""

from __future__ import annotations

import itertools
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from resnetlab.errors import BadInput, printable, unknown
from resnetlab.evaluation.access_log import AccessLog
from resnetlab.evaluation.comparison import (
    ComparedRun,
    Comparison,
    Summary,
    SummaryTable,
    compare_with_best,
    ranked,
)
from resnetlab.evaluation.intervals import intervals
from resnetlab.evaluation.metrics import confusion_of
from resnetlab.inference.model_file import read_model
from resnetlab.inference.sources import run_source
from resnetlab.models.summary import count_macs
from resnetlab.runs.differences import differing
from resnetlab.runs.evaluation_files import Metrics, read_metrics, read_predictions
from resnetlab.runs.folder import ENVIRONMENT, RunFolder
from resnetlab.runs.saved_data import stored_splits
from resnetlab.runs.scoring_data import SPLITS, SplitName
from resnetlab.runs.series import Pooled, Series, has_seeds

Paths: TypeAlias = Sequence[str | os.PathLike[str]]
NOT_ALL_TESTED = (
    "not all of these runs were scored on the test split, so the validation split is compared; its scores are too "
    "good, because each run selected its best epoch on it"
)


def compare(folders: Paths, split: SplitName | None = None) -> Comparison:
    """Compare the runs in `folders` by their scores on the same split; a cross-validation (`train --folds`) is one run.

    Without a `split` it is the test split if all runs have been scored on it, else validation.

    Raises BadInput if a run has not been scored on the split, has other weights now than when it was scored, or was
    scored on other images than the rest; Damaged if its predictions do not belong to its scores.

    >>> compare(["runs/quickstart-001", "runs/quickstart-002"])  # doctest: +SKIP
    """
    runs = [Pooled.open(path) for path in paths_of(folders, split)]
    metrics, split, notes = scores_on(runs, split)
    together = access_logs(runs, split)
    compared = [compared_run(*given, split) for given in zip(runs, metrics, distinct_names(runs), strict=True)]
    ordered = ranked(compared)
    return Comparison(
        **facts_of(metrics[0], split),
        tta=metrics[0].get("tta", "none"),
        runs_on_split=together.count("", metrics[0]["split_digest"]).runs,
        runs=ordered,
        pairs=compare_with_best(ordered),
        notes=(*notes, *together.accesses()[1], *cost_notes(ordered)),
        settings=differing([runs[compared.index(run)].config for run in ordered]),
    )


def summarize(folders: Paths, split: SplitName | None = None) -> SummaryTable:
    """Summarise runs and series (`train --seeds`) by their scores on the same split: mean, spread and interval of each.

    Arguments and errors are those of `compare`. Unfinished runs of a series are left out, with a note.
    """
    paths, notes = paths_of(folders, split), []
    groups: list[list[RunFolder]] = []
    for path in paths:
        series = Series.open(path) if has_seeds(path) else None
        finished = [series.run(seed) for seed in series.numbers if series.is_finished(seed)] if series else []
        if series and not finished:
            raise BadInput(f"no run of the series in {printable(path)} is finished; resnetlab resume continues it")
        if series and len(finished) < series.count:
            notes.append(f"{printable(path.name)}: {len(finished)} of its {series.count} runs are finished")
        groups.append(finished or [Pooled.open(path)])
    runs = [run for group in groups for run in group]
    metrics, split, split_notes = scores_on(runs, split)
    compared = iter([compared_run(*given, split) for given in zip(runs, metrics, distinct_names(runs), strict=True)])
    names = distinct_names([RunFolder(path) for path in paths])
    rows = [
        Summary(name, tuple(itertools.islice(compared, len(group)))) for name, group in zip(names, groups, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda place: -statistics.fmean(run.accuracy for run in rows[place].runs))
    return SummaryTable(
        **facts_of(metrics[0], split),
        rows=tuple(rows[place] for place in order),
        settings=differing([groups[place][0].config for place in order], besides=("seed",)),
        notes=(*split_notes, *notes),
    )


def paths_of(folders: Paths, split: object) -> list[Path]:
    """The folders as paths. Raises BadInput unless there are two or more, and for an unknown split."""
    is_several = isinstance(folders, Iterable) and not isinstance(folders, str | os.PathLike)
    given: list[Any] = list(folders) if is_several else [folders]  # a generator can be read once
    if len(given) < 2:
        names = printable(", ".join(map(str, given))) or "an empty list"
        raise BadInput(f"{names} is one run or none; a comparison needs a list of two runs or more")
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return [run_source(path) for path in given]


def scores_on(runs: Sequence[RunFolder], split: SplitName | None) -> tuple[list[Metrics], SplitName, list[str]]:
    """The content of each metrics.json, the split that they are of, and notes about its choice."""
    notes = []
    if split is None:
        split = "test" if all(run.final_metrics("test") for run in runs) else "val"
        notes = [NOT_ALL_TESTED] * (split == "val")
    metrics = [metrics_of(run, split) for run in runs]
    require_same_images(runs, metrics, split)
    return metrics, split, notes


def facts_of(metrics: Metrics, split: SplitName) -> dict[str, Any]:
    """The images that were scored."""
    return {"split": split, **{name: metrics[name] for name in ("data", "split_digest", "images")}}


def access_logs(runs: Sequence[RunFolder], split: SplitName) -> AccessLog:
    """The access logs of all runs as one; without any for validation."""
    logs = [run.access_log for run in runs] if split == "test" else []
    return AccessLog(None, tuple(dict.fromkeys(file for log in logs for file in log.files)))


def metrics_of(run: RunFolder, split: str) -> Metrics:
    """The content of metrics.json for a split. Raises BadInput if the run has not been scored on it."""
    found = read_metrics(run.evaluation(split))
    if found is None:
        raise BadInput(f"{printable(run.path)} has not been scored on its {split} split; {remedy(run, split)}")
    if (run.path / "split.json").exists() and stored_splits(run).splits[split].digest != found["split_digest"]:
        raise BadInput(
            f"{printable(run.path)} was scored on other {split} images than those recorded when it began; "
            f"{remedy(run, split)}"
        )
    return found


def remedy(run: RunFolder, split: str) -> str:
    """Advice for a run without scores on a split; it never leads to another use of the test set."""
    if split == "test":
        return "compare the validation scores (`split='val'`)"
    return f"run: `resnetlab.evaluate({str(run.path)!r}, split='val')`"


def require_same_images(runs: Sequence[RunFolder], metrics: Sequence[Metrics], split: str) -> None:
    """Raise BadInput, with the differences, unless all runs were scored on the same images in the same way."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, given in enumerate(metrics):
        groups.setdefault((given["split_digest"], given.get("tta", "none")), []).append(place)
    contents = {digest for given in metrics if (digest := given.get("contents_digest"))}  # older versions wrote none
    if len(groups) == 1 and len(contents) > 1:
        raise BadInput(
            f"these runs were scored on {split} images of the same names with other contents, and cannot be compared"
        )
    if len(groups) == 1:
        return
    parts = []
    for (digest, tta), places in groups.items():
        first, names = metrics[places[0]], ", ".join(printable(runs[place].path) for place in places)
        augmented = "" if tta == "none" else f", test-time augmentation {printable(tta)}"
        parts.append(f"{names}: {first['images']:,} images of {printable(first['data'])}, {digest[:8]}{augmented}")
    raise BadInput(f"these runs were scored on different {split} splits and cannot be compared ({'; '.join(parts)})")


def compared_run(run: RunFolder, metrics: Metrics, name: str, split: str) -> ComparedRun:
    """The scores, predictions and costs of a run."""
    found = read_predictions(run.evaluation(split), metrics)
    by_name = sorted(range(len(found.names)), key=found.names.__getitem__)
    between = intervals(confusion_of(found.predicted, found.labels, len(metrics["per_class"])))
    parameters, macs = size(run, metrics, split)
    count = run.access_log.count(metrics["weights_digest"], metrics["split_digest"])
    uses = count.by_model if split == "test" else 0
    rows = run.rows
    seconds = sum(row["train_seconds"] for row in rows)
    images = sum(row["images_per_second"] * row["train_seconds"] for row in rows)
    return ComparedRun(
        name=name,
        correct=found.correct[by_name],
        accuracy=metrics["accuracy"],
        accuracy_interval=between["accuracy"],
        macro_f1=metrics["macro"].get("f1"),
        macro_f1_interval=between["macro_f1"],
        loss=metrics["loss"],
        ece=metrics["calibration"]["ece"] if "calibration" in metrics else None,
        test_set_uses=uses,
        model=metrics["model"],
        weights_digest=metrics["weights_digest"],
        parameters=parameters,
        macs=macs,
        epochs=len(rows),
        train_seconds=seconds,
        images_per_second=images / seconds if seconds else None,
        machine=machine(run),
        epoch_rows=rows,
    )


def size(run: RunFolder, metrics: Metrics, split: str) -> tuple[int | None, int | None]:
    """Parameters and multiply-adds of the network with the best weights; None if their file has been removed."""
    if not run.best.exists():
        return None, None
    model = read_model(run.best)
    if model.weights_digest != metrics["weights_digest"]:
        raise BadInput(f"{printable(run.path)} was scored with other weights than it has now; {remedy(run, split)}")
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return parameters, count_macs(model.network, model.preprocessing.image_size)


def machine(run: RunFolder) -> str | None:
    """Processor and precision of the training, of each session that trained; None if unknown."""
    if not (run.path / ENVIRONMENT).exists():
        return None
    sessions, rows = run.sessions, run.rows
    begins = [session.get("from_step", 0) for session in sessions]
    ends = [*begins[1:], rows[-1]["step"] if rows else 0]
    trained = [session for session, begin, end in zip(sessions, begins, ends, strict=True) if begin < end]
    machines = (f"{one.get('device_name')}, {one.get('precision')}" for one in trained or sessions[:1])
    return "; then ".join(dict.fromkeys(machines))


def distinct_names(runs: Sequence[RunFolder]) -> list[str]:
    """A different name for each run: its folder, its path if two folders have that name, a number if it is repeated."""
    places = {run.path.resolve() for run in runs}
    alike = Counter(place.name for place in places)
    called = [str(run.path) if alike[run.path.resolve().name] > 1 else run.path.resolve().name for run in runs]
    seen: Counter[str] = Counter()
    for place, name in enumerate(called):
        seen[name] += 1
        called[place] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return [printable(name) for name in called]


def cost_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Warnings about costs that cannot be compared, and about equal weights."""
    notes = []
    if len({run.machine for run in runs}) > 1:
        notes.append("the runs were trained on different machines or in different precisions: do not compare times")
    for one, other in itertools.combinations(runs, 2):
        if one.weights_digest == other.weights_digest:
            notes.append(f"{one.name} and {other.name} have the same weights")
    return notes
