"""Execute the notebooks, or check that the executed ones match their sources.

    python tools/notebooks.py run                     execute notebooks/*.py and write each .ipynb beside its source
    python tools/notebooks.py run resnet34            execute one of them
    python tools/notebooks.py run --quick --into DIR  one epoch on small data, written to another folder (CI does this)
    python tools/notebooks.py sync                    copy changed text and imports into the .ipynb, keep its outputs
    python tools/notebooks.py check                   every .ipynb has the cells of its .py, and no cell failed

The source of a notebook is Python in jupytext's percent format, which can be read, searched and compared line by line.
The .ipynb beside it holds what the source printed and drew on real data.
"""

from __future__ import annotations

import argparse
import ast
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
TIMEOUT = 90 * 60  # seconds for one cell


def sources(names: list[str]) -> list[Path]:
    found = {path.stem: path for path in sorted(HOME.glob("*.py")) if path.stem != "helpers"}
    if unknown := sorted(set(names) - set(found)):
        sys.exit(f"unknown notebook {unknown[0]!r}; choose from {', '.join(found)}")
    return [found[name] for name in names] or list(found.values())


def run(source: Path, target: Path) -> None:
    """Execute a source from first to last cell in a new kernel and write it with its outputs."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    began = time.perf_counter()
    where = {"metadata": {"path": HOME}}
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=where, coalesce_streams=True)
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"{source.name}: {error}")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # start and end times of the cell, which differ in every run
    target.mkdir(parents=True, exist_ok=True)
    file = target / f"{source.stem}.ipynb"
    nbformat.write(numbered(notebook), file)
    print(f"{source.stem}: {len(notebook.cells)} cells in {time.perf_counter() - began:.0f} s, written to {file}")


def numbered(notebook: NotebookNode) -> NotebookNode:
    """Give the cells the same ids in every run, so that a new run changes only outputs."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03}"
    return notebook


def sync(source: Path) -> None:
    """Copy the cells of a source into its executed notebook and keep the outputs.

    Text, imports, comments and docstrings may differ. Where other code differs, the stored output would be out of
    date: this is refused and the cell named.
    """
    file = source.with_suffix(".ipynb")
    written, stored = jupytext.read(source).cells, nbformat.read(file, as_version=4)
    if [cell.cell_type for cell in written] != [cell.cell_type for cell in stored.cells]:
        sys.exit(f"{source.name} has other cells than {file.name}; run: python tools/notebooks.py run {source.stem}")
    for number, (new, old) in enumerate(zip(written, stored.cells, strict=True), 1):
        if new.cell_type == "code" and statements(new.source) != statements(old.source):
            first = new.source.partition("\n")[0]
            sys.exit(
                f"{source.name}: the code of cell {number} has changed ({first!r}) and its stored output is out of "
                f"date; run: python tools/notebooks.py run {source.stem}"
            )
    for new, old in zip(written, stored.cells, strict=True):
        old.source = new.source
    nbformat.write(stored, file)


class WithoutImports(ast.NodeTransformer):
    """Remove import statements and docstrings from a syntax tree."""

    def visit_Import(self, node: ast.Import) -> None: ...

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self.without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.without_docstring(node)

    def without_docstring(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node) is not None:
            del node.body[0]
        return self.generic_visit(node)


def statements(code: str) -> str:
    """Syntax tree of a cell, as text, without imports, docstrings, comments and layout."""
    return ast.dump(WithoutImports().visit(ast.parse(code)))


def check(source: Path) -> list[str]:
    """Faults of a source's executed notebook, one sentence each."""
    file = source.with_suffix(".ipynb")
    if not file.exists():
        return [f"{file.name} is missing"]
    written, stored = jupytext.read(source).cells, nbformat.read(file, as_version=4).cells
    if [(c.cell_type, c.source) for c in written] != [(c.cell_type, c.source) for c in stored]:
        return [f"{file.name} differs from {source.name}; run: python tools/notebooks.py sync"]
    code = [cell for cell in stored if cell.cell_type == "code"]
    again = f"run: python tools/notebooks.py run {source.stem}"
    wrong = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        wrong.append(f"{file.name} has cells that were not run in order, from a new kernel; {again}")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        wrong.append(f"{file.name} has a cell that failed; {again}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("run", "sync", "check"))
    parser.add_argument("names", nargs="*", help="notebooks; default: all")
    parser.add_argument("--quick", action="store_true", help="small data, one epoch")
    parser.add_argument("--into", type=Path, default=HOME, help="where the executed notebooks are written")
    given = parser.parse_args()
    chosen = sources(given.names)
    if given.what == "check":
        if wrong := [sentence for source in chosen for sentence in check(source)]:
            sys.exit("\n".join(wrong))
        return
    if given.what == "sync":
        for source in chosen:
            sync(source)
        return
    if given.quick:
        os.environ["RESNETLAB_QUICK"] = "1"
        if given.into == HOME:
            sys.exit("a quick run only checks that every cell works; write it to another folder with --into")
    for source in chosen:
        run(source, given.into)


if __name__ == "__main__":
    main()
