"""Run benchmarks, store their results, and write the pages in docs/ from them.

python -m benchmarks [NAME ...]       measure; store JSON and figures in benchmarks/results/
python -m benchmarks table [--check]  write docs/benchmarks.md and the other pages from the stored results
python -m benchmarks forget [NAME ...] --machine TEXT --before DATE
                                      remove the stored rows of a machine, or those that are older than a date
"""

from __future__ import annotations

import datetime
import importlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import distributed_page, page, pictures, results
from benchmarks.options import RESULTS, Options, checked, parse
from resnetlab.errors import BadInput, LabError, unknown

# Each is a module here with `measure(options) -> dict`, imported when it runs. A result's "groups" become tables and
# figures; a module with `draw(result, folder)` draws its own figure, one with `write(result)` has its own page.
BENCHMARKS = {
    "training": "images per second and peak memory of training, compared with plain PyTorch and four packages",
    "to_accuracy": "training time and accuracy on CIFAR-10, compared with a speed-record network",
    "out_of_box": "time and accuracy of a first training from scratch, compared with fastai and ultralytics",
    "beside_script": "time of a recipe, compared with ten epochs of the tutorial's script",
    "numerics": "validation loss of the fast path, compared with plain float32",
    "rounding": "error of networks in bf16 against float64, compared with torch's own bf16",
    "floor": "training, compared with the sum of its convolutions alone",
    "accelerate": "torchvision's networks in a plain loop, with and without resnetlab.accelerate",
    "notebook": "the classic tutorial's ResNet-34 from start to exit, compared with the plain script",
    "evaluation": "evaluating 10,000 images of CIFAR's size",
    "data": "augmented images per second, without training",
    "decoding": "batches of 224 px from JPEG files of ImageNet's size, compared with torchvision and timm",
    "augmentation": "time of each augmentation of a batch, as a share of a training step",
    "inference": "from image files to probabilities: one image, and lists of 64",
    "serving": "requests per second of a server, compared with FastAPI and LitServe",
    "predicting": "predicting many image files, from the start of a process to a table of classes",
    "startup": "start-up time of the package and the command line",
    "checkpoint": "time to write a checkpoint and the best model, as a share of an epoch",
    "scaling": "time and memory of training as batch, image, depth and data set grow",
    "distributed": "training with one process and with two, compared with a cost model",
}
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PREDICTIONS = "scaling-out.md"  # beside it; computed, a stored result is only a part of it
console = Console(highlight=False, stderr=True)


