"""The entry point of the command line: runs a command, prints an error as one sentence, returns an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from resnetlab import __version__
from resnetlab.cli.commands import COMMANDS
from resnetlab.cli.signals import ignore_signals, leave_on_signals
from resnetlab.cli.words import in_flags
from resnetlab.distributed import is_main_process, is_told_by_another_process, require_one_process
from resnetlab.errors import BadInput, BadSettings, DiskTrouble, LabError, Stopped, printable, unknown
from resnetlab.files import cache_folder
from resnetlab.runs.log import Lines

USAGE = """\
usage: resnetlab COMMAND [OPTION ...]

Build, understand, train, evaluate and use residual networks.

commands:
  train [RECIPE]    train a network and score it; without arguments: ResNet-18
                    on handwritten digits, in about a minute
  doctor            examine this machine and a data set: faults, and the time
                    that training will take
  find-lr [RECIPE]  suggest a learning rate, from a range test of a minute
  sweep [RECIPE]    search for good settings: many trials of a search space, the
                    poor ones stopped early
  resume RUN        continue a run that was stopped, or train a finished one
                    for longer
  evaluate RUN      score a run or a model file on the validation or test split
  predict MODEL PATH ...
                    predict the classes of images, folders and lists of images
  explain MODEL IMAGE ...
                    show the evidence for a prediction, and similar images
  export MODEL      write a model as ONNX, int8, torch.export program, or for
                    torchvision or timm, verified on real images
  import FILE       make a model file of weights that another program saved
  info MODEL        show what a model file contains: classes, scores, rejection
                    thresholds, origin, licence
  card MODEL        write a README.md about a model, with its file and figures
  push MODEL NAME   upload a model and its card to the Hugging Face Hub
  serve MODEL       answer requests for predictions over HTTP, with a page to try
  label-issues RUN  list the images of a run whose labels are probably wrong
  compare RUN RUN   compare runs on the same images: which is better, and is the
                    difference significant?
  baseline          compare a network trained from scratch with ImageNet's
                    weights, frozen and fine-tuned
  report RUN        write one HTML page with scores, curves, classes,
                    calibration and mistakes of a run
  runs [FOLDER]     list the runs in a folder, best first
  pack FOLDER       pack images into shards, for data that does not fit in memory
  models [NAME]     list the networks, or show one stage by stage

options:
  -h, --help        show this help; `resnetlab COMMAND --help`: that of a command
  --version         show the version
  --debug           show the traceback of an error

exit codes: 0 done · 1 internal error · 2 bad input · 3 no intact checkpoint ·
            4 disk error · 5 NaN or infinity · 6 stopped, can be resumed
"""


NAMES = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


def command(words: Sequence[str]) -> Callable[[Sequence[str]], None]:
    """The command that the first word names. Raises BadInput for an unknown one."""
    if not words or words[0] in ("--help", "-h"):
        return lambda _: print(USAGE, end="")
    if words[0] == "--version":
        return lambda _: print(f"resnetlab {__version__}")
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    if words[0] not in ("train", "resume"):
        require_one_process(words[0])
    return COMMANDS[words[0]]


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an error is one sentence on stderr."""
    words = [word for word in arguments if word != "--debug"]
    debug = len(words) < len(arguments)
    try:
        command(words)(words[1:])
        sys.stdout.flush()
    except LabError as error:
        if debug:
            traceback.print_exc()
        message = str(error) if isinstance(error, BadSettings) else in_flags(str(error))
        if not is_told_by_another_process(error):
            print(f"resnetlab: {printable(message)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"resnetlab: {str(error) or 'interrupted'}", file=sys.stderr)
        return Stopped.exit_code
    except BrokenPipeError:  # the output is a closed pipe, as with `| head`
        return 0
    except OSError as error:  # for example a name that is too long, or a folder without permission
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"resnetlab: {printable(where)}{printable(error.strerror or error)}", file=sys.stderr)
        return BadInput.exit_code if error.errno in NAMES else DiskTrouble.exit_code
    except Exception as error:
        if debug:
            raise
        print(
            f"resnetlab: internal error: {type(error).__name__}: {printable(error)} (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    else:
        return 0
    finally:
        discard_unwritable_output()


def discard_unwritable_output() -> None:
    """Discard output that stdout cannot write; Python would try again at exit and print an error."""
    try:
        sys.stdout.flush()
    except OSError:
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def replace_closed_streams() -> None:
    """Open the null device for each closed standard stream (`>&-`), so that no other file gets its descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open


@contextlib.contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Print the messages of the library, such as those of a download, on stderr."""
    log, kernels = logging.getLogger("resnetlab"), logging.getLogger("resnetlab.kernels")
    before = log.level, kernels.level
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    if not is_main_process():
        handler.addFilter(is_for_all)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    kernels.setLevel(logging.WARNING)  # a run logs its kernels itself
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        kernels.setLevel(before[1])


def is_for_all(record: logging.LogRecord) -> bool:
    """Return True for a message that any process prints: a slow shard may be read by one that is not the main one."""
    return record.levelno >= logging.WARNING and record.name.startswith("resnetlab.data.")


def place_matplotlib_files() -> None:
    """Let matplotlib write into our cache folder if it cannot write into its own; else it prints a warning."""
    homes = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}
    with contextlib.suppress(RuntimeError):  # no home folder
        own = [Path(os.environ.get(name) or Path.home() / folder, "matplotlib") for name, folder in homes.items()]
        if os.environ.get("MPLCONFIGDIR") or all(map(can_be_written, own)):
            return
    with contextlib.suppress(OSError):
        folder = cache_folder() / "matplotlib"
        folder.mkdir(exist_ok=True)
        os.environ["MPLCONFIGDIR"] = str(folder)


def can_be_written(folder: Path) -> bool:
    """Return True for a folder that can be written, or created."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def entry_point() -> None:
    """Run the command line of this process and exit."""
    replace_closed_streams()
    place_matplotlib_files()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "×" is no reason to fail
    if not is_main_process():  # warnings of torch about connections that another process has closed
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    leave_on_signals()
    code: int | None = None
    try:
        with messages_on_stderr():
            code = main(sys.argv[1:])
            ignore_signals()
    except KeyboardInterrupt as error:  # a signal while `main` returns
        ignore_signals()
        if code is None:
            code = Stopped.exit_code
            print(f"resnetlab: {error}", file=sys.stderr)
    gc.freeze()  # else the interpreter looks for garbage among all objects of torch at its exit, which takes a second
    sys.exit(code)
