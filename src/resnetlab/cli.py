"""The command line. Parsing, refusing and printing help import no torch; each command imports what it needs."""

from __future__ import annotations

import errno
import io
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnetlab import __version__, recipes
from resnetlab.arguments import EvaluateArguments, ModelsArguments, ResumeArguments, RunsArguments, TrainArguments
from resnetlab.config import RunConfig
from resnetlab.errors import BadInput, DiskTrouble, LabError, Stopped, printable, unknown
from resnetlab.parsing import parse, read_settings, take_value, words
from resnetlab.stopping import leave_on_sigterm

USAGE = """\
usage: resnetlab COMMAND …

Build, understand, train, judge and use residual networks.

  train [RECIPE]   train, score and plot a run; without arguments: ResNet-18 on digits, in about a minute
  resume RUN       go on with a run that was stopped, or make a finished one longer
  evaluate RUN     score a run, or a model file, on its validation or test split
  runs [FOLDER]    the runs in a folder, best first
  models [NAME]    the networks there are, or one of them stage by stage

  --help, --version, --debug (show tracebacks); `resnetlab COMMAND --help` says more

exit codes: 0 done · 1 a bug of ours · 2 bad input · 3 no sound checkpoint · 4 the disk · 5 a non-finite number ·
            6 stopped, can be resumed
"""


def train(arguments: Sequence[str]) -> None:
    rest = list(arguments)
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    file, rest = take_value(rest, "--config")
    settings = read_settings(Path(file)) if file else {}
    config = starting_point(recipe, settings, rest)
    given = parse(TrainArguments, rest, "resnetlab train [RECIPE]", TrainArguments(config))
    if given.print_config:
        print(given.config.model_dump_json(indent=2))
        return
    from resnetlab import experiment, resuming
    from resnetlab.assembly import resolved

    if given.resume and given.out is None:
        raise BadInput("--resume auto goes on with the run in --out; give --out FOLDER too")
    if given.resume and given.out and (given.out / "config.json").exists():
        resuming.resume(given.out, changes=resolved(given.config).to_json(), max_minutes=given.max_minutes)
    else:
        experiment.train(given.config, given.out, max_minutes=given.max_minutes)


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


def resume(arguments: Sequence[str]) -> None:
    program = "resnetlab resume RUN"
    if words(arguments, "--help", "-h"):
        parse(ResumeArguments, ["--help"], program, ResumeArguments(recipes.quickstart()))
    if not arguments or arguments[0].startswith("-"):
        raise BadInput(f"say first which run to go on with: {program}")
    from resnetlab import resuming
    from resnetlab.run_folder import RunFolder

    run, flags = Path(arguments[0]), arguments[1:]
    config = ready_for_length(RunFolder.open(run).config, flags)
    given = parse(ResumeArguments, flags, program, ResumeArguments(config))
    resuming.resume(
        run,
        changes=given.config.to_json(),
        allowed=given.allow_change,
        strict=given.strict_resume,
        max_minutes=given.max_minutes,
    )


def evaluate(arguments: Sequence[str]) -> None:
    given = parse(EvaluateArguments, arguments, "resnetlab evaluate RUN|MODEL")
    from resnetlab import scoring, tables

    result = scoring.evaluate(
        given.source,
        given.data,
        given.split,
        out=given.out,
        all_probabilities=given.all_probabilities,
        device=given.device,
    )
    tables.show_scores(result, as_json=given.json)


def runs(arguments: Sequence[str]) -> None:
    given = parse(RunsArguments, arguments, "resnetlab runs [FOLDER]")
    from resnetlab import tables

    tables.show_runs(given.folder)


def models(arguments: Sequence[str]) -> None:
    given = parse(ModelsArguments, arguments, "resnetlab models [NAME]")
    from resnetlab import tables

    if given.name is None:
        tables.show_models(given.image_size, given.stem)
    else:
        tables.show_model(given.name, given.image_size, given.stem, given.classes)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "runs": runs,
    "models": models,
}


NAMES = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what goes wrong is one sentence on stderr."""
    words_left = [word for word in arguments if word != "--debug"]
    debug = len(words_left) < len(arguments)
    try:
        if not words_left or words_left[0] in ("--help", "-h"):
            print(USAGE, end="")
        elif words_left[0] == "--version":
            print(f"resnetlab {__version__}")
        elif words_left[0] not in COMMANDS:
            raise unknown("command", words_left[0], COMMANDS)
        else:
            COMMANDS[words_left[0]](words_left[1:])
    except LabError as error:
        if debug:
            traceback.print_exc()
        print(f"resnetlab: {printable(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"resnetlab: {str(error) or 'interrupted'}", file=sys.stderr)
        return Stopped.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 0
    except OSError as error:  # what nobody foresaw: a name that is too long, a folder that may not be entered
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"resnetlab: {printable(where)}{printable(error.strerror or error)}", file=sys.stderr)
        return BadInput.exit_code if error.errno in NAMES else DiskTrouble.exit_code
    except Exception as error:
        if debug:
            raise
        print(
            f"resnetlab: a bug of ours: {type(error).__name__}: {printable(error)} (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    return 0


def entry_point() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "×" is no reason to fail
    leave_on_sigterm()
    log = logging.getLogger("resnetlab")  # downloads announce themselves there
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    sys.exit(main(sys.argv[1:]))
