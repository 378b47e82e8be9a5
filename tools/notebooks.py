"""Execute the notebooks, or check that the executed ones match their sources and the code.

    python tools/notebooks.py run                     execute notebooks/*.py and write each .ipynb beside its source
    python tools/notebooks.py run resnet34            execute one of them
    python tools/notebooks.py run --quick --into DIR  one epoch on small data, written to another folder (CI does this)
    python tools/notebooks.py sync                    copy changed text and imports into the .ipynb, keep its outputs
    python tools/notebooks.py check                   find cells whose output is out of date

The source of a notebook is Python in jupytext's percent format, which can be read, searched and compared line by line.
The .ipynb beside it holds what the source printed and drew on real data.

`check` compares the cells of both files. Then it executes every cell again whose output depends only on the code and on
results/, and compares what it prints and draws. The other cells are *measured*: they depend on images, on the machine
or on time, directly or through a variable. For each of these, `run` stores a digest of the library's code that the cell
names and of the stored runs that it reads; `check` compares the digests.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import importlib.util
import io
import os
import platform
import re
import symtable
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
HOME = ROOT / "notebooks"
TIMEOUT = 90 * 60  # seconds for one cell
# A cell that uses one of these is measured: they read images, ask for the hardware, or read the clock.
MEASURING = {"open_dataset", "choose_device", "start", "cuda", "mps", "perf_counter"}
# Pictures have the same pixels, and syntax trees the same text, only with the same versions on the same machine type.
MADE_WITH = (
    f"Python {sys.version_info.major}.{sys.version_info.minor}, matplotlib {matplotlib.__version__}, "
    f"{sys.platform} {platform.machine()}"
)
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def sources(names: list[str]) -> list[Path]:
    found = {path.stem: path for path in sorted(HOME.glob("*.py")) if path.stem != "helpers"}
    if unknown := sorted(set(names) - set(found)):
        sys.exit(f"unknown notebook {unknown[0]!r}; choose from {', '.join(found)}")
    return [found[name] for name in names] or list(found.values())


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook: NotebookNode) -> None:
    """Execute all cells in a new kernel. Raises CellExecutionError."""
    where = {"metadata": {"path": HOME}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=where, coalesce_streams=True).execute()


def run(source: Path, target: Path) -> None:
    """Execute a source from first to last cell in a new kernel and write it with its outputs."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    began = time.perf_counter()
    code = [cell.source for cell in code_of(notebook)]
    before = digests(code)  # of the code as it is now; it may change during a long run
    try:
        execute(notebook)
    except CellExecutionError as error:
        sys.exit(f"{source.name}: {error}")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # start and end times of the cell, which differ in every run
    for cell, digest in zip(code_of(notebook), before, strict=True):
        if digest:
            cell.metadata["digest"] = digest
    notebook.metadata["made_with"] = MADE_WITH
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
            sys.exit(
                f"{source.name}: the code of cell {number} has changed ({first_line(new.source)!r}) and its stored "
                f"output is out of date; run: python tools/notebooks.py run {source.stem}"
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


def statements(code: str | ast.AST) -> str:
    """Syntax tree of code, as text, without imports, docstrings, comments and layout."""
    tree = ast.parse(code) if isinstance(code, str) else copy.deepcopy(code)
    return ast.dump(WithoutImports().visit(tree))


def first_line(code: str) -> str:
    """The first line of a cell that is not a comment."""
    return next((line for line in code.splitlines() if line.strip() and not line.startswith("#")), "")


# Which cells depend on more than the code


class AsGenerators(ast.NodeTransformer):
    """Replace comprehensions by generators, whose variables every version of Python keeps apart from the others."""

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(ast.Tuple([node.key, node.value]), node.generators))


