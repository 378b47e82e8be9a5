"""A comparison as tables, sentences and a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnetlab.evaluation.access_log import runs_were, times
from resnetlab.evaluation.comparison import ComparedRun, Comparison, Pair, SummaryTable
from resnetlab.evaluation.intervals import RESAMPLES, Interval
from resnetlab.files import write_json, write_text
from resnetlab.runs.config import value_text
from resnetlab.runs.evaluation_files import make_folder

if TYPE_CHECKING:
    from resnetlab.report.render import Picture

WORDS = ("run", "verdict", "network", "machine")  # columns that are not numbers
UNKNOWN = "–"


class Cells(NamedTuple):
    """A table as text."""

    columns: tuple[str, ...]
    rows: list[list[str]]


def quality(comparison: Comparison) -> Cells:
    """Scores of each run, and its difference from the best."""
    columns = ("run", "accuracy", "95% interval", "macro-F1", "points behind", "interval", "p", "verdict")
    rows = []
    for run in comparison.runs:
        scored = [run.name, percent(run.accuracy), spread(run.accuracy_interval)]
        rows.append([*scored, percent(run.macro_f1), *against_best(comparison.pair(run))])
    return Cells(columns, rows)


def against_best(pair: Pair | None) -> list[str]:
    if pair is None:
        return ["", "", "", "best"]
    points = UNKNOWN if pair.interval is None else f"{100 * pair.interval[0]:.2f} to {100 * pair.interval[1]:.2f}"
    return [f"{100 * pair.difference:.2f}", points, f"{pair.adjusted_p_value:.2g}", pair.verdict]


def cost(comparison: Comparison) -> Cells:
    """Size, training time and machine of each run."""
    columns = ("run", "network", "parameters", "MACs", "epochs", "minutes", "images/s", "machine")
    return Cells(columns, [cost_row(run) for run in comparison.runs])


def cost_row(run: ComparedRun) -> list[str]:
    return [
        run.name,
        run.model,
        UNKNOWN if run.parameters is None else f"{run.parameters / 1e6:,.2f} M",
        UNKNOWN if run.macs is None else f"{run.macs / 1e6:,.1f} M",
        f"{run.epochs:,}",
        f"{run.train_seconds / 60:,.1f}",
        UNKNOWN if run.images_per_second is None else f"{run.images_per_second:,.0f}",
        run.machine or UNKNOWN,
    ]


def settings_table(comparison: Comparison | SummaryTable) -> Cells:
    """The settings that differ, a row each, with their value in each run."""
    rows = [[path, *map(value_text, values)] for path, values in comparison.settings.items()]
    return Cells(("setting", *comparison.names), rows)


def settings_sentence(comparison: Comparison | SummaryTable) -> str:
    """The names of the settings that differ."""
    if not comparison.settings:
        return "all settings that affect the result are the same"
    return f"different settings: {', '.join(comparison.settings)}"


def heading(comparison: Comparison) -> str:
    augmented = "" if comparison.tta == "none" else f", test-time augmentation: {comparison.tta}"
    return (
        f"{len(comparison.runs)} runs on the {comparison.images:,} images of the {comparison.split} split of "
        f"{comparison.data}{augmented}"
    )


def sentences(comparison: Comparison) -> Iterator[str]:
    """Results of the tests, uses of the test set, and notes."""
    yield from (pair.sentence() for pair in comparison.pairs)
    if comparison.split == "test":
        uses = ", ".join(f"{run.name} {times(run.test_set_uses)}" for run in comparison.runs)
        yield f"test set use: {runs_were(comparison.runs_on_split)} scored on this test set; {uses}"
    yield from (f"note: {note}" for note in comparison.notes)


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write comparison.json, curves.png and comparison.html into a folder, and return the path of the page.

    Raises DiskTrouble.
    """
    from resnetlab.plots.curves import overlaid_curves  # matplotlib takes its time to import
    from resnetlab.plots.style import save
    from resnetlab.report.render import picture

    make_folder(folder)
    page = folder / "comparison.html"
    figure = overlaid_curves([(run.name, run.epoch_rows) for run in comparison.runs], comparison.data)
    save(figure, folder / "curves.png")
    write_json(folder / "comparison.json", comparison.to_json())
    write_text(page, build(comparison, picture(figure, "Validation loss and accuracy of each run")))
    return page


def build(comparison: Comparison, curves: Picture) -> str:
    """The page as text."""
    from resnetlab.report.render import render

    pairs = [
        [p.best, p.other, f"{p.only_best:,}", f"{p.only_other:,}", f"{p.p_value:.3g}", f"{p.adjusted_p_value:.3g}"]
        for p in comparison.pairs
    ]
    return render(
        "comparison.html.j2",
        title=f"Comparison of {len(comparison.runs)} runs on {comparison.data}",
        kicker="resnetlab comparison",
        about=f"{heading(comparison)}.",
        sections={
            "settings": "Settings",
            "scores": "Scores",
            "pairs": "Pairs",
            "curves": "Learning curves",
            "cost": "Cost",
        },
        sentences=[settings_sentence(comparison), *sentences(comparison)],
        settings=settings_table(comparison),
        quality=quality(comparison),
        pairs=Cells(("best", "other", "best only", "other only", "p, McNemar", "p, after Holm"), pairs),
        cost=cost(comparison),
        curves=curves,
        words=WORDS,
        method=METHOD,
        split_digest=comparison.split_digest,
    )


METHOD = (
    f"Intervals are 95 % percentile bootstraps over the images ({RESAMPLES:,} resamples). McNemar's test is exact, and "
    "Holm's correction is over all pairs of runs. A difference is significant if the corrected p is below 0.05. The "
    "test is about these trained models. To compare two recipes, train several seeds of each."
)


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.2%}"


def spread(interval: Interval | None) -> str:
    return UNKNOWN if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"
