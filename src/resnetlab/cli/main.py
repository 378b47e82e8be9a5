"""The command line: one command, one exit code, one sentence for what goes wrong. `--help` imports no torch."""

from __future__ import annotations

import errno
import io
import logging
import sys
import traceback
from collections.abc import Sequence

from resnetlab import __version__
from resnetlab.cli.commands import COMMANDS
from resnetlab.errors import BadInput, DiskTrouble, LabError, Stopped, printable, unknown
from resnetlab.runs.stopping import ignore_signals, leave_on_sigterm

USAGE = """\
usage: resnetlab COMMAND …

Build, understand, train, judge and use residual networks.

  train [RECIPE]   train, score and plot a run; without arguments: ResNet-18 on digits, in about a minute
  find-lr [RECIPE] try rising learning rates for a minute and suggest one; leaves no run behind
  resume RUN       go on with a run that was stopped, or make a finished one longer
  evaluate RUN     score a run, or a model file, on its validation or test split
  compare RUN RUN  two runs or more on the same images: which is better, and whether one can tell
  baseline         a network from scratch, and with ImageNet's weights, frozen and fine-tuned: which is better
  report RUN       a run as one HTML page: scores, curves, classes, calibration, mistakes, and how to get it again
  runs [FOLDER]    the runs in a folder, best first
  models [NAME]    the networks there are, or one of them stage by stage, as numbers and as a picture

  --help, --version, --debug (show tracebacks); `resnetlab COMMAND --help` says more

exit codes: 0 done · 1 a bug of ours · 2 bad input · 3 no sound checkpoint · 4 the disk · 5 a non-finite number ·
            6 stopped, can be resumed
"""


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
    code: int | None = None
    try:
        code = main(sys.argv[1:])
        ignore_signals()
    except KeyboardInterrupt as error:  # a signal in the very instant in which `main` is left
        ignore_signals()
        if code is None:
            code = Stopped.exit_code
            print(f"resnetlab: {error}", file=sys.stderr)
    sys.exit(code)