def names_in(code: str) -> tuple[set[str], set[str]]:
    """Global names that code reads, within functions too, and global names that it assigns, defines or imports."""
    top = symtable.symtable(ast.unparse(AsGenerators().visit(ast.parse(code))), "cell", "exec")

    def within(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        for child in table.get_children():
            yield child
            yield from within(child)

    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for table in within(top):
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return used, {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}


def needed(body: list[ast.stmt], known: set[str] | None = None) -> set[str]:
    """Names that statements read before they assign them: what a cell needs from the cells before it."""
    known, found = set() if known is None else known, set[str]()
    for node in body:
        heads: list[ast.AST] = [node]
        targets: list[ast.AST] = []
        if isinstance(node, ast.For):
            heads, targets = [node.iter], [node.target]
        elif isinstance(node, ast.With):
            heads = [item.context_expr for item in node.items]
            targets = [item.optional_vars for item in node.items if item.optional_vars]
        elif isinstance(node, ast.If):
            heads = [node.test]
        for part in heads:
            used, assigned = names_in(ast.unparse(part))
            found |= (used | assigned if isinstance(part, ast.AugAssign) else used) - known
            known |= assigned
        known |= {name.id for part in targets for name in ast.walk(part) if isinstance(name, ast.Name)}
        if isinstance(node, ast.For | ast.With | ast.If):
            found |= needed([*node.body, *getattr(node, "orelse", [])], known)
    return found


def measured(cells: list[str]) -> list[bool]:
    """For each code cell, whether its output depends on images, on the machine or on time.

    A cell is measured if it uses one of `MEASURING` or a name that a measured cell has assigned. It may also have
    changed the objects that it uses, except functions, classes, modules and constants with upper-case names.
    """
    tainted, variables, found = set[str](), set[str](), []
    for code in cells:
        tree = ast.parse(code)
        mentioned, assigned = names_in(code)
        mentioned |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used = needed(tree.body)
        imported = {alias.asname or alias.name for node in tree.body for alias in getattr(node, "names", [])}
        fixed = imported | {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        is_measured = bool(mentioned & MEASURING or used & tainted)
        variables = (variables - fixed) | {name for name in assigned - fixed if not name.isupper()}
        if is_measured:
            tainted |= (assigned - imported) | (used & variables)
        else:
            tainted -= assigned
        found.append(is_measured)
    return found


# Digests of what measured cells use


@cache
def tree_of(module: str) -> ast.Module:
    file = HOME / f"{module}.py"
    if not file.exists():
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        file = Path(spec.origin)
    return ast.parse(file.read_text(encoding="utf-8"))


def definitions(module: str) -> dict[str, ast.stmt]:
    """The functions, classes and constants of a module, by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def library_names(*trees: ast.Module) -> dict[str, tuple[str, str]]:
    """The names that code imports from the library or from helpers: module and name there."""
    found = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("resnetlab", "helpers"):
                found |= {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
    return found


def closure(objects: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Definitions (module, name) and those that they use, in their own module and in all code that draws."""
    found, waiting = set[tuple[str, str]](), list(objects)
    while waiting:
        here = module, name = waiting.pop()
        if here in found or name not in definitions(module):
            continue
        found.add(here)
        imported = library_names(tree_of(module))
        for node in ast.walk(definitions(module)[name]):
            if isinstance(node, ast.Name):
                target = imported.get(node.id, (module, node.id))
                if target[0] == module or target[0].startswith("resnetlab.plots"):
                    waiting.append(target)
    return found


def digests(cells: list[str]) -> list[str]:
    """For each measured cell, a digest of the library's code that it names and of the stored runs that it names.

    The digest covers definitions, without docstrings and layout: see `closure`. The functions in `MEASURING` are left
    out. It is empty for the other cells, which can be executed again.
    """
    trees, found = [ast.parse(code) for code in cells], []
    imported = library_names(*trees)
    for code, tree, is_measured in zip(cells, trees, measured(cells), strict=True):
        objects = {imported[name] for name in names_in(code)[0] & imported.keys()}
        texts = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "resnetlab":
                    target = getattr(importlib.import_module("resnetlab"), node.attr)
                    objects.add((target.__module__, target.__name__))
                elif node.value.id == "helpers":
                    objects.add(("helpers", node.attr))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts += [file.read_text() for file in files_of_run(node.value)]
        named = sorted(closure({(module, name) for module, name in objects if name not in MEASURING}))
        texts += [f"{module}.{name}: {statements(definitions(module)[name])}" for module, name in named]
        found.append(hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12] if is_measured and texts else "")
    return found


def files_of_run(name: str) -> list[Path]:
    """The files of a stored run with this name that notebooks read."""
    folder = ROOT / "results" / name
    if not name or "\n" in name or not (folder / "metrics.csv").is_file():
        return []
    return [folder / part for part in ("config.json", "metrics.csv", "evaluation/test/metrics.json")]


# Comparison of outputs


def shown(cell: NotebookNode) -> list[str | bytes]:
    """What a cell shows: text, and pictures as the bytes of a PNG."""
    found: list[str | bytes] = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            found.append(b64decode(data["image/png"]))
        else:
            text = output.get("text") or data.get("text/markdown") or data.get("text/plain") or ""
            found.append(ADDRESS.sub("", text))
    return found


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))


