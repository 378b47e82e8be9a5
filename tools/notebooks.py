"""The notebooks from their sources: `run` executes them from a fresh kernel, `check` compares the two.

    python tools/notebooks.py run                     all of notebooks/*.py, written executed beside their sources
    python tools/notebooks.py run resnet34            one of them
    python tools/notebooks.py run --quick --into DIR  an epoch on small data, written somewhere else: what CI does
    python tools/notebooks.py text                    only the prose has changed: copy it, keep what the code showed
    python tools/notebooks.py check                   every .ipynb has the cells of its .py, and no cell failed

A notebook's source is Python in jupytext's percent format: it can be read, searched and compared line by line. The
.ipynb beside it is what it printed and drew on real data.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

HOME = Path(__file__).parents[1] / "notebooks"
LONGEST = 90 * 60  # seconds for one cell


def sources(names: list[str]) -> list[Path]:
    there = {path.stem: path for path in sorted(HOME.glob("*.py"))}
    if unknown := sorted(set(names) - set(there)):
        sys.exit(f"there is no notebook {unknown[0]!r}; choose from {', '.join(there)}")
    return [there[name] for name in names] or list(there.values())


def run(source: Path, target: Path) -> None:
    """Execute a source from its first cell to its last in a kernel of its own, and write it with what it showed."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    began = time.perf_counter()
    where = {"metadata": {"path": HOME}}
    client = NotebookClient(notebook, timeout=LONGEST, kernel_name="python3", resources=where, coalesce_streams=True)
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"{source.name}: {error}")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell began and ended: noise in every comparison
    target.mkdir(parents=True, exist_ok=True)
    file = target / f"{source.stem}.ipynb"
    nbformat.write(numbered(notebook), file)
    print(f"{source.stem}: {len(notebook.cells)} cells in {time.perf_counter() - began:.0f} s, written to {file}")


def numbered(notebook: NotebookNode) -> NotebookNode:
    """The same ids at every run, so that a new run changes only what it shows."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03}"
    return notebook


def copy_text(source: Path) -> None:
    """The prose of a source into its executed notebook, whose code must be the source's."""
    file = source.with_suffix(".ipynb")
    written, shown = jupytext.read(source).cells, nbformat.read(file, as_version=4)
    if code_of(written) != code_of(shown.cells):
        sys.exit(f"the code of {source.name} has changed, too; run: python tools/notebooks.py run {source.stem}")
    for new, old in zip(written, shown.cells, strict=True):
        old.source = new.source
    nbformat.write(shown, file)


def code_of(cells: list[NotebookNode]) -> list[tuple[str, str]]:
    """The cells in their order, without the text of those that are prose."""
    return [(cell.cell_type, cell.source if cell.cell_type == "code" else "") for cell in cells]


def check(source: Path) -> list[str]:
    """What is wrong with a source's executed notebook: a sentence each."""
    file = source.with_suffix(".ipynb")
    if not file.exists():
        return [f"{file.name} is missing"]
    written, shown = jupytext.read(source).cells, nbformat.read(file, as_version=4).cells
    if [(c.cell_type, c.source) for c in written] != [(c.cell_type, c.source) for c in shown]:
        return [f"{file.name} was made from another {source.name}"]
    code = [cell for cell in shown if cell.cell_type == "code"]
    wrong = [f"{file.name} has cells that were not run in order, from a fresh kernel"]
    if [cell.execution_count for cell in code] == list(range(1, len(code) + 1)):
        wrong = []
    failed = any(output.output_type == "error" for cell in code for output in cell.outputs)
    return wrong + [f"{file.name} has a cell that failed"] * failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("run", "text", "check"))
    parser.add_argument("names", nargs="*", help="notebooks; default: all")
    parser.add_argument("--quick", action="store_true", help="small data, one epoch")
    parser.add_argument("--into", type=Path, default=HOME, help="where the executed notebooks are written")
    given = parser.parse_args()
    chosen = sources(given.names)
    if given.what == "check":
        if wrong := [sentence for source in chosen for sentence in check(source)]:
            sys.exit("\n".join((*wrong, "run: python tools/notebooks.py run")))
        return
    if given.what == "text":
        for source in chosen:
            copy_text(source)
        return
    if given.quick:
        os.environ["RESNETLAB_QUICK"] = "1"
        if given.into == HOME:
            sys.exit("a quick run is for looking whether everything works; give it a folder of its own with --into")
    for source in chosen:
        run(source, given.into)


if __name__ == "__main__":
    main()
