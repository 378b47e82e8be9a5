"""Tables on the console: the zoo, a network stage by stage, the runs of a folder, the scores of a split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnetlab.errors import BadInput, LabError, printable
from resnetlab.facts import score_line
from resnetlab.run_folder import RunFolder


def show_scores(scores: Mapping[str, Any], *, as_json: bool) -> None:
    """The result of an evaluation, class by class, or as JSON."""
    if as_json:
        print(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    table = make_table("class", "precision", "recall", "F1", "images")
    for row in scores["per_class"]:
        table.add_row(shown(row["name"]), *rates(row), str(row["support"]))
    table.add_section()
    for average in ("macro", "weighted"):
        row = scores[average]
        table.add_row(
            f"{average} mean", *map(percent, (row["precision"], row["recall"], row["f1"])), f"{scores['images']:,}"
        )
    console = output()
    console.print(table)
    console.print(score_line(scores), markup=False, soft_wrap=True)


def show_models(image_size: int | None, stem: str) -> None:
    """Every network with its cost, at one image size or at the one its paper used."""
    from resnetlab.models.describe import table as zoo

    rows = zoo(image_size, stem=stem)
    table = make_table("model", "px", "classes", "parameters", "MACs", "from")
    for row in rows:
        size = f"{row.image_size}"
        table.add_row(row.name, size, f"{row.num_classes:,}", millions(row.params), millions(row.macs), row.source)
    output().print(table)


def show_model(name: str, image_size: int | None, stem: str, num_classes: int | None) -> None:
    """One network stage by stage, and what to know before training it at this size."""
    from resnetlab.models.describe import PAPER_SETTING, describe, warnings_for
    from resnetlab.models.zoo import resolve

    papers_size, papers_classes = PAPER_SETTING[resolve(name).stem]
    size = papers_size if image_size is None else image_size
    classes = papers_classes if num_classes is None else num_classes
    rows = describe(name, size, num_classes=classes, stem=stem)
    table = make_table("stage", "output", "parameters", "MACs")
    for row in rows:
        table.add_row(row.stage, "×".join(map(str, row.shape)), f"{row.params:,}", millions(row.macs))
    table.add_section()
    table.add_row("in all", "", f"{sum(row.params for row in rows):,}", millions(sum(row.macs for row in rows)))
    console = output()
    chosen = resolve(name, stem=stem, image_size=size)
    console.print(f"{name}, {chosen.stem} stem, images of {size}×{size} px, {classes:,} classes ({chosen.source})")
    console.print(table)
    for warning in warnings_for(name, size, stem=stem):
        console.print(f"note: {warning}", markup=False, soft_wrap=True)


def show_runs(folder: Path) -> None:
    """The runs in a folder by validation accuracy; a folder that cannot be read is named below the table."""
    if not folder.is_dir():
        raise BadInput(f"{printable(folder)} is not a folder; `resnetlab train` makes runs in ./runs")
    found = [RunFolder(config.parent) for config in sorted(folder.glob("*/config.json"))]
    if not found:
        raise BadInput(f"there are no runs in {printable(folder)}; `resnetlab train` makes one")
    rows, broken = [], []
    for run in found:
        try:
            rows.append(run_row(run))
        except LabError as error:
            broken.append(str(error))
    table = make_table("run", "model", "data", "epochs", "val", "test", "minutes", "state")
    for _, *cells in sorted(rows, key=lambda row: -row[0]):
        table.add_row(*cells)
    console = output()
    console.print(table)
    for reason in broken:
        console.print(f"left out: {reason}", markup=False, soft_wrap=True)


def run_row(run: RunFolder) -> tuple[Any, ...]:
    """Its merit, and its cells."""
    config, rows, test = run.config, run.rows, run.final_metrics("test")
    best = max((row["val_accuracy"] for row in rows), default=None)
    minutes = sum(row["train_seconds"] for row in rows) / 60
    return (
        -1.0 if best is None else best,
        shown(run.path.name),
        config.model.name,
        shown(Path(config.data.name).name),
        str(len(rows)),
        percent(best),
        percent(test["accuracy"] if test else None),
        f"{minutes:.1f}",
        "finished" if run.is_scored else "unfinished",
    )


def make_table(*columns: str) -> Table:
    """A plain table: words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    words = {"class", "run", "stage", "model", "data", "from", "state", "output"}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    return table


def output() -> Console:
    """Stdout; where that is no terminal, no column is cut to fit one."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console


def rates(row: Mapping[str, float | None]) -> list[str]:
    return [percent(row[name]) for name in ("precision", "recall", "f1")]


def millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def shown(name: str) -> str:
    """A name from outside, without markup or control characters."""
    return escape(printable(name))
