"""The card of a model: README.md with metadata as the Hugging Face Hub reads it, beside model file and figures."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput, DiskTrouble, printable
from resnetlab.files import as_path, write_json, write_text
from resnetlab.inference import hub
from resnetlab.inference.counterparts import timm_config
from resnetlab.inference.model_file import Model
from resnetlab.inference.sources import Run
from resnetlab.report.card_subject import Subject, timm_name
from resnetlab.report.card_text import text
from resnetlab.runtime import isolated

FIGURES = {
    "confusion_matrix.png": "Confusion matrix: true classes by predicted classes",
    "calibration.png": "Reliability diagram: accuracy by confidence",
}


@isolated()
def card(
    source: str | os.PathLike[str] | Run,
    out: str | os.PathLike[str] | None = None,
    *,
    license: str | None = None,
    repository: str | None = None,
) -> Path:
    """Write the card of a model into a folder, with the model file, its settings and figures; return the folder.

    `source` is a model file, a run or a run folder. The folder has `README.md`, `model.safetensors` (the model file, as
    it is), `config.json` and, for a run with scores, figures. It is what the Hugging Face Hub shows and, for networks
    that timm has too, what timm loads. `out` must be new or empty; default: `card` in the run, or beside the file.

    `license` is an SPDX name such as apache-2.0, or an address; default: that of the model file. `repository` is the
    name on the Hub, owner/name, that the card tells readers to load.

    Everything in the card comes from the model file and the run. Raises BadInput, or DiskTrouble.

    >>> card("runs/quickstart-001", license="mit")  # doctest: +SKIP
    """
    subject = Subject.of(source, license)
    if repository is not None:
        hub.require_name(repository)
    is_of_hub = isinstance(source, str | os.PathLike) and hub.is_on_hub(os.fspath(source))
    beside = Path() if is_of_hub else subject.path.parent  # nothing is written into huggingface_hub's cache
    folder = beside / "card" if out is None else as_path(out, "out")
    if folder.exists() and folder.samefile(Path.cwd()):  # it would be replaced under the feet of the caller
        raise BadInput(f"{printable(folder)} is the working directory; give a new folder with `out`")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{printable(folder)} exists and is not an empty folder; give a new one with `out`")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp") as place:
            whole = Path(place) / folder.name
            whole.mkdir()
            write_files(whole, subject, repository)
            whole.replace(folder)
    except OSError as error:
        if isinstance(error, DiskTrouble):
            raise
        raise DiskTrouble(f"could not write {printable(folder)}: {error.strerror or error}") from error
    return folder


def push(
    source: str | os.PathLike[str] | Run, repository: str, *, private: bool = False, license: str | None = None
) -> str:
    """Upload a model with its card to the Hugging Face Hub, in one commit, and return the address of the commit.

    `repository` is owner/name; it is created if there is none, for the owner alone if `private`: then one that
    everybody can read is refused. The files are those of `card`. Log in with `hf auth login` or $HF_TOKEN.
    `resnetlab.load("hf:owner/name")` loads the model again.

    Needs `pip install 'resnetlab[hub]'`. Raises BadInput if that is missing, or the Hub cannot be reached or refuses.

    >>> push("runs/quickstart-001", "owner/name", license="mit")  # doctest: +SKIP
    """
    hub.require_name(repository)
    hub.import_hub()
    with tempfile.TemporaryDirectory(prefix="resnetlab-") as place:
        folder = card(source, Path(place) / "card", license=license, repository=repository)
        return hub.upload(folder, repository, private=private)


def write_files(folder: Path, subject: Subject, repository: str | None) -> None:
    """Write the files of a card into a folder."""
    shutil.copyfile(subject.path, folder / hub.MODEL)
    write_json(folder / "config.json", config(subject.model))
    figures = {}
    if (scored := subject.scored) is not None and subject.facts is not None:
        for name, caption in FIGURES.items():
            with suppress(FileNotFoundError):
                shutil.copyfile(subject.facts.run.evaluation(scored.split) / name, folder / name)
                figures[name] = f"{caption}, {scored.title}"
    write_text(folder / "README.md", text(subject, figures, repository))


def config(model: Model) -> dict[str, Any]:
    """Return the content of config.json: that of timm, for a network that timm has, too."""
    if (name := timm_name(model)) is not None:
        return timm_config(model, name)
    return {
        "library_name": "resnetlab",
        "architecture": model.network.name,
        "num_classes": len(model.classes),
        "num_features": model.network.fc.in_features,
        "label_names": list(model.classes),
        "preprocessing": model.preprocessing.to_json(),
    }
