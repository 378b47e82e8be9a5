"""The commands: each parses its arguments, imports what it needs, and calls the library."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from resnetlab.cli.arguments import (
    BaselineArguments,
    CardArguments,
    CompareArguments,
    DoctorArguments,
    EvaluateArguments,
    ExplainArguments,
    ExportArguments,
    FindLrArguments,
    ImportArguments,
    InfoArguments,
    LabelIssuesArguments,
    ModelsArguments,
    PackArguments,
    PredictArguments,
    PushArguments,
    ReportArguments,
    ResumeArguments,
    RunsArguments,
    ServeArguments,
    SweepArguments,
    TrainArguments,
)
from resnetlab.cli.config_file import json_text, read_settings
from resnetlab.cli.options import flag
from resnetlab.cli.parsing import parse
from resnetlab.cli.words import in_flags
from resnetlab.data.classes import counted
from resnetlab.distributed import is_main_process, joined, require_one_process
from resnetlab.errors import BadInput, as_typed, printable
from resnetlab.runs.config import LENGTH, SHORT_FLAGS
from resnetlab.runs.differences import flat
from resnetlab.runs.effects import chosen, without_effect
from resnetlab.runs.log import LOGGER
from resnetlab.runs.sweeps.space import SearchSpace


def train(arguments: Sequence[str]) -> None:
    began = time.perf_counter()  # before torch is imported, which takes seconds
    given = parse(TrainArguments, arguments, "resnetlab train")
    if given.folds is not None:
        require_folds(given)
        given = given.model_copy(update={"changes": with_folds(given.changes, given.folds)})
    if given.minutes is not None:
        require_minutes_alone(given)
    config = given.run_config()
    if given.print_config:
        if is_main_process():
            print(json_text(config.to_json()))
        return
    if given.resume and given.out is None:
        raise BadInput("--resume auto continues the run in --out; give --out FOLDER too")
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.cli.signals import stop_on_signals
    from resnetlab.runs.build import resolved
    from resnetlab.runs.experiment import train
    from resnetlab.runs.resume import resume
    from resnetlab.runtime import choose_device

    tune()
    count = given.folds or given.seeds
    if count is not None:
        require_one_process("--folds" if given.folds else "--seeds")
    device = choose_device(config.device).type
    with (
        joined(device, given.process_timeout) as processes,
        Console(quiet=not processes.is_main) as console,
        stop_on_signals() as stop,
    ):
        for sentence in without_effect(config, [path for path in flat(given.changes) if path not in chosen(config)]):
            LOGGER.warning(sentence)  # `train` warns of the others
        watched: Any = {"stop": stop, "on_event": console.on_event, "max_minutes": given.max_minutes}
        out, is_begun = given.out, False
        if given.resume and out:
            is_begun = processes.from_main(partial(is_run, out))
        if count is not None:
            from resnetlab.cli import tables
            from resnetlab.runs.seeds import train_series

            is_resumed = given.resume is not None
            tables.show_series(train_series(config, count, given.out, resume=is_resumed, **watched))
        elif is_begun and out:
            changes = resolved(config).to_json()
            if given.minutes is not None:  # the run keeps the length that was planned when it began
                changes = {name: value for name, value in changes.items() if name not in LENGTH}
            resume(out, changes=changes, processes=processes, **watched)
        else:
            train(config, out, minutes=given.minutes, began=began, processes=processes, **watched)


def is_run(folder: Path) -> bool:
    return (folder / "config.json").exists()


def require_minutes_alone(given: TrainArguments) -> None:
    """Raise BadInput for a planned length beside another length, or where no run is trained from its beginning."""
    for name in sorted(LENGTH & given.changes.keys()):
        raise BadInput(f"--minutes plans the length of the run, and --{name} gives it; omit one of them")
    if given.folds or given.seeds:
        which = "--folds" if given.folds else "--seeds"
        raise BadInput(
            f"--minutes plans one run, and all runs of {which} have one length; train one run, then give its --steps"
        )
    if given.print_config:
        raise BadInput(
            "--minutes plans the length from measured steps, so --print-config cannot show it; omit one of them"
        )


def require_folds(given: TrainArguments) -> None:
    """Raise BadInput for a cross-validation with seeds, with one fold only, or of one fold."""
    if given.seeds is not None:
        raise BadInput("--folds and --seeds cannot be combined; train a cross-validation for each --seed")
    if given.folds is not None and given.folds < 2:
        raise BadInput(f"--folds is {given.folds}, but a cross-validation needs 2 folds or more")
    data = given.changes.get("data", {})
    for name in ("fold", "folds"):
        if name in data:
            raise BadInput(f"--folds trains every fold; omit --data.{name}")


def with_folds(changes: dict[str, Any], folds: int) -> dict[str, Any]:
    return changes | {"data": changes.get("data", {}) | {"folds": folds, "fold": None}}


def find_lr(arguments: Sequence[str]) -> None:
    given = parse(FindLrArguments, arguments, "resnetlab find-lr")
    for path in flat(given.changes):
        if given.is_unused(path):
            name = flag(SHORT_FLAGS.get(path, path))
            raise BadInput(f"{name} has no effect on find-lr, whose learning rate rises over --tries steps; omit it")
    config = given.run_config()
    if given.out is not None and (given.out.suffix != ".png" or not given.out.parent.is_dir()):
        raise BadInput(f"--out is {printable(given.out)}, but must be a .png file in an existing folder")
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.data.tree import require_outside
    from resnetlab.runs.find_lr import draw, find_lr

    require_outside(given.out, config.data.name)

    tune()
    with Console(quiet=given.json_) as console:
        limits = {"lowest": given.lowest, "highest": given.highest}
        found = find_lr(config, **limits, tries=given.tries, on_event=console.on_event)
        console.hide_bar()
        if given.json_:
            tables.show_json(found.to_json())
        for line in found.lines():
            console.print(in_flags(line))
        if given.out is not None:
            draw(config, found, given.out)
            console.print(f"the figure is {given.out}")


def sweep(arguments: Sequence[str]) -> None:
    given = parse(SweepArguments, arguments, "resnetlab sweep")
    space = read_settings(given.space, "space file")
    checked = SearchSpace.of(space)
    for path in flat(given.changes):
        name = flag(SHORT_FLAGS.get(path, path))
        if path in checked.paths or (path in LENGTH and LENGTH.intersection(checked.paths)):
            raise BadInput(f"{name} is given, but the search space varies it; omit one of them")
        if path == "final_test":
            raise BadInput(f"{name} has no effect: no trial uses the test split; --final scores the chosen one on it")
    config = given.run_config()
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import silence_optuna, tune
    from resnetlab.cli.signals import stop_on_signals
    from resnetlab.report.sweep import write_sweep
    from resnetlab.runs.sweeps.study import require_optuna
    from resnetlab.runs.sweeps.sweep import BEST, sweep
    from resnetlab.runs.sweeps.sweep import LOGGER as SWEEP_LOGGER

    require_optuna()
    tune()
    silence_optuna()
    out = given.out or Path("runs") / f"sweep-{config.recipe}"
    options: Any = {"storage": given.storage, "study": given.study, "pruner": given.pruner, "final": given.final}
    with Console() as console, stop_on_signals() as stop:
        console.addFilter(lambda record: record.name == SWEEP_LOGGER.name or record.levelno > logging.INFO)
        watched: Any = {"stop": stop, "on_event": console.on_event, "max_minutes": given.max_minutes}
        found = sweep(config, space, given.trials, out, on_stop=write_sweep, **options, **watched)
    tables.show_sweep(found)
    page = write_sweep(found)
    if found.best is not None:
        tables.print_line(f"train it again: resnetlab train --config {as_typed(found.folder / BEST)}")
    tables.print_line(f"the page is {page}")


def doctor(arguments: Sequence[str]) -> None:
    given = parse(DoctorArguments, arguments, "resnetlab doctor")
    config = given.run_config()
    if given.out is not None and (given.out.suffix != ".html" or not given.out.parent.is_dir()):
        raise BadInput(f"--out is {printable(given.out)}, but must be an .html file in an existing folder")
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.report.doctor import verdict, write_doctor_page
    from resnetlab.runs.doctor import diagnose

    tune()
    with_data = given.recipe is not None or given.config is not None or "name" in given.changes.get("data", {})
    with Console(quiet=given.json_):
        found = diagnose(config, with_data=with_data)
    found.findings = [replace(finding, sentence=in_flags(finding.sentence)) for finding in found.findings]
    found.data = {name: in_flags(fact) for name, fact in found.data.items()}
    if given.json_:
        tables.show_json(found.to_json())
    else:
        tables.show_diagnosis(found)
    if given.out is not None:
        write_doctor_page(given.out, found)
    if not given.json_:
        images = any(finding.groups for finding in found.findings)
        if given.out is not None:
            tables.print_line(f"the page is {given.out}")
        elif images:
            tables.print_line("--out doctor.html writes a page with a thumbnail of every finding")
    if found.errors:
        raise BadInput(f"training would fail: {found.errors[0].sentence}")
    if not given.json_ and with_data:
        tables.print_line(verdict(found))


def resume(arguments: Sequence[str]) -> None:
    given = parse(ResumeArguments, arguments, "resnetlab resume")
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.cli.signals import stop_on_signals
    from resnetlab.inference.sources import run_source
    from resnetlab.runs.folder import RunFolder
    from resnetlab.runs.series import Series, is_series
    from resnetlab.runtime import choose_device

    tune()
    run = run_source(given.run)
    if is_series(run):
        require_one_process("a series of runs")
    had = Series.open(run).config if is_series(run) else RunFolder.open(run).config
    config = had.changed(given.changes)
    with (
        joined(choose_device(config.device).type, given.process_timeout) as processes,
        Console(quiet=not processes.is_main) as console,
        stop_on_signals() as stop,
    ):
        watched: Any = {"stop": stop, "on_event": console.on_event, "max_minutes": given.max_minutes}
        if is_series(run):
            from resnetlab.cli import tables
            from resnetlab.runs.seeds import resume_series

            tables.show_series(resume_series(run, config, strict=given.strict_resume, **watched))
        else:
            from resnetlab.runs.resume import resume

            strict, allowed = given.strict_resume, given.allow_change
            resume(run, changes=config.to_json(), allowed=allowed, strict=strict, processes=processes, **watched)


def evaluate(arguments: Sequence[str]) -> None:
    given = parse(EvaluateArguments, arguments, "resnetlab evaluate")
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.runs import score

    tune()
    with Console(quiet=given.json_):
        result = score.evaluate(
            given.source,
            given.data,
            given.split,
            tta=given.tta,
            out=given.out,
            all_probabilities=given.all_probabilities,
            device=given.device,
            allow_changed_data=given.allow_changed_data,
        )
    if given.json_:
        tables.show_json(result)
        return
    classes = [row["name"] for row in result["per_class"]]
    tables.show_scores(result, score.balance_columns(given.source, classes))
    if given.split == "test":
        tables.print_line(score.test_set_line(score.access_log_of(given.source), result))


def predict(arguments: Sequence[str]) -> None:
    given = parse(PredictArguments, arguments, "resnetlab predict")
    require_compatible(given)
    require_figure(given.save_figure, None)
    from resnetlab.cli.prediction import predict
    from resnetlab.cli.process import tune

    tune()
    predict(given)


def require_compatible(given: PredictArguments) -> None:
    """Raise BadInput for options that exclude or need each other."""
    outputs = [
        name for name, is_given in (("--json", given.json_), ("--jsonl", given.jsonl), ("--csv", given.csv)) if is_given
    ]
    for pair in (outputs, ["--link"] * given.link + ["--copy"] * given.copy_):
        if len(pair) > 1:
            raise BadInput(f"{' and '.join(pair)} exclude each other; give one of them")
    if given.all_probabilities and given.top_k is not None:
        raise BadInput("--all-probabilities lists every class; omit --top-k")
    for name, is_given, needed, has in (
        ("--resume", given.resume, "--csv", given.csv),
        ("--link", given.link, "--sort-into", given.sort_into),
        ("--copy", given.copy_, "--sort-into", given.sort_into),
        ("-0", given.null, "- for the list on stdin", "-" in given.paths),
    ):
        if is_given and not has:
            raise BadInput(f"{name} needs {needed}")
    if given.paths.count("-") > 1:
        raise BadInput("- is given twice, but there is one list on stdin")
    csv = given.csv
    if csv is not None and (csv.suffix.lower() != ".csv" or not csv.parent.is_dir() or csv.is_dir()):
        raise BadInput(f"--csv is {printable(csv)}, but must be a .csv file in an existing folder")
    if csv is not None and csv.exists() and not given.resume:
        raise BadInput(f"{printable(csv)} exists; add --resume to continue it, or give another name")


def label_issues(arguments: Sequence[str]) -> None:
    given = parse(LabelIssuesArguments, arguments, "resnetlab label-issues")
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.inference.sources import run_source
    from resnetlab.report.doctor import write_label_issues
    from resnetlab.runs.label_issues import TABLE, examine_labels, write_labels

    tune()
    run = run_source(given.run)
    out = given.out or run / "label-issues"
    if (out / TABLE).exists() and not given.json_:
        raise BadInput(f"{printable(out / TABLE)} exists and may hold corrections; give another folder with --out")
    with Console(quiet=given.json_):
        examined = examine_labels(run, given.device, data=given.data)
    if given.json_:
        tables.show_json({"examined": len(examined.names), "suspects": [s.to_json() for s in examined.suspects()]})
        if given.out is None:
            return
    table = write_labels(out, examined)
    page = write_label_issues(out, examined, table)
    if not given.json_:
        tables.show_suspects(examined)
        tables.print_line(f"the page is {page}, the table {table}")
        again = examined.next_command(table)
        if again is not None and examined.suspects():
            tables.print_line(f"correct the column label in it, then: {again}")


def explain(arguments: Sequence[str]) -> None:
    given = parse(ExplainArguments, arguments, "resnetlab explain")
    from resnetlab.cli.explanation import explain
    from resnetlab.cli.process import tune

    tune()
    explain(given)


def card(arguments: Sequence[str]) -> None:
    given = parse(CardArguments, arguments, "resnetlab card")
    from resnetlab.cli import tables
    from resnetlab.report.card import card

    tables.print_line(f"the card is {card(given.source, given.out, license=given.license) / 'README.md'}")


def push(arguments: Sequence[str]) -> None:
    given = parse(PushArguments, arguments, "resnetlab push")
    from resnetlab.cli import tables
    from resnetlab.report.card import push

    address = push(given.source, given.repository, private=given.private, license=given.license)
    tables.print_line(f"uploaded: {address}")
    tables.print_line(f"use it: resnetlab predict hf:{given.repository} IMAGE")


def import_weights(arguments: Sequence[str]) -> None:
    given = parse(ImportArguments, arguments, "resnetlab import")
    if given.classes is None:
        raise BadInput("weights have no class names: give a file with --classes, one name per line")
    from resnetlab.cli import tables
    from resnetlab.inference.importing import import_model

    options = {name: value for name, value in dict(given).items() if name not in ("file", "changes")}
    tables.show_import(import_model(given.file, **options))


def export(arguments: Sequence[str]) -> None:
    given = parse(ExportArguments, arguments, "resnetlab export")
    from resnetlab.cli import tables
    from resnetlab.cli.process import tune
    from resnetlab.runs.export import export

    tune()
    images = given.images or None
    written = export(
        given.source,
        given.format,
        given.out,
        images=images,
        triton=given.triton,
        max_drop=given.max_drop,
        data=given.data,
    )
    if given.json_:
        tables.show_json({"path": str(written.path), **written.facts})
        return
    for line in written.lines():
        tables.print_line(line)


def info(arguments: Sequence[str]) -> None:
    given = parse(InfoArguments, arguments, "resnetlab info")
    from resnetlab.cli import tables
    from resnetlab.cli.description import ModelDescription

    found = ModelDescription.of(given.source)
    tables.show_json(found.to_json()) if given.json_ else tables.show_info(found)


def compare(arguments: Sequence[str]) -> None:
    given = parse(CompareArguments, arguments, "resnetlab compare")
    for option, file, suffix in (("--latex", given.latex, ".tex"), ("--csv", given.csv, ".csv")):
        if file is not None and (file.suffix != suffix or not file.parent.is_dir() or file.is_dir()):
            raise BadInput(f"{option} is {printable(file)}, but must be a {suffix} file in an existing folder")
    from resnetlab.cli import tables
    from resnetlab.data.tree import require_outside
    from resnetlab.evaluation.comparison import SummaryTable
    from resnetlab.inference.sources import run_source
    from resnetlab.report.comparison import write_comparison
    from resnetlab.report.score_table import write_latex, write_scores_csv
    from resnetlab.runs import compare
    from resnetlab.runs.series import Pooled, has_seeds

    written, runs = [], [run_source(run) for run in given.runs]
    if any(map(has_seeds, runs)):
        if given.out is not None:
            raise BadInput("--out writes a page about single runs; for a series use --latex, --csv or --json")
        summaries = compare.summarize(runs, given.split)
        tables.show_json(summaries.to_json()) if given.json_ else tables.show_summaries(summaries)
    else:
        for run in runs:
            require_outside(given.out, Pooled.open(run).config.data.name)
        comparison = compare.compare(runs, given.split)
        summaries = SummaryTable.of(comparison)
        tables.show_json(comparison.to_json()) if given.json_ else tables.show_comparison(comparison)
        if given.out is not None:
            written.append(f"the page is {write_comparison(given.out, comparison)}")
    for file, write in ((given.latex, write_latex), (given.csv, write_scores_csv)):
        if file is not None:
            write(file, summaries)
            written.append(f"the table is {file}")
    for line in [] if given.json_ else written:
        tables.print_line(line)


def baseline(arguments: Sequence[str]) -> None:
    given = parse(BaselineArguments, arguments, "resnetlab baseline")
    from resnetlab.cli import tables
    from resnetlab.cli.console import Console
    from resnetlab.cli.process import tune
    from resnetlab.cli.signals import stop_on_signals
    from resnetlab.report.comparison import write_comparison
    from resnetlab.runs.baseline import baseline

    tune()

    sections = {"data": given.data.model_dump(), "augment": given.augment.model_dump(), "model": {"name": given.model}}
    names = ("epochs", "steps", "batch_size", "seed", "device", "precision")
    settings = {name: getattr(given, name) for name in names if getattr(given, name) is not None} | sections
    with Console() as console, stop_on_signals() as stop:
        watched: Any = {"stop": stop, "on_event": console.on_event, "max_minutes": given.max_minutes}
        comparison, folder = baseline(settings, given.weights, given.out, **watched)
    tables.show_comparison(comparison)
    tables.print_line(f"the page is {write_comparison(folder, comparison)}")


def report(arguments: Sequence[str]) -> None:
    given = parse(ReportArguments, arguments, "resnetlab report")
    if given.out is not None and (given.out.suffix != ".html" or not given.out.parent.is_dir() or given.out.is_dir()):
        raise BadInput(f"--out is {printable(given.out)}, but must be an .html file in an existing folder")
    from resnetlab.cli import tables
    from resnetlab.report.write import write_report

    tables.print_line(f"the page is {write_report(given.run, given.out)}")


def runs(arguments: Sequence[str]) -> None:
    given = parse(RunsArguments, arguments, "resnetlab runs")
    from resnetlab.cli import tables

    tables.show_runs(given.folder)


def pack(arguments: Sequence[str]) -> None:
    given = parse(PackArguments, arguments, "resnetlab pack")
    from resnetlab.cli import tables
    from resnetlab.data.pack import pack
    from resnetlab.data.shard_index import read_index

    shards = images = 0
    for shard in pack(given.source, given.out, images_per_shard=given.images_per_shard):
        shards, images = shards + 1, images + len(read_index(shard).samples)
        tables.print_line(str(shard))
    made = f"{counted(images, 'image')} in {counted(shards, 'shard')}"
    tables.print_line(f"{made}; train with --data {as_typed(given.out)}")


def models(arguments: Sequence[str]) -> None:
    given = parse(ModelsArguments, arguments, "resnetlab models")
    if given.name is None and (given.image or given.save_figure):
        flag = "--image" if given.image else "--save-figure"
        raise BadInput(f"{flag} needs the name of a network: resnetlab models NAME {flag} FILE")
    require_figure(given.save_figure, given.image)
    from resnetlab.cli import tables

    if given.name is None:
        tables.show_models(given.image_size, given.stem)
        return
    from resnetlab.cli.inspection import inspect_model

    model = inspect_model(given.name, given.image_size, given.stem, given.classes, is_blank=given.image is None)
    image = None if given.image is None else model.activations_of(given.image)
    tables.show_model(model, image)
    if given.save_figure is not None:
        model.save_figure(given.save_figure, image)
        tables.print_line(f"the figure is {given.save_figure}")


def serve(arguments: Sequence[str]) -> None:
    given = parse(ServeArguments, arguments, "resnetlab serve")
    from resnetlab.cli.serving import named_models, require_packages, settings_of, warnings_of

    sources, settings = named_models(given.models, given.name), settings_of(given)
    require_packages()
    from resnetlab.cli.process import fit_threads_to_quota
    from resnetlab.data.decode import silence_decoders
    from resnetlab.inference.serve import run

    fit_threads_to_quota()
    silence_decoders()

    def on_ready(address: str) -> None:
        for sentence in warnings_of(given):
            LOGGER.warning(sentence)
        LOGGER.info(f"serving {printable(', '.join(sources))} at {address} (Ctrl-C stops)")

    where: Any = {"host": given.host, "port": given.port, "workers": given.workers}
    run.serve(run.Models(sources, given.device, given.precision), settings, **where, on_ready=on_ready)


def require_figure(file: Path | None, image: Path | None) -> None:
    """Raise BadInput for a path that no figure can be written to."""
    if file is None:
        return
    if file.suffix.lower() not in (".png", ".svg", ".pdf") or not file.parent.is_dir() or file.is_dir():
        requirement = "but must be a .png, .svg or .pdf file in an existing folder"
        raise BadInput(f"--save-figure is {printable(file)}, {requirement}")
    if image is not None and file.exists() and image.exists() and file.samefile(image):
        raise BadInput(f"--save-figure is {printable(file)}, the image itself; give another name")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "doctor": doctor,
    "find-lr": find_lr,
    "sweep": sweep,
    "resume": resume,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "export": export,
    "import": import_weights,
    "info": info,
    "card": card,
    "push": push,
    "serve": serve,
    "label-issues": label_issues,
    "compare": compare,
    "baseline": baseline,
    "report": report,
    "runs": runs,
    "pack": pack,
    "models": models,
}