def main(words: list[str] | None = None) -> int:
    given = parse(words, __doc__ or "", BENCHMARKS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise the measured process would keep running
    try:
        if given.names == ["table"]:
            if not given.check:
                draw_all(BENCHMARKS)
            write_page(check=given.check)
            return 0
        chosen = given.names[given.names[:1] == ["forget"] :]
        for name in chosen:
            if name not in BENCHMARKS:
                raise unknown("benchmark", name, [*BENCHMARKS, "table", "forget"])
        if chosen != given.names:
            return forget(chosen or [*BENCHMARKS], given.machine, given.before)
        if given.machine or given.before:
            raise BadInput("--machine and --before choose what `python -m benchmarks forget` removes")
        with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
            options = checked(given, Path(scratch), lambda line: console.print(escape(line), soft_wrap=True))
            dry = given.dry or given.quick  # the numbers of a quick run are not results
            return max([measure(name, options, dry=dry) for name in given.names or BENCHMARKS])
    except LabError as error:
        return complain(error)
    except KeyboardInterrupt:
        console.print("benchmarks: stopped; finished results are stored")
        return 130


def complain(error: LabError) -> int:
    """Print the error and return its exit code."""
    console.print(f"benchmarks: {escape(str(error))}", soft_wrap=True)
    return error.exit_code


def measure(name: str, options: Options, *, dry: bool) -> int:
    """Run one benchmark, show its result, and store it unless `dry`; return an exit code."""

    environment = machine()

    def keep(result: dict[str, Any]) -> None:
        if not dry and result.get("groups") != []:  # empty: all was stored already
            results.store(RESULTS, name, result, environment)
            finish(name)

    try:
        if not (Path(__file__).parent / f"{name}.py").exists():
            raise BadInput(f"file not found: benchmarks/{name}.py")
        module = importlib.import_module(f"benchmarks.{name}")
        options.say(f"{name}: {BENCHMARKS[name]}")
        before = results.entries(RESULTS, name)
        result = module.measure(replace(options, keep=keep, stored=before, environment=environment))
    except LabError as error:
        return complain(error)
    keep(result)
    show(result)
    return 0


def forget(names: Sequence[str], machine: str | None, before: str | None) -> int:
    """Remove stored rows, print them, and update figures and pages."""
    if machine is None and before is None:
        raise BadInput("forget needs --machine TEXT, --before YYYY-MM-DD or both")
    if before is not None:
        try:
            datetime.date.fromisoformat(before)
        except ValueError:
            raise BadInput(f"--before is {before!r}; give a date as YYYY-MM-DD") from None
    removed = [row for name in names for row in results.forget(RESULTS, name, machine=machine, before=before)]
    for row in removed:
        console.print(escape(f"removed {row}"), soft_wrap=True)
    if not removed:
        raise BadInput("no stored row matches; python -m benchmarks table shows them in docs/benchmarks.md")
    draw_all(names)
    write_page(check=False)
    return 0


def machine() -> dict[str, Any]:
    """Machine, versions and commit of a measurement, and its command without the folders of this machine."""
    from resnetlab.runs.provenance import PACKAGES, now, version
    from resnetlab.runtime import start

    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return {
        **start().facts(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "command": ["python", "-m", "benchmarks", *words],
        "started": now(),
    }


def commit() -> str:
    """The last commit that changed the package, with a + if its files differ from it; "unknown" without git."""
    source = "src/resnetlab"
    try:
        last, changed = (
            subprocess.run(["git", *words, "--", source], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for words in (("log", "-1", "--format=%h"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return last.strip() + "+" * bool(changed.strip())


def finish(name: str) -> None:
    """Draw a stored result and update the pages."""
    draw_all([name])
    write_page(check=False)


def draw_all(names: Iterable[str]) -> None:
    """Draw the stored results of some benchmarks, and delete figures of rows that are no longer stored."""
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        drawn = set()
        for entry in results.entries(RESULTS, name):
            if hasattr(module, "draw"):
                file = RESULTS / pictures.picture_name(name, name, entry["environment"])
                module.draw(entry, file)
                drawn.add(file)
            else:
                drawn |= set(pictures.draw(name, entry, RESULTS).values())
        for file in RESULTS.glob(f"{name}*.png"):
            if file not in drawn:
                file.unlink()


def write_page(*, check: bool) -> None:
    """Write docs/benchmarks.md and the pages of single results; with `check`, only compare."""
    found = results.stored(RESULTS, BENCHMARKS)
    pages = {
        PAGE: page.page(found, BENCHMARKS, page.relative(RESULTS, PAGE)),
        PAGE.with_name(PREDICTIONS): distributed_page.page(found.get("distributed", ())),
    }
    for name, entries in found.items():
        if "page" in entries[0]:
            file = PAGE.parent / Path(entries[0]["page"]).name
            module = importlib.import_module(f"benchmarks.{name}")
            pages[file] = module.write(entries, page.relative(RESULTS, file))
    for file, text in pages.items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            raise BadInput(f"{file.name} is out of date; run: python -m benchmarks table")


def show(result: dict[str, Any]) -> None:
    """Print the groups of a result as tables."""
    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = 120
    for group in result.get("groups", ()):
        grid = Table(title=group["title"], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("")
        for column in (group["unit"], "lowest", "highest", "ours ÷ it"):
            grid.add_column(column, justify="right")
        for row in group["contenders"]:
            if row["values"]:
                numbers = [pictures.number(row[key]) for key in ("median", "lowest", "highest")]
                grid.add_row(escape(row["name"]), *numbers, page.against(row))
            else:
                grid.add_row(escape(row["name"]), "failed")
        shown.print(grid)


if __name__ == "__main__":
    sys.exit(main())
