"""The numbers of a report: each is looked up where it stands in the run's files, and says where that is."""

from __future__ import annotations

from typing import Any

from resnetlab.evaluation.intervals import wilson
from resnetlab.report.html import Html, text
from resnetlab.report.pieces import UNDEFINED, between, element, join, more, number, table
from resnetlab.report.reading import Facts, Scored, is_number

Path = tuple[str | int, ...]

TILES: tuple[tuple[str, Path, str, Path | None], ...] = (
    ("Accuracy", ("accuracy",), "percent", ("intervals", "accuracy")),
    ("Macro-F1", ("macro", "f1"), "percent", ("intervals", "macro_f1")),
    ("Log-loss", ("loss",), "plain", None),
    ("Calibration error (ECE)", ("calibration", "ece"), "percent", None),
)
SCORES: tuple[tuple[str, Path, str], ...] = (
    ("Images", ("images",), "count"),
    ("Accuracy", ("accuracy",), "percent"),
    ("Top-2 accuracy", ("top_k_accuracy", "2"), "percent"),
    ("Top-3 accuracy", ("top_k_accuracy", "3"), "percent"),
    ("Top-5 accuracy", ("top5_accuracy",), "percent"),
    ("Balanced accuracy", ("balanced_accuracy",), "percent"),
    ("Macro precision", ("macro", "precision"), "percent"),
    ("Macro recall", ("macro", "recall"), "percent"),
    ("Macro-F1", ("macro", "f1"), "percent"),
    ("Weighted precision", ("weighted", "precision"), "percent"),
    ("Weighted recall", ("weighted", "recall"), "percent"),
    ("Weighted F1", ("weighted", "f1"), "percent"),
    ("Macro ROC AUC, one against the rest", ("macro", "roc_auc"), "plain"),
    ("Matthews' correlation", ("mcc",), "plain"),
    ("Cohen's kappa", ("cohen_kappa",), "plain"),
    ("Log-loss", ("loss",), "plain"),
    ("Brier score", ("brier",), "plain"),
    ("Calibration error (ECE)", ("calibration", "ece"), "percent"),
    ("Temperature, fitted on validation", ("calibration", "temperature", "value"), "plain"),
    ("Log-loss at that temperature", ("calibration", "after", "loss"), "plain"),
    ("Brier score at that temperature", ("calibration", "after", "brier"), "plain"),
    ("Calibration error at that temperature", ("calibration", "after", "ece"), "percent"),
)
INTERVALS: dict[Path, Path] = {("accuracy",): ("intervals", "accuracy"), ("macro", "f1"): ("intervals", "macro_f1")}


def cited(scored: Scored, path: Path, style: str) -> Html:
    """A number of metrics.json."""
    return number(scored.at(*path), style, source="/".join(map(str, (scored.key, *path))))


def cited_interval(scored: Scored, path: Path, style: str) -> Html:
    """An interval of metrics.json."""
    return between(scored.at(*path), style, source="/".join(map(str, (scored.key, *path))))


def headline(facts: Facts) -> list[Html]:
    """The few numbers to remember, and all of them."""
    main = facts.main
    if main is None:
        return []
    tiles = [tile(main, *given) for given in TILES if main.at(*given[1][:1]) is not None]
    said = [
        f"On the {main.metrics['images']:,} images of the {main.title}, with the weights of the best epoch, in fp32."
    ]
    if main.at("intervals"):
        said.append(
            "Intervals are 95 % bootstraps over the images: other images of the same kind, not other trainings."
        )
    parts = [element("p", text(" ".join(said)), class_="muted"), element("div", *tiles, class_="tiles")]
    if facts.count is not None:
        parts.append(element("p", text(f"{facts.count.sentence().capitalize()}."), id="access-log"))
    return [*parts, all_scores(list(facts.scored.values()))]


def tile(scored: Scored, name: str, path: Path, style: str, interval: Path | None) -> Html:
    """One number, large, with its interval."""
    spread = cited_interval(scored, interval, style) if interval else Html("")
    below = element("span", text("95 % interval "), spread, class_="interval") if spread else Html("")
    if path[0] == "calibration" and scored.at("calibration", "after"):
        value = cited(scored, ("calibration", "after", "ece"), style)
        below = element("span", value, text(" when tempered"), class_="interval")
    shown = element("span", cited(scored, path, style), class_="big")
    return element("div", element("h3", text(name)), shown, below, class_="tile")


def all_scores(scored: list[Scored]) -> Html:
    """Every score of every split, as far as any of them has it."""
    rows = []
    for name, path, style in SCORES:
        if all(one.at(*path) is None for one in scored) and path[0] in ("calibration", "top_k_accuracy", "brier"):
            continue
        cells = []
        for one in scored:
            spread = cited_interval(one, INTERVALS[path], style) if path in INTERVALS else Html("")
            below = join("<br>", element("span", spread, class_="interval muted")) if spread else Html("")
            cells.append(join(cited(one, path, style), below))
        rows.append([text(name), *cells])
    columns = ["score", *(one.title.removesuffix(" split") for one in scored)]
    return more("All scores", table(columns, rows, caption="Scores by split; hover over a number for all its digits"))


def class_table(scored: Scored) -> Html:
    """Class by class; with a confusion matrix, recall has an interval."""
    rows = []
    columns = ["class", "images", "precision", "recall", "recall, 95 % interval", "F1", "ROC AUC"]
    for place, row in enumerate(scored.metrics["per_class"]):
        cells = [cited(scored, ("per_class", place, "support"), "count")]
        cells += [cited(scored, ("per_class", place, name), "percent") for name in ("precision", "recall")]
        cells.append(recall_interval(row.get("recall"), row["support"]))
        f1, share = cited(scored, ("per_class", place, "f1"), "percent"), row.get("f1")
        cells.append(element("span", f1, class_="share", style=f"--share:{share if is_number(share) else 0:.4f}"))
        cells.append(cited(scored, ("per_class", place, "roc_auc"), "plain"))
        rows.append([text(row["name"]), *cells])
    if all(row.get("roc_auc") is None for row in scored.metrics["per_class"]):
        columns, rows = columns[:-1], [cells[:-1] for cells in rows]
    caption = f"{len(rows):,} classes of the {scored.title}; intervals after Wilson."
    return element(
        "div", table(columns, rows, caption=caption, kind="long sortable"), class_="many" if len(rows) > 30 else None
    )


def recall_interval(recall: Any, support: int) -> Html:
    """The 95 % interval of a recall (Wilson)."""
    if not is_number(recall) or not support:
        return UNDEFINED
    low, high = wilson(round(recall * support), support)
    return between([float(low), float(high)], "percent")


def epoch_table(facts: Facts) -> Html:
    """Every epoch in numbers."""
    columns = ["epoch", "learning rate", "train loss", "train accuracy", "val loss", "val accuracy", "val macro-F1"]
    keys = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")
    rows = []
    for row in facts.rows:
        source = f"epochs/{row['epoch']}"
        best = " ★" if row["epoch"] == facts.best_epoch else ""
        numbers = [
            number(row[key], "plain" if key.endswith("loss") else "percent", source=f"{source}/{key}") for key in keys
        ]
        rows.append([text(f"{row['epoch']}{best}"), number(row["lr"], "short", source=f"{source}/lr"), *numbers])
    caption = "Training scores are those of a fixed sample, not augmented, in evaluation mode. ★ best epoch."
    return more(f"Epoch by epoch ({len(rows):,})", table(columns, rows, caption=caption))
