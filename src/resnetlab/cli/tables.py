"""Tables on the console: the zoo, a network stage by stage, the runs of a folder, the scores of a split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnetlab.errors import BadInput, LabError, printable
from resnetlab.evaluation.access_log import AccessLog, runs_were, times
from resnetlab.evaluation.comparison import Comparison
from resnetlab.report.comparison import WORDS, cost, heading, quality, sentences
from resnetlab.runs.folder import SHARED_LEDGER, RunFolder
from resnetlab.runs.messages import score_line
from resnetlab.runs.series import SUMMARY, Series

if TYPE_CHECKING:
    from resnetlab.cli.inspection import ImageActivations, InspectedModel


def show_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_scores(scores: Mapping[str, Any]) -> None:
    """The result of an evaluation, class by class, and in a line or two."""
    table = make_table("class", "precision", "recall", "F1", "images")
    for row in scores["per_class"]:
        table.add_row(shown(row["name"]), *rates(row), str(row["support"]))
    table.add_section()
    for average in ("macro", "weighted"):
        table.add_row(f"{average} mean", *rates(scores[average]), f"{scores['images']:,}")
    output().print(table)
    say(score_line(scores))
    say(calibration_line(scores["calibration"]))


def calibration_line(calibration: Mapping[str, Any]) -> str:
    """How far probabilities are off, and how far after the temperature."""
    told, after = f"calibration error {percent(calibration['ece'])}", calibration["after"]
    if after is None:
        return f"      {told}"
    temperature = calibration["temperature"]
    used = f"temperature {temperature['value']:.3f}, fitted on {temperature['images']:,} {temperature['split']} images"
    return f"      {told}, {percent(after['ece'])} at {used}"


def show_comparison(comparison: Comparison) -> None:
    """What each run scored and took, and whether the best is better."""
    say(heading(comparison))
    for cells in (quality(comparison), cost(comparison)):
        table = make_table(*cells.columns)
        for row in cells.rows:
            table.add_row(*map(escape, row))
        output().print(table)
    for sentence in sentences(comparison):
        say(sentence)


def show_series(series: Series) -> None:
    """The scores of each run of a series, and what they say together."""
    summary = series.summary()
    rows, together = summary["runs"], summary["together"]
    table = make_table("seed", "accuracy", "macro-F1", "loss", "training, s")
    forms = {"accuracy": "{:.2%}", "macro_f1": "{:.2%}", "loss": "{:.4f}", "train_seconds": "{:.1f}"}
    for row in rows:
        table.add_row(str(row["seed"]), *(written(form, row[score]) for score, form in forms.items()))
    table.add_section()
    for label, numbers in (
        ("mean ± std", ("mean", "std")),
        ("min", ("min",)),
        ("max", ("max",)),
        (f"{summary['level']:.0%} interval of the mean", ("interval",)),
    ):
        table.add_row(label, *(repeated(form, together[score], numbers) for score, form in forms.items()))
    output().print(table)
    images = f"{rows[0]['images']:,} " if rows else ""
    chosen = "" if summary["split"] == "test" else ", on which each chose its best epoch"
    say(f"{len(rows)} runs, scored on the same {images}{summary['split']} images{chosen}")
    say(f"the series is in {series.path}: {SUMMARY}, {', '.join(row['folder'] for row in rows)}")


def written(form: str, value: float | None) -> str:
    return "–" if value is None else form.format(value)


def repeated(form: str, repeats: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    """One or two numbers of what runs say together: "a ± b", "a to b", or a dash where there is nothing to say."""
    values = [None] if repeats is None else [repeats[name] for name in names]
    if isinstance(values[0], tuple):
        return " to ".join(written(form, end) for end in values[0])
    return " ± ".join(written(form, value) for value in values)


def say(line: str) -> None:
    """A line in which no word is taken for markup or for a command to the terminal."""
    output().print(printable(line), markup=False, soft_wrap=True)


def show_models(image_size: int | None, stem: str) -> None:
    """Every network with its cost, at one image size or at the one its paper used."""
    from resnetlab.models.summary import table as zoo

    rows = zoo(image_size, stem=stem)
    table = make_table("model", "px", "classes", "parameters", "MACs", "from")
    for row in rows:
        size = f"{row.image_size}"
        table.add_row(row.name, size, f"{row.num_classes:,}", millions(row.params), millions(row.macs), row.source)
    output().print(table)


def show_model(model: InspectedModel, image: ImageActivations | None = None) -> None:
    """One network stage by stage, with the statistics of an image's activations, and notes about training it."""
    rows, statistics = model.rows(), {} if image is None else image.statistics()
    table = make_table("stage", "output", "parameters", "MACs", *(("mean", "std") if image else ()))
    for row in rows:
        cells = (row.stage, "×".join(map(str, row.shape)), f"{row.params:,}", millions(row.macs))
        table.add_row(*cells, *(f"{value:.4g}" for value in statistics.get(row.stage, ())))
    table.add_section()
    table.add_row("total", "", f"{sum(row.params for row in rows):,}", millions(sum(row.macs for row in rows)))
    say(model.heading)
    output().print(table)
    for line in [*model.notes(), *([] if image is None else [image.prediction()])]:
        say(line)


