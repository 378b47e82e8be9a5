"""Pages with thumbnails: the findings of `resnetlab doctor`, and suspected wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resnetlab.errors import BadInput
from resnetlab.files import write_text
from resnetlab.report.render import Thumbnail, render, thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnetlab.data.doctor import Finding
    from resnetlab.data.survey import Shown
    from resnetlab.runs.doctor import Diagnosis
    from resnetlab.runs.label_issues import Examined

MOST_GROUPS, MOST_IN_GROUP = 40, 6  # shown of each finding; --json has all
MOST_SUSPECTS = 500
PAGE = "label-issues.html"
SIDE = 160  # pixels
SIGNS = {"error": "✗", "warning": "!", "note": "·"}


class Card(NamedTuple):
    """One image on a page; without a picture if it cannot be read."""

    name: str
    caption: str
    image: Thumbnail | None


def write_doctor_page(path: Path, found: Diagnosis) -> None:
    """Write the page of an examination. Raises DiskTrouble."""
    counts = [[name, *(f"{count:,}" for count in row.values())] for name, row in found.counts.items()]
    sections = {"findings": "Findings", "data": "Data", "training": "Training", "machine": "Machine"}
    has = {"data": found.data, "training": found.training, "findings": True, "machine": True}
    page = render(
        "doctor.html.j2",
        title=found.survey.name if found.survey else "This machine",
        kicker="resnetlab doctor",
        verdict=verdict(found),
        sections={anchor: name for anchor, name in sections.items() if has[anchor]},
        found=found,
        counts=counts,
        signs=SIGNS,
        galleries=[gallery(finding, found) for finding in found.findings],
        most=MOST_GROUPS,
    )
    write_text(path, page)


def verdict(found: Diagnosis) -> str:
    """The result in a sentence."""
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    if found.errors:
        return f"Training would fail: {found.errors[0].sentence}"
    if warnings:
        return f"Training can begin. {warnings} {'warning' if warnings == 1 else 'warnings'} should be looked at first."
    return "Training can begin. Nothing was found that makes scores wrong."


def gallery(finding: Finding, found: Diagnosis) -> list[list[Card]]:
    """The first images of a finding, those that belong together in one row."""
    groups = finding.groups[:MOST_GROUPS]
    return [[card(shown, found) for shown in splits_in_turn(group)[:MOST_IN_GROUP]] for group in groups]


def splits_in_turn(group: Sequence[Shown]) -> list[Shown]:
    """Order images so that the first few come from all splits.

    >>> from resnetlab.data.survey import Shown
    >>> group = [Shown(name, split, "cat", None) for name, split in zip("abc", ["train", "train", "test"])]
    >>> [shown.name for shown in splits_in_turn(group)]
    ['a', 'c', 'b']
    """
    by_split: dict[str, list[Shown]] = {}
    for shown in group:
        by_split.setdefault(shown.split, []).append(shown)
    turns = zip_longest(*by_split.values())
    return [shown for turn in turns for shown in turn if shown is not None]


def card(shown: Shown, found: Diagnosis) -> Card:
    place, survey = shown.place, found.survey
    image = None if place is None or survey is None else small(lambda: survey.read(place))
    return Card(shown.name, shown.reason or f"{shown.split}: {shown.label}", image)


def small(read: Callable[[], Image]) -> Thumbnail | None:
    """A thumbnail of an image; None if it can no longer be read."""
    try:
        image = read()
    except BadInput:
        return None
    image.thumbnail((SIDE, SIDE))
    pixels = np.asarray(image)
    return thumbnail(pixels[..., None] if pixels.ndim == 2 else pixels)


def write_label_issues(folder: Path, examined: Examined, table: Path) -> Path:
    """Write the page of suspected wrong labels, the most suspect first, and return its path. Raises DiskTrouble."""
    suspects = examined.suspects()
    cards = [
        Card(
            suspect.name,
            f"{suspect.label} ({suspect.quality:.0%}) → {suspect.suggested} ({suspect.probability:.0%})?",
            thumbnail(examined.image(suspect.index)),
        )
        for suspect in suspects[:MOST_SUSPECTS]
    ]
    rest = len(suspects) - len(cards)
    about = [
        f"{len(suspects):,} of {len(examined.names):,} labels are suspected to be wrong. "
        f"Examined were {examined.source}.",
        "Each image has its label and the class that the network suggests, with their probabilities."
        + (f" The first {len(cards):,} are shown; the table has the other {rest:,}." if rest else ""),
    ]
    page = render(
        "label_issues.html.j2",
        title=examined.title,
        kicker="resnetlab label-issues",
        about=about,
        cards=cards,
        sections={"images": "Images", "pairs": "Pairs of classes", "next": "Next"},
        pairs=examined.pairs(),
        command=examined.next_command(table),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE
