"""The scores of several runs or series as a table: text, LaTeX and CSV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from resnetlab.evaluation.comparison import Summary, SummaryTable
from resnetlab.evaluation.intervals import LEAST_RUNS, RANGES, Repeats
from resnetlab.files import write_text
from resnetlab.report.comparison import UNKNOWN, Cells
from resnetlab.runs.csv_files import write_csv

HEADS = {"accuracy": "accuracy, %", "macro_f1": "macro-F1, %", "loss": "loss", "train_seconds": "training, s"}
SCALES = {"accuracy": (100, 2), "macro_f1": (100, 2), "loss": (1, 4), "train_seconds": (1, 1)}  # factor, decimals
WITH_INTERVAL = ("accuracy", "macro_f1")
STATISTICS = ("mean", "std", "min", "max", "low", "high")
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

LAST_LETTER = "\u017f"  # the last of the European letters in LaTeX's standard fonts


def cells(table: SummaryTable) -> Cells:
    """A row for each run or series: its name, the number of runs, mean ± std and 95 % interval of its scores."""
    columns = ["name", "n"]
    for score in RANGES:
        columns += [HEADS[score]] + ["95% interval"] * (score in WITH_INTERVAL)
    return Cells(tuple(columns), [row_cells(row) for row in table.rows])


def row_cells(row: Summary) -> list[str]:
    found = [row.name, str(row.n)]
    for score in RANGES:
        repeats = row.repeats(score)
        found.append(mean_and_std(score, repeats))
        if score in WITH_INTERVAL:
            ends = repeats.interval if repeats else None
            found.append(UNKNOWN if ends is None else " to ".join(rounded(score, end) for end in ends))
    return found


def mean_and_std(score: str, repeats: Repeats | None) -> str:
    if repeats is None:
        return UNKNOWN
    return rounded(score, repeats.mean) + ("" if repeats.std is None else f" ± {rounded(score, repeats.std)}")


def rounded(score: str, value: float) -> str:
    factor, decimals = SCALES[score]
    return f"{factor * value:.{decimals}f}"


def caption(table: SummaryTable) -> str:
    """The images of the scores, and the kind of each statistic."""
    has = {"seeds" if row.n > 1 else "images" for row in table.rows}
    means = ["mean ± standard deviation of n runs with different seeds"] * ("seeds" in has)
    over = {"seeds": "of the mean, over seeds (Student's t)", "images": "of a single run, over the images (bootstrap)"}
    intervals = " and ".join(over[kind] for kind in sorted(has, reverse=True))
    if any(1 < row.n < LEAST_RUNS for row in table.rows):
        intervals += f", none for fewer than {LEAST_RUNS} runs"
    chosen = "" if table.split == "test" else ", on which each run selected its best epoch"
    described = "; ".join([*means, f"95% intervals {intervals}"])
    return f"Scores on the {table.images:,} images of the {table.split} split of {table.data}{chosen}: {described}."


def latex(table: SummaryTable) -> str:
    """The table as a LaTeX `table` environment, with booktabs' rules if that package is loaded. Names are escaped.

    The caption states what was scored; split digest and notes are comments above the table.
    """
    found = cells(table)
    lines = [
        *(rf"\providecommand{{\{rule}}}{{\hline}}% from booktabs" for rule in ("toprule", "midrule", "bottomrule")),
        f"% split digest {ascii_only(table.split_digest)}",
        *(f"% note: {ascii_only(note)}" for note in table.notes),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption(table))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(found.columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, found.columns)) + r" \\",
        r"\midrule",
        *(" & ".join([escaped(row[0]), *map(number, row[1:])]) + r" \\" for row in found.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Text that LaTeX prints as it is. Letters that its standard fonts lack are given by their number.

    >>> print(escaped("a_b & 5% <c>"))
    a\_b \& 5\% \textless{}c\textgreater{}
    """
    return "".join(SPECIAL.get(c, c if c <= LAST_LETTER else f"[U+{ord(c):04X}]") for c in text)


def number(text: str) -> str:
    """Numbers with LaTeX's minus and plus-minus signs."""
    return re.sub(r"-(?=\d)", "$-$", escaped(text))


def ascii_only(text: str) -> str:
    """Text for a comment, on one line."""
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")


def write_latex(path: Path, table: SummaryTable) -> None:
    """Write the LaTeX table. Raises DiskTrouble."""
    write_text(path, latex(table))


def write_scores_csv(path: Path, table: SummaryTable) -> None:
    """Write the statistics with all their digits: a row for each run or series. Raises DiskTrouble."""
    header = ["name", "n", "data", "split", "images", "split_digest", "interval_over"]
    header += [f"{score}_{name}" for score in RANGES for name in STATISTICS]
    write_csv(path, [*header, *table.settings], [csv_row(table, place) for place in range(len(table.rows))])


def csv_row(table: SummaryTable, place: int) -> list[Any]:
    row = table.rows[place]
    found: list[Any] = [row.name, row.n, table.data, table.split, table.images, table.split_digest]
    found.append("seeds" if row.n > 1 else "images")
    for score in RANGES:
        repeats = row.repeats(score)
        low, high = (repeats.interval if repeats else None) or (None, None)
        values = [None] * 4 if repeats is None else [repeats.mean, repeats.std, repeats.min, repeats.max]
        found += [*values, low, high]
    settings = [values[place] for values in table.settings.values()]
    return [*found, *(" ".join(map(str, value)) if isinstance(value, list) else value for value in settings)]
