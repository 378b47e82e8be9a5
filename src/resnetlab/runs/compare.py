"""Compare runs: from the files of each run to the numbers of a comparison."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.data.splits import names_digest
from resnetlab.errors import BadInput, Damaged, printable
from resnetlab.evaluation.access_log import AccessLog
from resnetlab.evaluation.comparison import ComparedRun, Comparison, Correct, compare_with_best, ranked
from resnetlab.evaluation.intervals import intervals
from resnetlab.evaluation.metrics import confusion_of
from resnetlab.inference.model_file import read_model
from resnetlab.models.summary import count_macs
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.score import SplitName


def compare(folders: Sequence[Path], split: SplitName = "test") -> Comparison:
    """Compare the runs in `folders` by their scores on the same split.

    Raises BadInput if a run has not been scored on the split, has other weights now than when it was scored, or was
    scored on other images than the rest; Damaged if its predictions do not belong to its scores.
    """
    if len(folders) < 2:
        raise BadInput("a comparison needs two runs or more: resnetlab compare RUN RUN …")
    runs = [RunFolder.open(path) for path in folders]
    scores = [scores_of(run, split) for run in runs]
    require_alike(runs, scores, split)
    logs = [run.ledger for run in runs] if split == "test" else []
    together = AccessLog(None, tuple(dict.fromkeys(file for log in logs for file in log.files)))
    compared = [compared_run(*given, split) for given in zip(runs, scores, distinct_names(runs), strict=True)]
    first, ordered = scores[0], ranked(compared)
    return Comparison(
        split=split,
        data=first["data"],
        split_digest=first["split_digest"],
        images=first["images"],
        tta=first.get("tta", "none"),
        runs_on_split=together.count("", first["split_digest"]).runs,
        runs=ordered,
        pairs=compare_with_best(ordered),
        notes=(*together.accesses()[1], *cost_notes(ordered)),
    )


NEEDED = {"data": str, "model": str, "images": int, "accuracy": float, "loss": float, "split_digest": str}
NEEDED |= {"weights_digest": str, "macro": dict, "per_class": list}


def scores_of(run: RunFolder, split: str) -> dict[str, Any]:
    """What metrics.json says of a split; BadInput if the run has not been scored on it."""
    scores = run.final_metrics(split)
    again = f"run: resnetlab evaluate {printable(run.path)} --split {split}"
    if scores is None:
        raise BadInput(f"{printable(run.path)} has not been scored on its {split} split; {again}")
    if not all(isinstance(scores.get(name), kind) for name, kind in NEEDED.items()):
        raise Damaged(f"{printable(run.evaluation(split) / 'metrics.json')} is not what we wrote; {again}")
    return scores


def require_alike(runs: Sequence[RunFolder], scores: Sequence[Mapping[str, Any]], split: str) -> None:
    """BadInput unless all runs were scored on the same images in the same way; which were not is said."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, given in enumerate(scores):
        groups.setdefault((given["split_digest"], given.get("tta", "none")), []).append(place)
    if len(groups) == 1:
        return
    told = []
    for (digest, tta), places in groups.items():
        first, names = scores[places[0]], ", ".join(printable(runs[place].path) for place in places)
        augmented = "" if tta == "none" else f", test-time augmentation {printable(tta)}"
        told.append(f"{names}: {first['images']:,} images of {printable(first['data'])}, {digest[:8]}{augmented}")
    raise BadInput(f"these runs were scored on different {split} splits and cannot be compared ({'; '.join(told)})")


def compared_run(run: RunFolder, scores: Mapping[str, Any], name: str, split: str) -> ComparedRun:
    """The scores, predictions and costs of a run."""
    correct, spread = predictions(run, scores, split)
    parameters, macs = size(run, scores, split)
    rows = run.rows
    seconds = sum(row["train_seconds"] for row in rows)
    images = sum(row["images_per_second"] * row["train_seconds"] for row in rows)
    digest = scores["weights_digest"]
    return ComparedRun(
        name=name,
        correct=correct,
        accuracy=scores["accuracy"],
        accuracy_interval=spread["accuracy"],
        macro_f1=scores["macro"].get("f1"),
        macro_f1_interval=spread["macro_f1"],
        loss=scores["loss"],
        ece=scores["calibration"]["ece"] if "calibration" in scores else None,
        test_set_uses=run.ledger.count(digest, scores["split_digest"]).by_model if split == "test" else 0,
        model=scores["model"],
        weights_digest=digest,
        parameters=parameters,
        macs=macs,
        epochs=len(rows),
        train_seconds=seconds,
        images_per_second=images / seconds if seconds else None,
        machine=machine(run),
        epoch_rows=rows,
    )


def predictions(run: RunFolder, scores: Mapping[str, Any], split: str) -> tuple[Correct, dict[str, Any]]:
    """Which images the run is right about, by their names, and the intervals of its scores."""
    file = run.evaluation(split) / "predictions.csv"
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            header, *rows = csv.reader(lines)
        number = {row["name"]: place for place, row in enumerate(scores["per_class"])}
        names = [row[0] for row in rows]
        labels, guesses = (np.array([number[row[column]] for row in rows], dtype=np.int64) for column in (1, 2))
        sound = (
            header[:3] == ["file", "true", "predicted"]
            and names_digest(names, labels.tolist()) == scores["split_digest"]
            and float((labels == guesses).mean()) == scores["accuracy"]
        )
    except (OSError, csv.Error, KeyError, IndexError, TypeError, ValueError) as error:
        sound, why = False, f" ({printable(error)})"
    else:
        why = ""
    if not sound:
        again = f"run: resnetlab evaluate {printable(run.path)} --split {split}"
        raise Damaged(f"{printable(file)} is not what the run was scored with{why}; {again}")
    order = sorted(range(len(names)), key=names.__getitem__)
    return (labels == guesses)[order], intervals(confusion_of(guesses, labels, len(number)))


def size(run: RunFolder, scores: Mapping[str, Any], split: str) -> tuple[int | None, int | None]:
    """Parameters and multiply-adds of the best weights; unknown where they have been removed."""
    if not run.best.exists():
        return None, None
    model = read_model(run.best)
    if model.weights_digest != scores["weights_digest"]:
        raise BadInput(
            f"{printable(run.path)} was scored with other weights than it has now; "
            f"run: resnetlab evaluate {printable(run.path)} --split {split}"
        )
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return parameters, count_macs(model.network, model.preprocessing.image_size)


def machine(run: RunFolder) -> str | None:
    """What the run was trained on, if that is on record."""
    if not (run.path / "environment.json").exists():
        return None
    environment = run.read_json("environment.json")
    return f"{environment.get('device_name')}, {environment.get('precision')}"


def distinct_names(runs: Sequence[RunFolder]) -> list[str]:
    """What to call the runs: by their folders, by their paths where folders of one name differ, and by number as well
    where one run is given twice.
    """
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
