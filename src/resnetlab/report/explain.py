"""Pictures and one page of explained predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular, write_text
from resnetlab.report.render import Thumbnail, render, thumbnail

if TYPE_CHECKING:
    from resnetlab.runs.explain import Explanation

PAGE, ENDING = "explanations.html", ".explain.png"
MARK = "resnetlab explain"  # near the beginning of each picture and page
SIDE = 320  # pixels; larger images are shown at this size
MOST = 200  # images on the page; every image has its picture
MOST_BYTES = 200  # of a file's name without its ending


class ClassOnPage(NamedTuple):
    """The evidence for one class: its probability, the two maps, and their notes."""

    name: str
    probability: float
    grad_cam: Thumbnail
    occlusion: Thumbnail
    changes: str
    has_evidence: bool
    agreement: str


class SimilarOnPage(NamedTuple):
    """A similar image; without a picture if it is gone or has changed."""

    name: str
    label: str
    similarity: float
    image: Thumbnail | None


class ImageOnPage(NamedTuple):
    """One explained image."""

    name: str
    image: Thumbnail
    cut: str
    classes: list[ClassOnPage]
    similar: list[SimilarOnPage]


class Pages:
    """Writes explanations into a folder: a picture for each image at once, and a page of all of them at the end.

    `inputs` are the files that are explained. Only files that an earlier call has written are replaced: a picture whose
    name belongs to another file gets a number.
    """

    def __init__(self, folder: Path, inputs: Iterable[str | Path] = ()) -> None:
        """Raises BadInput if the name of the page belongs to another file."""
        self.folder, self.page = folder, folder / PAGE
        if not is_replaceable(self.page):
            raise BadInput(f"{printable(self.page)} exists, and is no page of `explain`; give another folder")
        self.taken = {same_name(Path(file)) for file in inputs}
        self.images: list[ImageOnPage] = []
        self.further = 0  # images that are not on the page
        self.last: Explanation | None = None

    def add(self, file: str, explanation: Explanation) -> Path:
        """Write the picture of one image, and return its path. Raises DiskTrouble."""
        from resnetlab.plots.explanation import explanation_figure
        from resnetlab.plots.style import save

        path = self._picture(file)
        save(explanation_figure(explanation, printable(Path(file).name)), path, program=MARK)
        self.last = explanation
        if len(self.images) < MOST:
            self.images.append(on_page(file, explanation))
        else:
            self.further += 1
        return path

    def _picture(self, file: str) -> Path:
        """A path for the picture of a file that no other picture, no input and no file of others has."""
        stem = Path(file).stem or "image"
        stem = stem.encode("utf-8", "surrogateescape")[:MOST_BYTES].decode("utf-8", "ignore") or "image"
        number = 1
        while True:
            path = self.folder / f"{stem}{f'-{number}' if number > 1 else ''}{ENDING}"
            if (same := same_name(path)) not in self.taken and is_replaceable(path):
                self.taken.add(same)
                return path
            number += 1

    def _further(self) -> list[str]:
        """A sentence about the images that are not on the page, or nothing."""
        if not self.further:
            return []
        return [f"the page has the first {MOST:,} images; the pictures of the other {self.further:,} are in its folder"]

    def write(self, title: str, *, compared: str = "", notes: Iterable[str] = ()) -> Path:
        """Write the page and return its path. `compared` are the images among which similar ones were looked for."""
        explained = self.last
        page = render(
            "explanations.html.j2",
            title=title,
            kicker=MARK,
            images=self.images,
            notes=[*notes, *self._further()],
            compared=compared,
            stage=None if explained is None else explained.stage,
            patches=None if explained is None else explained.patches,
            bands=0 if explained is None else explained.pixels.shape[-1],
            sections={
                **{
                    f"image-{number}": f"{number}. {Path(one.name).name}"
                    for number, one in enumerate(self.images, start=1)
                },
                "method": "How to read this",
            },
        )
        write_text(self.page, page)
        return self.page


def is_replaceable(path: Path) -> bool:
    """Return True if a path is free, or is a picture or page that `explain` has written."""
    if not os.path.lexists(path):
        return True
    try:
        with open_regular(path) as file:
            return MARK.encode() in file.read(1000)
    except (BadInput, OSError):
        return False


def same_name(path: Path) -> str:
    """A path that is equal for two names of one file, also where upper and lower case are not distinguished."""
    return str(path.resolve()).casefold()


def on_page(file: str, explanation: Explanation) -> ImageOnPage:
    """The pictures and numbers of one image on the page."""
    from resnetlab.plots.explanation import agreement, changes, tiles, view

    classes = []
    for evidence in explanation.classes:
        heat, drops = tiles(explanation, evidence)
        classes.append(
            ClassOnPage(
                evidence.name,
                evidence.probability,
                small(heat),
                small(drops),
                changes(evidence.drops),
                bool(evidence.grad_cam.any()),
                agreement(evidence.agreement),
            )
        )
    similar = [
        SimilarOnPage(one.name, one.label, one.similarity, None if one.pixels is None else small(one.pixels))
        for one in explanation.similar
    ]
    return ImageOnPage(file, small(explanation.pixels), view(explanation.visible), classes, similar)


def small(pixels: NDArray[np.uint8]) -> Thumbnail:
    """A thumbnail of at most SIDE pixels."""
    from PIL import Image

    from resnetlab.plots.network import colour

    if max(pixels.shape[:2]) <= SIDE:
        return thumbnail(pixels)
    return thumbnail(np.asarray(Image.fromarray(colour(pixels)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
