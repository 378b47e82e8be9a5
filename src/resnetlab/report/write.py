"""Write the report of a run or a cross-validation, one HTML page, from the files in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnetlab.evaluation.intervals import Repeats, wilson
from resnetlab.files import as_path, write_text
from resnetlab.inference.sources import Run, run_source
from resnetlab.report.collect import Facts, Fold, read_facts, read_facts_of_folds
from resnetlab.report.command import commands
from resnetlab.report.comparison import UNKNOWN, Cells
from resnetlab.report.render import is_number, render
from resnetlab.runs.augmentation_words import augmentation_words
from resnetlab.runs.config import HARMLESS, LENGTH
from resnetlab.runs.saved_data import BALANCE, balanced_classes
from resnetlab.runs.series import is_series
from resnetlab.runtime import isolated


class Row(NamedTuple):
    """A score of metrics.json: its name, its path, the style of its number, and the path of its interval."""

    name: str
    path: tuple[str, ...]
    style: str = "percent"
    interval: tuple[str, ...] | None = None


ACCURACY = Row("Accuracy", ("accuracy",), interval=("intervals", "accuracy"))
MACRO_F1 = Row("Macro-F1", ("macro", "f1"), interval=("intervals", "macro_f1"))
LOSS = Row("Log-loss", ("loss",), "plain")
ECE = Row("Calibration error (ECE)", ("calibration", "ece"))
TOP_K = {("top_k_accuracy", "2"): 2, ("top_k_accuracy", "3"): 3, ("top5_accuracy",): 5}
TILES = (ACCURACY, MACRO_F1, LOSS, ECE)
SCORES = (
    Row("Images", ("images",), "count"),
    ACCURACY,
    *(Row(f"Top-{k} accuracy", path) for path, k in TOP_K.items()),
    Row("Balanced accuracy", ("balanced_accuracy",)),
    Row("Macro precision", ("macro", "precision")),
    Row("Macro recall", ("macro", "recall")),
    MACRO_F1,
    Row("Weighted precision", ("weighted", "precision")),
    Row("Weighted recall", ("weighted", "recall")),
    Row("Weighted F1", ("weighted", "f1")),
    Row("Macro ROC AUC, one against the rest", ("macro", "roc_auc"), "plain"),
    Row("Matthews' correlation", ("mcc",), "plain"),
    Row("Cohen's kappa", ("cohen_kappa",), "plain"),
    LOSS,
    Row("Brier score", ("brier",), "plain"),
    ECE,
    Row("Temperature, fitted on validation", ("calibration", "temperature", "value"), "plain"),
    Row("Log-loss at that temperature", ("calibration", "after", "loss"), "plain"),
    Row("Brier score at that temperature", ("calibration", "after", "brier"), "plain"),
    Row("Calibration error at that temperature", ("calibration", "after", "ece")),
)
ON = ("device_name", "torch")
NEWER = ("calibration", "top_k_accuracy", "brier")  # not written by the first versions
MACHINE = {
    "device": "Device",
    "device_name": "Processor",
    "precision": "Precision",
    "threads": "Threads",
    "cpu_capability": "CPU capability",
    "platform": "Platform",
    "python": "Python",
    "started": "Started",
}


@isolated()
def write_report(run: str | os.PathLike[str] | Run, out: Path | str | None = None) -> Path:
    """Write the report of a run or a cross-validation to `out` (default: report.html in its folder); return its path.

    `run` is a folder, a run, or the name of a run in the folder `runs`.

    Only the run's own files are read; no data set is opened. Raises BadInput if there is no run, DiskTrouble if the
    page cannot be written.

    >>> write_report("runs/quickstart-001")  # doctest: +SKIP
    PosixPath('runs/quickstart-001/report.html')
    """
    folder = run_source(run)
    facts = read_facts_of_folds(folder) if is_series(folder) else read_facts(folder)
    path = as_path(out, "out") if out is not None else facts.run.path / "report.html"
    write_text(path, build(facts))
    return path


def build(facts: Facts) -> str:
    """The page as text."""
    from resnetlab.plots.style import percent  # matplotlib takes its time to import
    from resnetlab.report.figures import draw

    drawn = draw(facts)
    present = {
        "scores": ("Scores", True),
        "folds": ("Folds", facts.folds),
        "learning": ("Learning", drawn.learning),
        "classes": ("Classes", facts.main),
        "calibration": ("Calibration", drawn.calibration),
        "images": ("Images", drawn.samples or drawn.stored),
        "inside": ("Inside", drawn.inside),
        "reproduce": ("Reproduce", True),
    }
    model = facts.model
    return render(
        "report.html.j2",
        title=facts.title,
        kicker=f"resnetlab report · {facts.run.path.resolve().name}",
        about=about(facts),
        sections={anchor: name for anchor, (name, content) in present.items() if content},
        facts=facts,
        main=facts.main,
        drawn=drawn,
        tiles=TILES,
        scores=[row for row in SCORES if is_known(row, facts)],
        recall_interval=recall_interval,
        balanced=balanced(facts),
        balance_heading=BALANCE.get(facts.config.data.balance, ""),
        folds=fold_table(facts.folds),
        percent=percent,
        commands="\n".join(commands(facts.config, facts.run.extended_at)),
        typed=typed(facts.environment),
        sessions=session_table(facts.sessions),
        changes=[change for session in facts.sessions for change in not_repeated(session, facts.run.extended_at)],
        machine=list(machine(facts.environment)),
        parameters=sum(p.numel() for p in model.network.parameters()) if model else 0,
        folder=facts.run.path.resolve().name,
        config=json.dumps(facts.config.to_json(), indent=2, ensure_ascii=False),
    )


def about(facts: Facts) -> str:
    """Recipe, length, seed, training time, augmentation and state of a run in a few sentences."""
    from resnetlab.plots.style import counted

    config = facts.config
    length = counted(config.epochs, "epoch") if config.epochs else counted(config.steps or 0, "step")
    rows = [row for part in (facts.rows, *(fold.rows for fold in facts.folds)) for row in part]
    minutes = sum(row.get("train_seconds") or 0 for row in rows) / 60
    machine = f" on {facts.environment['device_name']}" if "device_name" in facts.environment else ""
    took = f" {minutes:,.1f} minutes of training{machine}." if minutes else ""
    settings = f"Recipe {config.recipe}, {length}, seed {config.seed}"
    images = f" Training images: {augmentation_words(config.augment)}."
    if facts.folds:
        return (
            f"{settings}; a cross-validation of {len(facts.folds)} folds.{took}{images} Every image was scored once, "
            "by a network that was not trained on it."
        )
    return f"{settings}.{took}{images} The run is {facts.state}."


def fold_table(folds: Sequence[Fold]) -> Cells:
    """A row for each fold, and their mean and standard deviation."""
    forms = {"accuracy": "{:.2%}", "macro_f1": "{:.2%}", "loss": "{:.4f}", "train_seconds": "{:,.1f}"}

    def shown(name: str, value: float | None) -> str:
        return UNKNOWN if value is None else forms[name].format(value)

    rows = [
        [fold.name, f"{fold.scores['images']:,}", *(shown(name, fold.scores[name]) for name in forms)] for fold in folds
    ]
    together = {name: Repeats.of([fold.scores[name] for fold in folds]) for name in forms}
    spread = [
        UNKNOWN if found is None else f"{shown(name, found.mean)} ± {shown(name, found.std)}"
        for name, found in together.items()
    ]
    return Cells(
        ("fold", "images", "accuracy", "macro-F1", "loss", "training, s"), [*rows, ["mean ± std", "", *spread]]
    )


def is_known(row: Row, facts: Facts) -> bool:
    """False for a score that only newer versions write and none of the splits has, and for top-k of k classes."""
    if TOP_K.get(row.path, 0) >= max((len(scored.classes) for scored in facts.scored.values()), default=0):
        return False
    return row.path[0] not in NEWER or any(scored.at(*row.path) is not None for scored in facts.scored.values())


def balanced(facts: Facts) -> list[tuple[int, float]] | None:
    """The training images of each class and how often each is drawn, or its weight; None if nothing was balanced."""
    return None if facts.main is None or facts.folds else balanced_classes(facts.run, facts.main.classes)


def recall_interval(row: Mapping[str, Any]) -> list[float] | None:
    """95 % interval (Wilson) of the recall of a class; None if it is undefined."""
    recall, support = row.get("recall"), row["support"]
    if not is_number(recall) or not support:
        return None
    low, high = wilson(round(recall * support), support)
    return [float(low), float(high)]


def typed(session: Mapping[str, Any]) -> str:
    """The command of a session, as far as it was recorded."""
    words = session.get("command", "")
    return " ".join(map(str, words)) if isinstance(words, list) else str(words)


def changed_settings(session: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a session changed, by path, with both values in words."""
    changed = session.get("changed")
    pairs = changed.items() if isinstance(changed, Mapping) else ()
    return {path: f"{path} from {two[0]} to {two[1]}" for path, two in pairs if isinstance(two, list) and len(two) == 2}


def not_repeated(session: Mapping[str, Any], extended_at: Sequence[int]) -> list[str]:
    """The changed settings of a session that affect the result and that `commands` do not repeat."""
    repeated = HARMLESS | (LENGTH if session.get("from_step") in extended_at else set())
    return [change for path, change in changed_settings(session).items() if path not in repeated]


def session_table(sessions: Sequence[Mapping[str, Any]]) -> Cells | None:
    """A row for each session of a run; None if it was never resumed."""
    if len(sessions) < 2:
        return None
    columns = ("started", "from step", "command", "changed settings", "processor", "torch")
    rows = []
    for session in sessions:
        step, when = session.get("from_step", 0), str(session.get("started", UNKNOWN))
        changes = "; ".join(changed_settings(session).values()) or UNKNOWN
        rows.append([when, f"{step}", typed(session), changes, *(str(session.get(k, UNKNOWN)) for k in ON)])
    return Cells(columns, rows)


def machine(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the hardware and software that the run was trained with."""
    yield from ((name, environment[key]) for key, name in MACHINE.items() if key in environment)
    packages = environment.get("packages")
    if isinstance(packages, Mapping):
        yield "Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
