"""Tables on stdout, a function for each kind of result: networks, runs, scores, comparisons, model files and so on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnetlab.cli.config_file import json_text
from resnetlab.cli.words import in_flags
from resnetlab.errors import BadInput, LabError, as_typed, printable
from resnetlab.evaluation.access_log import AccessLog, runs_were, times
from resnetlab.evaluation.intervals import LEAST_RUNS
from resnetlab.runs import recipes
from resnetlab.runs.config import LENGTH, RunConfig, value_text
from resnetlab.runs.differences import differing
from resnetlab.runs.folder import SHARED_ACCESS_LOG, RunFolder
from resnetlab.runs.messages import score_line
from resnetlab.runs.series import SUMMARY, Series

if TYPE_CHECKING:
    from resnetlab.cli.description import ModelDescription
    from resnetlab.cli.inspection import ImageActivations, InspectedModel
    from resnetlab.evaluation.comparison import Comparison, SummaryTable
    from resnetlab.inference.importing import Imported
    from resnetlab.report.comparison import Cells
    from resnetlab.runs.doctor import Diagnosis
    from resnetlab.runs.label_issues import Examined
    from resnetlab.runs.sweeps.sweep import Sweep


WORD_COLUMNS = ("class", "run", "stage", "model", "data", "from", "state", "output", "seed", "fold", "settings")


def show_json(value: Mapping[str, Any]) -> None:
    print(json_text(value))


def show_scores(scores: Mapping[str, Any], columns: Mapping[str, Sequence[str]] | None = None) -> None:
    """Print the scores of a split: a row per class, the means, accuracy and calibration.

    `columns` are further ones by their heading, a text for each class.
    """
    more = columns or {}
    table = make_table("class", "precision", "recall", "F1", "images", *more)
    for place, row in enumerate(scores["per_class"]):
        cells = (column[place] for column in more.values())
        table.add_row(escaped(row["name"]), *rates(row), str(row["support"]), *cells)
    table.add_section()
    for average in ("macro", "weighted"):
        table.add_row(f"{average} mean", *rates(scores[average]), f"{scores['images']:,}")
    output().print(table)
    print_line(score_line(scores))
    print_line(calibration_line(scores["calibration"]))


def calibration_line(calibration: Mapping[str, Any]) -> str:
    """The calibration error in a line, before and after temperature scaling."""
    error, after = f"calibration error {percent(calibration['ece'])}", calibration["after"]
    if after is None:
        return f"      {error}"
    temperature = calibration["temperature"]
    used = f"temperature {temperature['value']:.3f}, fitted on {temperature['images']:,} {temperature['split']} images"
    return f"      {error}, {percent(after['ece'])} at {used}"


def show_comparison(comparison: Comparison) -> None:
    """Print the settings that differ, scores and cost of each run, and which differences are significant."""
    from resnetlab.report.comparison import WORDS, cost, heading, quality, sentences

    print_line(heading(comparison))
    show_settings(comparison)
    for cells in (quality(comparison), cost(comparison)):
        show_cells(cells, WORDS)
    for sentence in sentences(comparison):
        print_line(sentence)


def show_summaries(found: SummaryTable) -> None:
    """Print the settings that differ, and mean, spread and interval of each run or series."""
    from resnetlab.report.score_table import caption, cells

    show_settings(found)
    show_cells(cells(found), ("name",))
    print_line(caption(found))
    for note in found.notes:
        print_line(f"note: {note}")


def show_settings(found: Comparison | SummaryTable) -> None:
    """Print the settings that differ, in a table, or that there are none."""
    from resnetlab.report.comparison import settings_sentence, settings_table

    print_line(settings_sentence(found))
    cells = settings_table(found)
    if cells.rows:
        show_cells(cells, cells.columns)


def show_cells(cells: Cells, words: Collection[str]) -> None:
    table = make_table(*map(escape, cells.columns), words=[escape(word) for word in words])
    for row in cells.rows:
        table.add_row(*map(escape, row))
    output().print(table)


def show_series(series: Series) -> None:
    """Print the scores of each run of a series, and their mean, spread and range."""
    summary = series.summary()
    rows, together = summary["runs"], summary["together"]
    table = make_table(series.kind, "accuracy", "macro-F1", "loss", "training, s")
    forms = {"accuracy": "{:.2%}", "macro_f1": "{:.2%}", "loss": "{:.4f}", "train_seconds": "{:.1f}"}
    for row in rows:
        table.add_row(str(row[series.kind]), *(formatted(form, row[score]) for score, form in forms.items()))
    table.add_section()
    for label, numbers in (
        ("mean ± std", ("mean", "std")),
        ("min", ("min",)),
        ("max", ("max",)),
        *([(f"{summary['level']:.0%} interval of the mean", ("interval",))] if series.kind == "seed" else []),
    ):
        table.add_row(label, *(formatted_statistics(form, together[score], numbers) for score, form in forms.items()))
    output().print(table)
    if series.kind == "fold":
        show_pooled(series, summary)
        return
    images = f"{rows[0]['images']:,} " if rows else ""
    chosen = "" if summary["split"] == "test" else ", on which each run selected its best epoch"
    print_line(f"{len(rows)} runs, scored on the same {images}{summary['split']} images{chosen}")
    if 1 < len(rows) < LEAST_RUNS:
        print_line(f"{len(rows)} runs are too few for an interval of the mean; --seeds {LEAST_RUNS} or more give one")
    print_line(f"the series is in {series.path}: {SUMMARY}, {', '.join(row['folder'] for row in rows)}")


def show_sweep(found: Sweep) -> None:
    """Print the best trials of a sweep with their settings, and the number of trials in each state."""
    from resnetlab.report.sweep import counts, text

    form = "{:.4f}" if found.score_name == "loss" else "{:.2%}"
    table = make_table("trial", f"val {found.score_name.replace('_', '-')}", *found.space.paths)
    for trial in found.finished[:SHOWN_TRIALS]:
        values = (escaped(text(trial.values[path])) for path in found.space.paths)
        table.add_row(str(trial.number), formatted(form, trial.score), *values)
    output().print(table)
    print_line(counts(found))
    if found.test_scores is not None:
        print_line(score_line(found.test_scores))


SHOWN_TRIALS = 10  # the best ones; the page has all


def show_diagnosis(found: Diagnosis) -> None:
    """Print the facts of an examination, the images by class and split, and what was found, the worst last."""
    for heading, facts in (("machine", found.machine), ("data", found.data), ("training", found.training)):
        if facts:
            table = make_table(heading, "", words=(heading, ""))
            for name, value in facts.items():
                table.add_row(name, escaped(value))
            output().print(table)
    if found.counts:
        show_counts(found.counts)
    if found.findings:
        signs = {"error": "✗", "warning": "!", "note": "·"}
        table = make_table("", "finding", "images", "what to know", words=("", "finding", "what to know"))
        for finding in found.findings:
            images = sum(map(len, finding.groups))
            count = f"{images:,}" if images else ""
            table.add_row(signs[finding.severity], escaped(finding.kind), count, escaped(finding.sentence))
        output().print(table)
    if found.survey is not None:
        show_broken([shown.reason for shown in found.survey.broken])


MOST_BROKEN = 100  # lines; more would hide the tables above them


def show_broken(reasons: Sequence[str]) -> None:
    """Print each image that cannot be read, with the reason, a line each."""
    for reason in reasons[:MOST_BROKEN]:
        print_line(f"broken   {in_flags(reason)}")
    if len(reasons) > MOST_BROKEN:
        print_line(f"broken   {len(reasons) - MOST_BROKEN:,} more; --json names all")


MOST_CLASSES = 30  # rows of a table read at a glance


def show_counts(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print the images by class and split; of many classes, the largest and the smallest."""
    rows = sorted(counts.items(), key=lambda row: -row[1]["train"])
    half = MOST_CLASSES // 2
    shown = rows if len(rows) <= MOST_CLASSES else [*rows[:half], *rows[-half:]]
    table = make_table("class", "train", "val", "test")
    for place, (name, row) in enumerate(shown):
        if len(shown) < len(rows) and place == half:
            table.add_row(f"… {len(rows) - len(shown):,} more", "", "", "")
        table.add_row(escaped(name), *(f"{row[split]:,}" for split in ("train", "val", "test")))
    output().print(table)


