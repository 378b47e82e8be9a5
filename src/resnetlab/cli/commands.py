"""The commands: from words to arguments to the call that does the work. Each imports what it needs, and only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnetlab.cli.arguments import (
    BaselineArguments,
    CompareArguments,
    EvaluateArguments,
    FindLrArguments,
    ModelsArguments,
    ReportArguments,
    ResumeArguments,
    RunsArguments,
    TrainArguments,
)
from resnetlab.cli.parsing import parse, read_settings, take_value, words
from resnetlab.errors import BadInput, printable
from resnetlab.runs import recipes
from resnetlab.runs.config import DataConfig, RunConfig


def train(arguments: Sequence[str]) -> None:
    config, rest = configured(arguments)
    given = parse(TrainArguments, rest, "resnetlab train [RECIPE]", TrainArguments(config))
    if given.print_config:
        print(given.config.model_dump_json(indent=2))
        return
    from resnetlab.runs import experiment, resume
    from resnetlab.runs.build import resolved

    if given.resume and given.out is None:
        raise BadInput("--resume auto goes on with the run in --out; give --out FOLDER too")
    if given.seeds is not None:
        from resnetlab.cli import tables
        from resnetlab.runs import seeds

        go_on = given.resume is not None
        tables.show_series(
            seeds.train(given.config, given.seeds, given.out, go_on=go_on, max_minutes=given.max_minutes)
        )
    elif given.resume and given.out and (given.out / "config.json").exists():
        resume.resume(given.out, changes=resolved(given.config).to_json(), max_minutes=given.max_minutes)
    else:
        experiment.train(given.config, given.out, max_minutes=given.max_minutes)


def configured(arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The config that flags change: RECIPE, the first word if it is one, and --config; and the words that are left."""
    rest = list(arguments)
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    file, rest = take_value(rest, "--config")
    settings = read_settings(Path(file)) if file else {}
    return starting_point(recipe, settings, rest), rest


RECIPE_FOR = {"digits": "quickstart", "cifar10": "cifar10-resnet18", "cifar100": "cifar10-resnet18"}


def starting_point(recipe: str | None, settings: dict[str, Any], flags: list[str]) -> RunConfig:
    """The recipe with the settings of a config file; flags come on top of it later.

    Without a recipe the data decides: digits and nothing at all are `quickstart`, CIFAR is `cifar10-resnet18`, a folder
    is `folder`. A length given as a flag replaces the recipe's, whichever way that one is given.
    """
    if recipe is None and settings.get("recipe") in list(recipes.RECIPES):
        recipe = settings["recipe"]
    if recipe is None:
        data, _ = take_value(flags, "--data", "--data.name")
        section = settings.get("data")  # not validated yet: it may be anything
        name = data or (section.get("name") if isinstance(section, dict) else None) or "digits"
        recipe = RECIPE_FOR.get(str(name), "folder")
    config = recipes.get(recipe).changed({key: value for key, value in settings.items() if value is not None})
    return ready_for_length(config, flags)


def ready_for_length(config: RunConfig, flags: Sequence[str]) -> RunConfig:
    """The config with its length given the way a flag gives it, in epochs or in steps."""
    lengths = [flag.strip("-") for flag in ("--epochs", "--steps") if words(flags, flag)]
    if len(lengths) == 2:
        raise BadInput("give --epochs or --steps, not both")
    return config.changed({lengths[0]: 1}) if lengths else config


NO_PART = ("epochs", "steps", "lr", "optim.lr", "patience", "ema", "best-by", "final-test", "on-nonfinite")


def find_lr(arguments: Sequence[str]) -> None:
    config, rest = configured(arguments)
    for word in rest:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag.removeprefix("--") in NO_PART or flag.startswith(("--schedule.", "--checkpoint.")):
            raise BadInput(
                f"{flag} plays no part in find-lr, whose learning rate rises over --tries steps; leave it out"
            )
    given = parse(FindLrArguments, rest, "resnetlab find-lr [RECIPE]", FindLrArguments(config))
    if given.out is not None and (given.out.suffix != ".png" or not given.out.parent.is_dir()):
        raise BadInput(f"--out is {printable(given.out)}, but must be a file in a folder there is, and end in .png")
    from resnetlab.cli import tables
    from resnetlab.runs import find_lr
    from resnetlab.runs.console import Voice

    voice = Voice(quiet=given.json)
    found = find_lr.find_lr(given.config, lowest=given.lowest, highest=given.highest, tries=given.tries, voice=voice)
    if given.json:
        tables.show_json(found.to_json())
    for line in found.lines():
        voice.say(line)
    if given.out is not None:
        find_lr.draw(given.config, found, given.out)
        voice.say(f"the picture is {given.out}")


