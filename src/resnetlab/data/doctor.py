"""Examine what a survey of a data set has read: find what would make scores wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resnetlab.data import SPLITS
from resnetlab.data.classes import counted
from resnetlab.data.duplicates import Copies, blank, exact_copies, near_copies
from resnetlab.data.groups import notes_on_groups, shared_groups
from resnetlab.data.reading import MOST_SKIPPED
from resnetlab.data.survey import Shown, Survey
from resnetlab.errors import printable

Severity = Literal["error", "warning", "note"]
FEW = 5  # images of a class in a held-out split; with fewer, a score of the class says next to nothing
LEAST_SIDE = 16  # pixels; smaller images of one class look alike, such as two handwritten digits of 8×8 pixels
IMBALANCED = 10  # times as many images in the largest class as in the smallest


@dataclass(frozen=True)
class Finding:
    """Something to know about a data set. With an "error" it cannot be trained on.

    `groups` are the images concerned; those that belong together are in one group.
    """

    kind: str
    severity: Severity
    sentence: str
    groups: tuple[tuple[Shown, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        groups = [[shown.to_json() for shown in group] for group in self.groups]
        return {"kind": self.kind, "severity": self.severity, "message": self.sentence, "images": groups}


def findings(seen: Survey, *, most_skipped: float = 0.0) -> list[Finding]:
    """Return what was found, the worst first. `most_skipped` is the share of bad images that a training skips."""
    found = [
        *_broken(seen, most_skipped),
        *_copies(seen, exact_copies(seen.contents), "exact copies"),
        *_copies(seen, _near_copies(seen), "near copies"),
        *_blank(seen),
        *_groups(seen),
        *_one_source(seen),
        *_sequences(seen),
        *_balance(seen),
        *_small_splits(seen),
    ]
    order: list[Severity] = ["error", "warning", "note"]
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _near_copies(seen: Survey) -> list[Copies]:
    """Find near copies among the images that are large enough to be told apart."""
    places = [i for i, size in enumerate(seen.sizes) if min(size) >= LEAST_SIDE]
    contents = [seen.contents[i] for i in places]
    found = near_copies(seen.greys[places], seen.colours[places], contents)
    return [replace(group, images=tuple(places[i] for i in group.images)) for group in found]


def _broken(seen: Survey, most_skipped: float) -> Iterator[Finding]:
    if not seen.broken:
        return
    count, total = len(seen.broken), len(seen.broken) + len(seen.names)
    is_fatal = count > most_skipped * total
    if not is_fatal:
        advice = "they are skipped"
    elif most_skipped or count > MOST_SKIPPED * total:
        advice = f"remove or repair them: no more than {most_skipped or MOST_SKIPPED:.0%} are skipped"
    else:
        advice = "remove or repair them, or skip them (`bad_images='skip'`)"
    sentence = f"{count:,} of {counted(total, 'image')} cannot be read; {advice}; the first: {seen.broken[0].reason}"
    groups = tuple((shown,) for shown in seen.broken)
    yield Finding("broken images", "error" if is_fatal else "warning", sentence, groups)


def _copies(seen: Survey, copies: Sequence[Copies], kind: str) -> Iterator[Finding]:
    """Sort copies by what is wrong with them: different labels, several splits, or nothing but repetition."""
    conflicts, across, inside = [], [], []
    for group in copies:
        if len({seen.labels[i] for i in group.images}) > 1:
            conflicts.append(group)
        elif len({seen.splits[i] for i in group.images}) > 1:
            across.append(group)
        else:
            inside.append(group)
    kinds: tuple[tuple[list[Copies], Severity, str, str], ...] = (
        (conflicts, "warning", "with different labels", "keep each with its right label"),
        (across, "warning", "in more than one split", "scores on them are too good; keep each in one split"),
        (inside, "note", "inside a split", "they count several times"),
    )
    for groups, severity, where, advice in kinds:
        if groups:
            listed = tuple(tuple(map(seen.shown, group.images)) for group in groups)
            mirrored = sum(group.is_mirrored for group in groups)
            more = f", {mirrored:,} of them mirrored" if mirrored else ""
            first = " = ".join(printable(shown.name) for shown in listed[0][:2])
            sentence = f"{counted(len(groups), 'picture')}{more}; {advice}; the first: {first}"
            yield Finding(f"{kind} {where}", severity, sentence, listed)


def _blank(seen: Survey) -> Iterator[Finding]:
    if len(seen.names) and len(places := np.flatnonzero(blank(seen.greys)).tolist()):
        groups = tuple((seen.shown(i),) for i in places)
        verb = "is" if len(places) == 1 else "are"
        sentence = (
            f"{counted(len(places), 'image')} {verb} of one colour; the first: {printable(seen.names[places[0]])}"
        )
        yield Finding("blank images", "warning", sentence, groups)


def _groups(seen: Survey) -> Iterator[Finding]:
    """Find groups, as `group_by` names them, that are in more than one split."""
    if seen.groups is None:
        return
    members: dict[str, list[int]] = {}
    for i, group in enumerate(seen.groups):
        members.setdefault(group, []).append(i)
    in_split = {split: [g for g, s in zip(seen.groups, seen.splits, strict=True) if s == split] for split in SPLITS}
    listed = tuple(tuple(map(seen.shown, members[group])) for group in shared_groups(in_split))
    for sentence in notes_on_groups(in_split):
        yield Finding("groups in more than one split", "warning", sentence, listed)


_COPY = re.compile(r"(.*?)(?:[ _-]*\(\d+\)|[ _-]+(?:copy|kopie|copie|copia)(?:[ _-]*\(?\d+\)?)?)", re.IGNORECASE)
_AUGMENTED = re.compile(
    r"(.+?)(?:\.rf\.[0-9a-f]{8,}|[_-](?:h?flip|mirrored?|rot(?:ated?)?|aug(?:mented)?)[_-]?\d*)", re.I
)
_COUNTER = re.compile(r"\D{0,12}\d{1,8}", re.ASCII)


def _one_source(seen: Survey) -> Iterator[Finding]:
    """Find names that point to one source in several splits: "x.jpg" and "x (1).jpg", "x.rf.1a2b…", "x_flip.jpg"."""
    stems = [Path(name).stem for name in seen.names]
    existing = {(label, stem.casefold()) for label, stem in zip(seen.labels, stems, strict=True)}
    sources: dict[tuple[int, str], list[int]] = {}
    for i, (label, stem) in enumerate(zip(seen.labels, stems, strict=True)):
        key, is_sure = stem.casefold(), not _COUNTER.fullmatch(stem)  # 0001.jpg in two folders are two images
        if (match := _AUGMENTED.fullmatch(stem)) or (
            (match := _COPY.fullmatch(stem)) and (label, match[1].casefold()) in existing
        ):
            key, is_sure = match[1].casefold(), True
        sources.setdefault((label, key), []).append(i if is_sure else -i - 1)
    groups = []
    for members in sources.values():
        places = [i if i >= 0 else -i - 1 for i in members]
        if any(i >= 0 for i in members) and len({seen.splits[i] for i in places}) > 1:
            groups.append(tuple(map(seen.shown, places)))
    if groups:
        first = ", ".join(printable(shown.name) for shown in groups[0][:2])
        sentence = (
            f"the names of {counted(len(groups), 'group')} of images point to one source in more than one split "
            f"(copies or augmented images); the first: {first}"
        )
        yield Finding("one source in more than one split, by name", "warning", sentence, tuple(groups))


def _sequences(seen: Survey) -> Iterator[Finding]:
    """Find numbered frames of several videos, or bursts, that lie in more than one split.

    A sequence is a prefix with a digit in it, such as "video3_", and numbers at nearly regular distances. A class needs
    two sequences, because a single one is how its images were named.
    """
    by_prefix: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for i, (label, name) in enumerate(zip(seen.labels, seen.names, strict=True)):
        path = Path(name)
        if match := re.fullmatch(r"(.*\d.*?\D)(\d+)", path.stem, re.ASCII):
            by_prefix.setdefault((label, match[1].casefold()), []).append((int(match[2]), i))
    sequences: dict[int, list[tuple[Shown, ...]]] = {}
    for (label, _), frames in by_prefix.items():
        numbers = sorted(number for number, _ in frames)
        steps = np.diff(numbers)
        step = max(1, math.gcd(*steps.tolist())) if len(steps) else 1
        if len(frames) >= 3 and (numbers[-1] - numbers[0]) / step < 3 * len(frames):
            sequences.setdefault(label, []).append(tuple(seen.shown(i) for _, i in sorted(frames)))
    several = [group for groups in sequences.values() if len(groups) > 1 for group in groups]
    across = [group for group in several if len({shown.split for shown in group}) > 1]
    if across:
        prefix = re.sub(r"\d+$", "", Path(across[0][0].name).stem)
        sentence = (
            f"{counted(len(across), 'sequence')} of numbered frames, such as {printable(prefix)}…, lie in more than "
            "one split; neighbouring frames are alike, so scores are too good: keep each sequence in one split with "
            "`group_by`"
        )
        yield Finding("sequences in more than one split, by name", "warning", sentence, tuple(across))


def _balance(seen: Survey) -> Iterator[Finding]:
    counts = {name: row["train"] for name, row in seen.counts().items()}
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] >= IMBALANCED * max(1, counts[least]):
        sentence = (
            f"class {printable(most)!r} has {counts[most]:,} training images, {printable(least)!r} {counts[least]:,}; "
            "compare runs by macro-F1, and select the best epoch by it (`best_by='macro_f1'`)"
        )
        yield Finding("imbalanced classes", "note", sentence)


def _small_splits(seen: Survey) -> Iterator[Finding]:
    for split in SPLITS[1:]:
        few = {name: row[split] for name, row in seen.counts().items() if row[split] < FEW}
        if few:
            first = min(few, key=lambda name: few[name])
            classes = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
            sentence = (
                f"{classes} fewer than {FEW} {split} images ({printable(first)!r} {few[first]}); their scores are a "
                "matter of chance"
            )
            yield Finding(f"few {split} images", "note", sentence)


def size_range(sizes: Iterable[tuple[int, int]]) -> str:
    """Return the sizes of images in words.

    >>> size_range([(32, 32), (32, 32)]), size_range([(640, 480), (20, 30), (50, 50)])
    ('all 32×32', '20×30 to 640×480, median short side 50')
    """
    found = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    if not found:
        return "none"
    (low, high), median = (found[0], found[-1]), float(np.median([min(size) for size in sizes]))
    if low == high:
        return f"all {low[0]}×{low[1]}"
    return f"{low[0]}×{low[1]} to {high[0]}×{high[1]}, median short side {median:g}"