def show_runs(folder: Path) -> None:
    """The runs in a folder by validation accuracy, and how often each test set was looked at.

    A folder that cannot be read is named below the table.
    """
    if not folder.is_dir():
        raise BadInput(f"{printable(folder)} is not a folder; `resnetlab train` makes runs in ./runs")
    found = [RunFolder(config.parent) for config in sorted(folder.glob("*/config.json"))]
    series = [path.parent for path in sorted(folder.glob(f"*/{SUMMARY}"))]
    if not found and not series:
        raise BadInput(f"there are no runs in {printable(folder)}; `resnetlab train` makes one")
    rows, broken = [], []
    for run in found:
        try:
            rows.append(run_row(run))
        except LabError as error:
            broken.append(str(error))
    table = make_table("run", "model", "data", "epochs", "val", "test", "minutes", "state")
    for _, cells in sorted(rows, key=lambda row: row[0]):
        table.add_row(*cells)
    if rows:
        output().print(table)
    told = [f"series {path.name}: its runs are listed by `resnetlab runs {path}`" for path in series]
    for line in [*told, *looks_at_test_sets(folder), *(f"left out: {reason}" for reason in broken)]:
        say(line)


def run_row(run: RunFolder) -> tuple[tuple[float, float], list[str]]:
    """Its place among the others, by its best validation accuracy and then its loss in that epoch; and its cells."""
    config, rows, test = run.config, run.rows, run.final_metrics("test")
    merit = min(((-row["val_accuracy"], row["val_loss"]) for row in rows), default=(1.0, 0.0))
    minutes = sum(row["train_seconds"] for row in rows) / 60
    return merit, [
        shown(run.path.name),
        config.model.name,
        shown(Path(config.data.name).name),
        str(len(rows)),
        percent(-merit[0] if rows else None),
        percent(test["accuracy"] if test else None),
        f"{minutes:.1f}",
        "finished" if run.is_scored else "unfinished",
    ]


def looks_at_test_sets(folder: Path) -> list[str]:
    """What the ledger of a folder of runs says, a line for each test set."""
    ledger = AccessLog(None, (folder / SHARED_LEDGER,))
    looks, notes = ledger.accesses()
    lines = []
    for digest, look in {look.split_digest: look for look in looks}.items():
        count = ledger.count("", digest)
        told = f"{runs_were(count.runs)} scored on it, {times(count.accesses)} in all"
        lines.append(f"test set {digest[:8]}, {look.images:,} images of {look.data}: {told}")
    return [*lines, *notes]


def make_table(*columns: str) -> Table:
    """A plain table: words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    words = {"class", "run", "stage", "model", "data", "from", "state", "output", "seed", *WORDS}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    return table


def output() -> Console:
    """A console on stdout that never cuts or wraps a table, whatever the width of the terminal."""
    return Console(highlight=False, width=1000)


def rates(row: Mapping[str, float | None]) -> list[str]:
    return [percent(row[name]) for name in ("precision", "recall", "f1")]


def millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def shown(name: str) -> str:
    """A name from outside, without markup or control characters."""
    return escape(printable(name))