def is_same(old: str | bytes | None, new: str | bytes | None, *, made_here: bool) -> bool:
    """Compare two outputs; the pixels of pictures only if both were `made_here`: see `MADE_WITH`."""
    if isinstance(old, bytes) and isinstance(new, bytes):
        return not made_here or np.array_equal(pixels(old), pixels(new))
    return old == new


def check(source: Path, *, again: bool = True) -> list[str]:
    """Faults of a source's executed notebook, one sentence each; with `again`, outputs are compared, too."""
    file = source.with_suffix(".ipynb")
    if not file.exists():
        return [f"{file.name} is missing"]
    written, stored = jupytext.read(source), nbformat.read(file, as_version=4)
    if [(c.cell_type, c.source) for c in written.cells] != [(c.cell_type, c.source) for c in stored.cells]:
        return [f"{file.name} differs from {source.name}; run: python tools/notebooks.py sync"]
    code = code_of(stored)
    advice = f"run: python tools/notebooks.py run {source.stem}"
    wrong = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        wrong.append(f"{file.name} has cells that were not run in order, from a new kernel; {advice}")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        wrong.append(f"{file.name} has a cell that failed; {advice}")
    if wrong or not again:
        return wrong
    return [f"{file.name}: {sentence}; {advice}" for sentence in stale(stored)]


def stale(stored: NotebookNode) -> list[str]:
    """The cells of an executed notebook whose output no longer agrees with the code, a sentence for each."""
    code = code_of(stored)
    cells = [cell.source for cell in code]
    flags = measured(cells)
    new = copy.deepcopy(stored)
    new.cells = [cell for cell, is_measured in zip(code_of(new), flags, strict=True) if not is_measured]
    for cell in new.cells:
        cell.outputs = []
    try:
        execute(new)
    except CellExecutionError as error:
        return [f"a cell cannot be executed again: {str(error).strip().splitlines()[-1]}"]
    wrong, repeated = [], iter(new.cells)
    made_with = stored.metadata.get("made_with", MADE_WITH)
    if made_with != MADE_WITH:
        print(f"made with {made_with}: only text is compared here, with {MADE_WITH}")
    for old, is_measured, digest in zip(code, flags, digests(cells), strict=True):
        where = f"cell {stored.cells.index(old) + 1} ({first_line(old.source)!r})"
        if is_measured:
            if made_with == MADE_WITH and old.metadata.get("digest", "") != digest:
                wrong.append(f"{where} uses code or stored runs that have changed since")
            continue
        pairs = zip_longest(shown(old), shown(next(repeated)))
        if not all(is_same(*pair, made_here=made_with == MADE_WITH) for pair in pairs):
            wrong.append(f"{where} prints or draws something else now")
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
        os.environ.pop("RESNETLAB_QUICK", None)
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