def show_import(imported: Imported) -> None:
    """Print what an import renamed and assumed, the network and its preprocessing, and the next step."""
    network, pixels = imported.model.network, imported.model.preprocessing
    architecture = network.architecture
    for note in imported.notes:
        print_line(f"note     {note}")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    about = f"{architecture.stem} stem, shortcuts {architecture.shortcut}, {parameters:,} parameters"
    print_line(f"network  {network.name}: {about}, {len(imported.model.classes):,} classes")
    sizes = f"{pixels.fit} to {pixels.resize_to} px, input {pixels.image_size} px"
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    print_line(f"pixels   {sizes}, mean {mean}, std {std}")
    print_line("checked  two images of noise give finite logits")
    print_line(f"the model file is {imported.path}; it has no temperature and no rejection threshold")
    print_line(f"score it with: resnetlab evaluate {as_typed(imported.path)} --data FOLDER")


def show_info(found: ModelDescription) -> None:
    """Print the content of a model file: facts, scores, and rejection thresholds."""
    table = make_table("", "", words=("",))
    table.show_header = False
    for name, value in found.lines():
        table.add_row(name, escaped(value))
    output().print(table)
    if found.scores():
        table = make_table("split", "images", "accuracy", "95% interval", "macro-F1", "95% interval", "loss")
        for score in found.scores():
            rates = (score.accuracy, score.accuracy_interval, score.macro_f1, score.macro_f1_interval)
            cells = (span(rate) if isinstance(rate, tuple) else percent(rate) for rate in rates)
            table.add_row(escaped(score.split), f"{score.images:,}", *cells, f"{score.loss:.4f}")
        output().print(table)
    validation = found.model.validation
    if validation is None:
        return
    if not validation.rejections:
        print_line(f"no rejection thresholds: {validation.images:,} validation images support none of the risks")
        return
    table = make_table("risk at most", "accepted from probability", "validation images accepted")
    for one in validation.rejections:
        table.add_row(f"{100 * one.risk:g}%", one.threshold_text, f"{one.coverage:.1%}")
    output().print(table)
    example = f"{validation.rejections[0].risk:g}"
    print_line(
        "risk: share of wrong answers among the accepted ones; each holds with a confidence of "
        f"{validation.confidence:.0%} on images like the validation images (resnetlab predict --reject {example})"
    )


