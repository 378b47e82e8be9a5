"""A comparison in words: two tables, a sentence for each pair, and the page that they stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resnetlab.evaluation.access_log import runs_were, times
from resnetlab.evaluation.comparison import ComparedRun, Comparison, Pair
from resnetlab.evaluation.intervals import RESAMPLES, Interval
from resnetlab.files import write_json, write_text
from resnetlab.report import html
from resnetlab.runs.evaluation_files import make_folder

WORDS = ("run", "verdict", "network", "machine")  # columns that are not numbers
UNKNOWN = "–"


class Cells(NamedTuple):
    """A table as text."""

    columns: tuple[str, ...]
    rows: list[list[str]]


def quality(comparison: Comparison) -> Cells:
    """What each run scored, and how it differs from the best."""
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
    """What each run took."""
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


def heading(comparison: Comparison) -> str:
    augmented = "" if comparison.tta == "none" else f", test-time augmentation: {comparison.tta}"
    return (
        f"{len(comparison.runs)} runs on the {comparison.images:,} images of the {comparison.split} split of "
        f"{comparison.data}{augmented}"
    )


def sentences(comparison: Comparison) -> Iterator[str]:
    """What follows from the numbers, and what to know about them."""
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

    make_folder(folder)
    page, curves = folder / "comparison.html", folder / "curves.png"
    runs = [(run.name, run.epoch_rows) for run in comparison.runs]
    save(overlaid_curves(runs, comparison.data), curves)
    write_json(folder / "comparison.json", comparison.to_json())
    write_text(page, write_up(comparison, curves.read_bytes()))
    return page


def write_up(comparison: Comparison, curves: bytes) -> str:
    """The page, with the learning curves (a PNG) in it."""
    pairs = Cells(
        ("best", "other", "only the best is right", "only the other is right", "p, McNemar", "p, after Holm"),
        [
            [p.best, p.other, f"{p.only_best:,}", f"{p.only_other:,}", f"{p.p_value:.3g}", f"{p.adjusted_p_value:.3g}"]
            for p in comparison.pairs
        ],
    )
    return html.page(
        f"Comparison of {heading(comparison)}",
        html.items(sentences(comparison)),
        html.section("Scores", html.table(*quality(comparison), words=WORDS)),
        html.section("Pairs", html.table(*pairs, words=("best", "other")), html.paragraph(METHOD, muted=True)),
        html.section("Cost", html.table(*cost(comparison), words=WORDS)),
        html.section("Learning curves", html.picture(curves, "validation loss and accuracy of each run")),
        footer=f"split digest {comparison.split_digest}",
    )


METHOD = (
    f"Intervals are 95 % percentile bootstraps over the images ({RESAMPLES:,} resamples); the difference is resampled "
    "on the images that both were scored on. McNemar's test is exact, and Holm's correction is taken over all pairs of "
    "runs. Two runs are called distinguishable below 0.05. What is compared is these trained models: whether one "
    "recipe is better than another takes several seeds of each."
)


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.2%}"


def spread(interval: Interval | None) -> str:
    return UNKNOWN if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"
