"""The command `explain`: a picture for each image, a page of all of them, and the numbers as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from resnetlab.cli import tables
from resnetlab.cli.arguments import ExplainArguments
from resnetlab.cli.console import Console
from resnetlab.cli.signals import stop_on_signals
from resnetlab.cli.words import in_flags
from resnetlab.data.classes import counted
from resnetlab.data.image_paths import ImagePaths, find_images
from resnetlab.errors import BadInput, Stopped, printable
from resnetlab.report.explain import Pages
from resnetlab.runs.evaluation_files import make_folder
from resnetlab.runs.explain import Explainer
from resnetlab.runs.log import LOGGER
from resnetlab.runs.stop import StopRequest

OUT = Path("explanations")


def explain(given: ExplainArguments) -> None:
    """Explain the images that the arguments name. Raises Stopped after a signal, when the page is written."""
    with Console(quiet=given.json_) as console, stop_on_signals() as stop:
        found = [listed(path, given) for path in given.images]
        for note in (note for images in found for note in images.notes):
            LOGGER.info("%s", printable(note))
        files = [file for images in found for file in images.files]
        explainer = Explainer(
            given.model,
            top_k=given.top_k,
            data=given.data,
            similar=given.similar,
            device=given.device,
            progress=partial(console.show_bar, "computing features"),
        )
        console.hide_bar()
        for note in explainer.notes:
            LOGGER.warning("%s", printable(note))
        session = Session(given, explainer, opened_pages(given, files), console, stop)
        with stop.watched():
            session.run(files)


def listed(path: str, given: ExplainArguments) -> ImagePaths:
    """The images of a path. Raises BadInput for a missing one, and for output that would lie among images."""
    images = find_images(path)
    if given.bad_images == "error" and images.files == (path,) and not os.path.lexists(path):
        raise BadInput(f"file or folder not found: {printable(path)}")
    out = out_folder(given)
    for folder in images.folders if out is not None else ():
        if out is not None and folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise BadInput(
                f"--out is {printable(out)}, which lies in {printable(folder)}, a folder of images to explain; give a "
                "place outside of it"
            )
    return images


def out_folder(given: ExplainArguments) -> Path | None:
    return given.out or (None if given.json_ else OUT)


def opened_pages(given: ExplainArguments, files: Sequence[str]) -> Pages | None:
    """Make the folder for pictures and page; None if only the numbers are printed."""
    out = out_folder(given)
    if out is None:
        return None
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out is {printable(out)}, which is a file; give a folder")
    make_folder(out)
    return Pages(out, files)


@dataclass
class Session:
    """One run of the command: writes a picture for each image, and then the page and the numbers of all of them."""

    given: ExplainArguments
    explainer: Explainer
    pages: Pages | None
    console: Console
    stop: StopRequest
    results: list[dict[str, Any]] = field(default_factory=list)

    def run(self, files: Sequence[str]) -> None:
        """Explain the files, in their order. The page is written even if a bad image or a signal ends the command.

        Raises BadInput for a bad image, unless they are skipped, and Stopped.
        """
        problem: BadInput | None = None
        for number, file in enumerate(files):
            if self.stop.reason:
                break
            self.console.show_bar("explaining", number, len(files))
            try:
                self.explain(file)
            except BadInput as error:
                problem = error
                break
        self.console.hide_bar()
        self.finish()
        if problem is not None:
            raise problem
        if len(self.results) < len(files):
            page = f"; {printable(self.pages.page)} has those" if self.pages and self.results else ""
            done = f"{len(self.results):,} of {counted(len(files), 'image')}"
            raise Stopped(f"stopped by {self.stop.reason} after {done}{page}")

    def explain(self, file: str) -> None:
        """Explain one file and write its picture. Raises BadInput for a bad image, unless they are skipped."""
        try:
            explanation = self.explainer(file)
        except BadInput as error:
            if self.given.bad_images == "error":
                hint = "repair or remove it, or skip bad images with --bad-images skip"
                raise BadInput(f"{error}; {hint}") from error
            LOGGER.warning("skipped: %s", printable(error))
            self.results.append({"file": printable(file), "error": str(error)})
            return
        if self.pages is not None:
            self.pages.add(file, explanation)
        self.results.append({"file": printable(file), **explanation.to_json()})

    def finish(self) -> None:
        """Write the page, and print what was found. Raises BadInput if no image could be read."""
        if not self.results:
            return
        good = [result for result in self.results if "error" not in result]
        bad = [result for result in self.results if "error" in result]
        if not good:
            raise BadInput(f"none of the {counted(len(bad), 'image')} could be read; the first: {bad[0]['error']}")
        compared = self.explainer.compared.title if self.explainer.compared else ""
        notes = [in_flags(note) for note in self.explainer.notes]
        if self.pages is not None:
            title = f"Predictions of {self.explainer.model.network.name or 'a network'}"
            skipped = [f"skipped: {result['error']}" for result in bad]
            self.pages.write(title, compared=compared, notes=[*notes, *skipped])
        if self.given.json_:
            tables.show_json({"compared": compared or None, "notes": notes, "images": self.results})
            return
        tables.show_explanations(good)
        if bad:
            was = "was" if len(bad) == 1 else "were"
            self.console.print(f"{counted(len(bad), 'file')} could not be read, and {was} skipped")
        if self.pages is not None:
            self.console.print(f"the page is {self.pages.page}")