def span(interval: tuple[float, float]) -> str:
    """An interval of shares."""
    return f"{interval[0]:.2%} to {interval[1]:.2%}"


def show_suspects(examined: Examined) -> None:
    """Print the suspected images, the most suspect first, at most 20."""
    suspects = examined.suspects()
    table = make_table(
        "file", "label", "its probability", "suggested", "probability", words=("file", "label", "suggested")
    )
    for suspect in suspects[:20]:
        label, suggested = escaped(suspect.label), escaped(suspect.suggested)
        table.add_row(escaped(suspect.name), label, percent(suspect.quality), suggested, percent(suspect.probability))
    if suspects:
        output().print(table)
    count = f"{len(suspects):,} of {len(examined.names):,} labels are suspected to be wrong"
    print_line(f"{count}; examined: {examined.source}")


def show_explanations(images: Sequence[Mapping[str, Any]]) -> None:
    """Print the classes of each image, the agreement of the two methods, and the most similar image."""
    import numpy as np

    from resnetlab.plots.explanation import agreement, changes

    is_cut = any(min(image["visible"].values()) < 0.995 for image in images)
    has_similar = any(image["similar"] for image in images)
    part, nearest = ["part used"] * is_cut, ["most similar"] * has_similar
    heads = ("file", *part, "class", "probability", "if covered", "rank correlation", *nearest)
    table = make_table(*heads, words=("file", "class", "most similar"))
    for image in images:
        most = "".join(f"{one['label'] or one['file']}, {one['similarity']:.3f}" for one in image["similar"][:1])
        used = " × ".join(f"{share:.0%}" for share in image["visible"].values())
        for place, one in enumerate(image["classes"]):
            file, shares, similar = (escaped(image["file"]), used, escaped(most)) if place == 0 else ("", "", "")
            drops, correlation = np.asarray(one["drops"]), one["rank_correlation"]
            cells = (escaped(one["name"]), percent(one["probability"]), changes(drops), agreement(correlation))
            table.add_row(file, *[shares] * is_cut, *cells, *[similar] * has_similar)
    output().print(table)
    cam, patch, size = images[0]["grad_cam"], images[0]["occlusion"], images[0]["image_size"]
    few = f"; those of the last stage have only {cam['last_size']}×{cam['last_size']} positions"
    print_line(
        f"Grad-CAM uses the maps of {cam['stage']}, {cam['size']}×{cam['size']} positions"
        f"{few * (cam['size'] != cam['last_size'])}"
    )
    print_line(
        f"occlusion covers {patch['patch']}×{patch['patch']} of {size}×{size} pixels, {patch['stride']} apart; if "
        "covered: the lowest and the highest change of the probability"
    )
    if is_cut:
        print_line("part used: the central share of the width and the height that the network gets")


def show_pooled(series: Series, summary: Mapping[str, Any]) -> None:
    """Print the scores of the predictions of all folds as one set."""
    pooled = summary["pooled"]
    if pooled is not None:
        print_line(score_line(pooled))
        print_line(calibration_line(pooled["calibration"]))
    print_line(
        f"the series is in {series.path}: {SUMMARY}, evaluation/test, {', '.join(r['folder'] for r in summary['runs'])}"
    )


def formatted(form: str, value: float | None) -> str:
    return "–" if value is None else form.format(value)


def formatted_statistics(form: str, repeats: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    """Statistics of repeated runs, as "a ± b" or "a to b"; a dash if they are undefined."""
    values = [None] if repeats is None else [repeats[name] for name in names]
    if isinstance(values[0], tuple):
        return " to ".join(formatted(form, end) for end in values[0])
    return " ± ".join(formatted(form, value) for value in values)


def print_line(line: str) -> None:
    """Print a line. Rich markup in it is printed as it is, and control characters are escaped."""
    output().print(printable(line), markup=False, soft_wrap=True)


def show_models(image_size: int | None, stem: str) -> None:
    """Print every network with its cost, at one image size or at that of its paper."""
    from resnetlab.models.summary import table as zoo

    rows = zoo(image_size, stem=stem)
    table = make_table("model", "px", "classes", "parameters", "MACs", "from")
    for row in rows:
        size = f"{row.image_size}"
        table.add_row(row.name, size, f"{row.num_classes:,}", millions(row.params), millions(row.macs), row.source)
    output().print(table)


def show_model(model: InspectedModel, image: ImageActivations | None = None) -> None:
    """Print one network stage by stage, the statistics of an image's activations, and notes about training it."""
    rows, statistics = model.rows(), {} if image is None else image.statistics()
    table = make_table("stage", "output", "parameters", "MACs", *(("mean", "std") if image else ()))
    for row in rows:
        cells = (row.stage, "×".join(map(str, row.shape)), f"{row.params:,}", millions(row.macs))
        table.add_row(*cells, *(f"{value:.4g}" for value in statistics.get(row.stage, ())))
    table.add_section()
    table.add_row("total", "", f"{sum(row.params for row in rows):,}", millions(sum(row.macs for row in rows)))
    print_line(model.heading)
    output().print(table)
    for line in [*model.notes(), *([] if image is None else [image.prediction()])]:
        print_line(line)


def show_runs(folder: Path) -> None:
    """Print the runs in a folder by validation accuracy, and the uses of each test set.

    Unreadable runs are listed below the table. Raises BadInput if there are no runs.
    """
    if not folder.is_dir():
        raise BadInput(f"{printable(folder)} is not a folder; `resnetlab train` writes runs to ./runs")
    found = [RunFolder(config.parent) for config in sorted(folder.glob("*/config.json"))]
    series = [path.parent for path in sorted(folder.glob(f"*/{SUMMARY}"))]
    if not found and not series:
        raise BadInput(f"there are no runs in {printable(folder)}; `resnetlab train` trains one")
    rows, broken = [], []
    for run in found:
        try:
            rows.append(run_row(run))
        except LabError as error:
            broken.append(str(error))
    table = make_table("run", "model", "data", "epochs", "val", "test", "minutes", "state", "settings")
    for _, cells in sorted(rows, key=lambda row: row[0]):
        table.add_row(*cells)
    if rows:
        output().print(table)
    notes = [f"series {path.name}: `resnetlab runs {as_typed(path)}` lists its runs" for path in series]
    for line in [*notes, *test_set_lines(folder), *(f"not listed: {reason}" for reason in broken)]:
        print_line(line)


def run_row(run: RunFolder) -> tuple[tuple[float, float], list[str]]:
    """The sort key of a run, its best validation accuracy and then the loss of that epoch, and its cells."""
    config, rows, test = run.config, run.rows, run.final_metrics("test")
    merit = min(((-row["val_accuracy"], row["val_loss"]) for row in rows), default=(1.0, 0.0))
    minutes = sum(row["train_seconds"] for row in rows) / 60
    return merit, [
        escaped(run.path.name),
        config.model.name,
        escaped(Path(config.data.name).name),
        str(len(rows)),
        percent(-merit[0] if rows else None),
        percent(test["accuracy"] if test else None),
        f"{minutes:.1f}",
        "finished" if run.is_scored else "unfinished",
        escaped(recipe_and_changes(config)),
    ]


OWN_COLUMNS = ("recipe", "model.name", "data.name")


def recipe_and_changes(config: RunConfig) -> str:
    """The recipe of a run, and the settings that differ from it."""
    if config.recipe not in recipes.RECIPES:
        return config.recipe
    changes = differing([recipes.get(config.recipe), config], besides=OWN_COLUMNS)
    now = {path: value for path, (_, value) in changes.items() if path not in LENGTH or value is not None}
    return ", ".join([config.recipe, *(f"{path} {value_text(value)}" for path, value in now.items())])


def test_set_lines(folder: Path) -> list[str]:
    """The uses of each test set by the runs in a folder, a line per test set."""
    log = AccessLog(None, (folder / SHARED_ACCESS_LOG,))
    accesses, notes = log.accesses()
    lines = []
    for digest, access in {access.split_digest: access for access in accesses}.items():
        count = log.count("", digest)
        uses = f"{runs_were(count.runs)} scored on it, {times(count.accesses)} in all"
        lines.append(f"test set {digest[:8]}, {access.images:,} images of {access.data}: {uses}")
    return [*lines, *notes]


def make_table(*columns: str, words: Collection[str] = WORD_COLUMNS) -> Table:
    """An empty table; columns in `words` are aligned to the left, the others, numbers, to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    return table


def output() -> Console:
    """A console on stdout that never cuts or wraps a table, whatever the width of the terminal."""
    return Console(highlight=False, width=1000)


def rates(row: Mapping[str, float | None]) -> list[str]:
    return ["undefined" if row[name] is None else percent(row[name]) for name in ("precision", "recall", "f1")]


def millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def escaped(name: str) -> str:
    """A name from the user's files, with Rich markup and control characters escaped."""
    return escape(printable(name))
