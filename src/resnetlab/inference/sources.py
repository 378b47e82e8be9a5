"""The names of models and runs: a path, a run, the name of a run in the folder `runs`, or an address on the Hub."""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path
from typing import Any, Protocol

from resnetlab.data.classes import shortened
from resnetlab.errors import BadInput, as_typed, printable
from resnetlab.files import as_path
from resnetlab.inference.hub import MODEL, download, is_on_hub

RUNS, BEST = Path("runs"), "best.safetensors"
CONFIG, SUMMARY = "config.json", "summary.json"  # of a run, and of a series


class Run(Protocol):
    """A run, as returned by `resnetlab.train`."""

    @property
    def path(self) -> Path: ...


def model_path(source: str | os.PathLike[str] | Run) -> Path:
    """Return the path of the model file in a run folder, a card's folder, or on the Hub, or `source` if it is a file.

    A path that does not exist may be the name of a run in RUNS. Raises BadInput, with what there is, for anything else.
    """
    file = model_source(source)
    if not file.is_dir():
        return file
    if not (file / BEST).exists():
        raise BadInput(f"{printable(file)} {without_model(file)}")
    return file / BEST


def model_source(source: str | os.PathLike[str] | Run) -> Path:
    """Return the path of the run folder or model file that `source` names; a model on the Hub is downloaded.

    The folder of a card stands for the model file in it. A path that does not exist may be the name of a run in RUNS.
    Raises BadInput, with what there is, for anything else.
    """
    given = path_in(source, "model")
    if is_on_hub(given):
        return download(given)
    path = located(given) or missing(given, "file", "a model file, a run folder or the name of a run", (BEST,))
    is_card = (path / MODEL).exists() and not (path / BEST).exists()
    return path / MODEL if is_card else path


def run_source(source: str | os.PathLike[str] | Run) -> Path:
    """Return the path of the folder that `source` names: that of a run or of a series.

    A path that does not exist may be the name of a run in RUNS. Raises BadInput, with what there is, for anything else.
    """
    given = path_in(source, "run")
    if is_on_hub(given):
        raise BadInput(f"{printable(given)} is a model on the Hub, but a run is needed; give the folder of one")
    return located(given) or missing(given, "folder", "the folder or the name of a run", (CONFIG, SUMMARY))


def path_in(source: Any, name: str) -> str:
    """Return the path in a path or run, as text. Raises BadInput, with the name of the argument, for anything else."""
    given = source if isinstance(source, str | os.PathLike) else getattr(source, "path", source)
    as_path(given, name)
    return os.fspath(given)


def located(given: str) -> Path | None:
    """Return an existing path, or the run of that name in RUNS; None if there is neither."""
    return next((path for path in (Path(given), RUNS / given) if os.path.lexists(path)), None)


def missing(given: str, kind: str, forms: str, files: tuple[str, ...]) -> Path:
    """Raise BadInput about a path that does not exist, with the names of the newest folders in RUNS with the files."""
    runs = runs_in(RUNS, files)
    give = f"give {forms} in {RUNS}"
    if not runs:
        raise BadInput(f"{kind} not found: {printable(given)}; {give}, where there is none yet")
    near = difflib.get_close_matches(given, runs, n=1)
    hint = f"; did you mean {printable(near[0])!r}?" if near else ";"
    raise BadInput(f"{kind} not found: {printable(given)}{hint} {give}: {shortened(runs)}")


def without_model(folder: Path) -> str:
    """Return why a folder has no model file, and what to give instead."""
    if (folder / CONFIG).is_file():
        resume = f"`resnetlab resume {as_typed(folder)}` continues it"
        return f"is a run without {BEST}: no epoch has ended yet; {resume}"
    if runs := runs_in(folder):
        return f"is not a run, but has runs in it; give one of them: {shortened(runs)}"
    models = sorted(file.name for file in folder.iterdir() if file.suffix == ".safetensors")
    if models:
        return f"is a folder without {BEST}; give a file in it: {shortened(models)}"
    return f"is a folder without {BEST}; give a model file or a run folder (`resnetlab runs FOLDER` lists runs)"


def runs_in(folder: Path, files: tuple[str, ...] = (BEST,)) -> list[str]:
    """Return the names of the folders in a folder that have one of the files, the newest first."""
    found = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            for file in files:
                with contextlib.suppress(OSError):
                    found[path.name] = (path / file).stat().st_mtime
    return sorted(found, key=found.__getitem__, reverse=True)