def resume(arguments: Sequence[str]) -> None:
    program = "resnetlab resume RUN"
    if words(arguments, "--help", "-h"):
        parse(ResumeArguments, ["--help"], program, ResumeArguments(recipes.quickstart()))
    if not arguments or arguments[0].startswith("-"):
        raise BadInput(f"say first which run to go on with: {program}")
    from resnetlab.cli import tables
    from resnetlab.runs import resume, seeds
    from resnetlab.runs.folder import RunFolder

    run, flags = Path(arguments[0]), arguments[1:]
    had = seeds.Series.open(run).config if seeds.is_series(run) else RunFolder.open(run).config
    config = ready_for_length(had, flags)
    given = parse(ResumeArguments, flags, program, ResumeArguments(config))
    if seeds.is_series(run):
        strict, minutes = given.strict_resume, given.max_minutes
        tables.show_series(seeds.resume_series(run, given.config, strict=strict, max_minutes=minutes))
        return
    resume.resume(
        run,
        changes=given.config.to_json(),
        allowed=given.allow_change,
        strict=given.strict_resume,
        max_minutes=given.max_minutes,
    )


def evaluate(arguments: Sequence[str]) -> None:
    given = parse(EvaluateArguments, arguments, "resnetlab evaluate RUN|MODEL")
    from resnetlab.cli import tables
    from resnetlab.runs import score

    result = score.evaluate(
        given.source,
        given.data,
        given.split,
        tta=given.tta,
        out=given.out,
        all_probabilities=given.all_probabilities,
        device=given.device,
    )
    if given.json:
        tables.show_json(result)
        return
    tables.show_scores(result)
    if given.split == "test":
        tables.say(score.looks_line(score.ledger_of(given.source), result))


def compare(arguments: Sequence[str]) -> None:
    given = parse(CompareArguments, arguments, "resnetlab compare RUN RUN …")
    from resnetlab.cli import tables
    from resnetlab.report.comparison import write_comparison
    from resnetlab.runs import compare

    comparison = compare.compare(given.runs, given.split)
    if given.json:
        tables.show_json(comparison.to_json())
    else:
        tables.show_comparison(comparison)
    if given.out is not None:
        page = write_comparison(given.out, comparison)
        if not given.json:
            tables.say(f"the page is {page}")


def baseline(arguments: Sequence[str]) -> None:
    usual = BaselineArguments(DataConfig(normalize="imagenet"), recipes.finetune().augment)
    given = parse(BaselineArguments, arguments, "resnetlab baseline", usual)
    from resnetlab.cli import tables
    from resnetlab.report.comparison import write_comparison
    from resnetlab.runs.baseline import baseline

    sections = {"data": given.data.model_dump(), "augment": given.augment.model_dump(), "model": {"name": given.model}}
    names = ("epochs", "steps", "batch_size", "seed", "device", "precision")
    settings = {name: getattr(given, name) for name in names if getattr(given, name) is not None} | sections
    comparison, folder = baseline(settings, given.weights, given.out, max_minutes=given.max_minutes)
    tables.show_comparison(comparison)
    tables.say(f"the page is {write_comparison(folder, comparison)}")


def report(arguments: Sequence[str]) -> None:
    given = parse(ReportArguments, arguments, "resnetlab report RUN")
    from resnetlab.cli import tables
    from resnetlab.report.write import write_report

    tables.say(f"the page is {write_report(given.run, given.out)}")


def runs(arguments: Sequence[str]) -> None:
    given = parse(RunsArguments, arguments, "resnetlab runs [FOLDER]")
    from resnetlab.cli import tables

    tables.show_runs(given.folder)


def models(arguments: Sequence[str]) -> None:
    given = parse(ModelsArguments, arguments, "resnetlab models [NAME]")
    if given.name is None and (given.image or given.save_figure):
        flag = "--image" if given.image else "--save-figure"
        raise BadInput(f"{flag} is about one network; say which: resnetlab models NAME {flag} FILE")
    require_figure(given.save_figure, given.image)
    from resnetlab.cli import tables

    if given.name is None:
        tables.show_models(given.image_size, given.stem)
        return
    from resnetlab.cli.inspection import find

    specimen = find(given.name, given.image_size, given.stem, given.classes, is_blank=given.image is None)
    seen = None if given.image is None else specimen.look(given.image)
    tables.show_model(specimen, seen)
    if given.save_figure is not None:
        specimen.draw(given.save_figure, seen)
        tables.say(f"the picture is {given.save_figure}")


def require_figure(file: Path | None, image: Path | None) -> None:
    """Refuse what no figure can be written to."""
    if file is None:
        return
    if file.suffix.lower() not in (".png", ".svg", ".pdf") or not file.parent.is_dir() or file.is_dir():
        told = "but must be a file in a folder there is, and end in .png, .svg or .pdf"
        raise BadInput(f"--save-figure is {printable(file)}, {told}")
    if image is not None and file.exists() and image.exists() and file.samefile(image):
        raise BadInput(f"--save-figure is {printable(file)}, the picture to be shown; give another name")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "find-lr": find_lr,
    "resume": resume,
    "evaluate": evaluate,
    "compare": compare,
    "baseline": baseline,
    "report": report,
    "runs": runs,
    "models": models,
}
