"""Run benchmarks, store their results, and write the pages in docs/ from them.

python -m benchmarks [NAME ...]       measure; store JSON and figures in benchmarks/results/
python -m benchmarks table [--check]  write docs/benchmarks.md and the other pages from the stored results
"""

from __future__ import annotations

import importlib
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import page, pictures, results
from benchmarks.options import RESULTS, Options, checked, parse
from resnetlab.errors import BadInput, LabError, unknown

# Each is a module here with `measure(options) -> dict`, imported when it runs. A result's "groups" become tables and
# figures; a module with `draw(result, folder)` draws its own figure, one with `write(result)` has its own page.
BENCHMARKS = {
    "training": "images per second and peak memory of training, compared with the tutorial's script and four packages",
    "to_accuracy": "training time and accuracy on CIFAR-10, compared with a speed-record network",
    "beside_script": "time of a recipe, compared with ten epochs of the tutorial's script",
    "numerics": "validation loss of the fast path, compared with plain float32",
    "floor": "training, compared with the sum of its convolutions alone",
    "accelerate": "torchvision's networks in a plain loop, with and without resnetlab.accelerate",
    "notebook": "the classic tutorial's ResNet-34 from start to exit, compared with the plain script",
    "evaluation": "evaluating 10,000 images of CIFAR's size",
    "data": "augmented images per second, without training",
    "inference": "from image files to probabilities: one image, and lists of 64",
    "startup": "start-up time of the package and the command line",
    "checkpoint": "time to write a checkpoint and the best model, as a share of an epoch",
    "scaling": "time and memory of training as batch, image, depth and data set grow",
}
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
console = Console(highlight=False, stderr=True)


def main(words: list[str] | None = None) -> int:
    given = parse(words, __doc__ or "", BENCHMARKS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise the measured process would keep running
    try:
        if given.names == ["table"]:
            write_page(check=given.check)
            return 0
        for name in given.names:
            if name not in BENCHMARKS:
                raise unknown("benchmark", name, [*BENCHMARKS, "table"])
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

    def keep(result: dict[str, Any]) -> None:
        if not dry:
            finish(name, results.store(RESULTS, name, result, machine()))

    try:
        if not (Path(__file__).parent / f"{name}.py").exists():
            raise BadInput(f"file not found: benchmarks/{name}.py")
        module = importlib.import_module(f"benchmarks.{name}")
        options.say(f"{name}: {BENCHMARKS[name]}")
        result = module.measure(replace(options, keep=keep))
    except LabError as error:
        return complain(error)
    keep(result)
    show(result)
    return 0


def machine() -> dict[str, Any]:
    """Machine and versions of a measurement, and its command without the folders of this machine."""
    from resnetlab.runs.provenance import environment
    from resnetlab.runtime import start

    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return {**environment(start()), "command": ["python", "-m", "benchmarks", *words]}


def finish(name: str, whole: dict[str, Any]) -> None:
    """Draw a stored result and update the pages."""
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "draw"):
        module.draw(whole, RESULTS)
    else:
        pictures.draw(name, whole, RESULTS)
    write_page(check=False)


def write_page(*, check: bool) -> None:
    """Write docs/benchmarks.md and the pages of single results; with `check`, only compare."""
    found = results.stored(RESULTS, list(BENCHMARKS))
    pages = {PAGE: page.page(found, BENCHMARKS, page.relative(RESULTS, PAGE))}
    for name, result in found.items():
        if "page" in result:
            file = PAGE.parent / Path(result["page"]).name
            module = importlib.import_module(f"benchmarks.{name}")
            pages[file] = module.write(result, page.relative(RESULTS, file))
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
