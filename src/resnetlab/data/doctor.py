"""Examine the images of a data set: read every one of them once, and find what would make scores wrong.

Nothing is changed, and nothing stops at the first bad image: each is named.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from resnetlab.data import DATASETS, SPLITS
from resnetlab.data.bands import read_bands
from resnetlab.data.classes import ClassChoice, counted
from resnetlab.data.contents import content_digest
from resnetlab.data.decode import MAX_PIXELS, TooManyPixels, decode, read_bytes, read_header
from resnetlab.data.depth import DeepPixels
from resnetlab.data.duplicates import (
    SIDE,
    Copies,
    Fingerprint,
    blank,
    exact_copies,
    fingerprint,
    near_copies,
)
from resnetlab.data.folder import scan
from resnetlab.data.named import open_named
from resnetlab.data.reading import MOST_SKIPPED, MOST_THREADS, in_order, usable_cores
from resnetlab.data.splits import HoldOut
from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

Severity = Literal["error", "warning", "note"]
FEW = 5  # images of a class in a held-out split; with fewer, a score of the class says next to nothing
LEAST_SIDE = 16  # pixels; smaller images of one class look alike, such as two handwritten digits of 8×8 pixels
IMBALANCED = 10  # times as many images in the largest class as in the smallest

_CHUNK = 64


class Shown(NamedTuple):
    """One image of a finding. `place` is its index in the survey; None if it cannot be read."""

    name: str
    split: str
    label: str
    place: int | None
    reason: str = ""  # why it cannot be read

    def to_json(self) -> dict[str, str]:
        """Return file, split and label, and the reason if it cannot be read."""
        found = {"file": self.name, "split": self.split, "label": self.label}
        return found | ({"reason": self.reason} if self.reason else {})


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


@dataclass(frozen=True, eq=False)
class Survey:
    """The readable images of a data set, in the splits that a training would use, and those that cannot be read."""

    name: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]  # of each image
    contents: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # width and height, before rotation
    modes: tuple[str, ...]
    greys: np.ndarray  # uint8 (N, 32, 32)
    colours: np.ndarray  # uint8 (N, 16, 16, 3)
    broken: tuple[Shown, ...]
    read: Callable[[int], Image] = field(repr=False)
    notes: tuple[str, ...] = ()

    def shown(self, index: int) -> Shown:
        """Return an image as findings list it."""
        return Shown(self.names[index], self.splits[index], self.classes[self.labels[index]], index)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of readable images by class and split."""
        table = Counter(zip(self.labels, self.splits, strict=True))
        return {name: {split: table[label, split] for split in SPLITS} for label, name in enumerate(self.classes)}


def survey(
    name_or_folder: str,
    *,
    choice: ClassChoice | None = None,
    hold_out: HoldOut,
    group_by: str | None = None,
    root: str | Path | None = None,
    download: bool = True,
    channels: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Survey:
    """Read all images of a data set once. The arguments are those of `open_dataset`.

    Raises BadInput if the layout of a folder, or a manifest, cannot be trained on.
    """
    choice = choice or ClassChoice()
    if name_or_folder in DATASETS:
        named = open_named(name_or_folder, root=root, may_download=download).chosen(choice)
        named = named if group_by is None else named.grouped(group_by)
        splits, notes = hold_out.draw(named.classes, named.train, None, named.test)
        arrays = np.concatenate([split.images for split in splits])
        names = tuple(name for split in splits for name in split.names)

        def image(index: int) -> tuple[str, tuple[int, int], str, Image]:
            from PIL import Image as images

            opened = images.fromarray(arrays[index].squeeze())
            return content_digest(arrays[index]), opened.size, opened.mode, opened

        return _read(name_or_folder, named.classes, names, splits=splits, read=image, notes=notes)
    listing = scan(name_or_folder, choice, group_by=group_by, root=root)
    files, notes = hold_out.draw(listing.classes, listing.train, listing.val, listing.test)
    names = tuple(name for split in files for name in split.names)

    def file(index: int) -> tuple[str, tuple[int, int], str, Image]:
        path = listing.root / names[index]
        content = read_bytes(path)
        picture = shown_as_picture(io.BytesIO(content), str(path), channels, max_pixels)
        size, mode = read_header(path) or (picture.size, picture.mode)
        return content_digest(content), size, mode, picture

    name, notes = listing.name or listing.root.resolve().name, (*listing.notes, *notes)
    return _read(name, listing.classes, names, splits=files, read=file, notes=notes)


def shown_as_picture(file: IO[bytes], name: str, channels: int | None, max_pixels: int) -> Image:
    """Decode an image to 8 bits, for comparing and showing it: deep pixels from their darkest to their brightest.

    Of a TIFF file with more `channels` than colours, the first ones are shown. Raises BadInput.
    """
    from PIL import Image as images

    pixels: Image | DeepPixels
    try:
        if channels in (None, 1, 3):
            pixels = decode(file, name=name, at_least=2 * SIDE, max_pixels=max_pixels, keep_depth=True)
        else:
            pixels = read_bands(file, channels, name=name, max_pixels=max_pixels)
    except TooManyPixels as error:
        raise BadInput(f"{error} (set the limit with --data.max-pixels)") from error
    if not isinstance(pixels, DeepPixels):
        return pixels
    low, high = pixels.limits
    values = pixels.to_8bit((low, high if high > low else low + 1))
    if values.ndim == 3 and values.shape[2] != 3:
        values = values[..., :3] if values.shape[2] > 3 else values[..., 0]
    return images.fromarray(np.ascontiguousarray(values))


def _read(
    name: str,
    classes: tuple[str, ...],
    names: tuple[str, ...],
    *,
    splits: Sequence[Any],
    read: Callable[[int], tuple[str, tuple[int, int], str, Image]],
    notes: tuple[str, ...],
) -> Survey:
    """Read and shrink every image, in threads."""
    labels = [int(label) for split in splits for label in split.labels]
    places = [split for split, files in zip(SPLITS, splits, strict=True) for _ in files.names]
    log.info("reading %s of %s", counted(len(names), "image"), printable(name))

    def chunk(start: int) -> list[tuple[str, tuple[int, int], str, Fingerprint] | str]:
        found: list[tuple[str, tuple[int, int], str, Fingerprint] | str] = []
        for i in range(start, min(start + _CHUNK, len(names))):
            try:
                digest, size, mode, image = read(i)
                found.append((digest, size, mode, fingerprint(image)))
            except BadInput as error:
                found.append(str(error))
        return found

    starts, threads = range(0, len(names), _CHUNK), min(MOST_THREADS, usable_cores())
    with closing(in_order(chunk, starts, threads)) as parts:
        results = [result for part in parts for result in part]
    kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
    good = [result for result in results if not isinstance(result, str)]
    prints = [result[3] for result in good]
    return Survey(
        name,
        classes,
        tuple(names[i] for i in kept),
        tuple(labels[i] for i in kept),
        tuple(places[i] for i in kept),
        tuple(result[0] for result in good),
        tuple(result[1] for result in good),
        tuple(result[2] for result in good),
        np.stack([one.grey for one in prints]) if prints else np.empty((0, 32, 32), np.uint8),
        np.stack([one.colour for one in prints]) if prints else np.empty((0, 16, 16, 3), np.uint8),
        tuple(
            Shown(names[i], places[i], classes[labels[i]], None, result)
            for i, result in enumerate(results)
            if isinstance(result, str)
        ),
        lambda index: read(kept[index])[3],
        notes,
    )


def findings(seen: Survey, *, most_skipped: float = 0.0) -> list[Finding]:
    """Return what was found, the worst first. `most_skipped` is the share of bad images that a training skips."""
    found = [
        *_broken(seen, most_skipped),
        *_copies(seen, exact_copies(seen.contents), "exact copies"),
        *_copies(seen, _near_copies(seen), "near copies"),
        *_blank(seen),
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
        advice = "remove or repair them, or add --data.bad-images skip"
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
            "--data.group-by"
        )
        yield Finding("sequences in more than one split, by name", "warning", sentence, tuple(across))


def _balance(seen: Survey) -> Iterator[Finding]:
    counts = {name: row["train"] for name, row in seen.counts().items()}
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] >= IMBALANCED * max(1, counts[least]):
        sentence = (
            f"class {printable(most)!r} has {counts[most]:,} training images, {printable(least)!r} {counts[least]:,}; "
            "judge by macro-F1, and select the best epoch by it (--best-by macro_f1)"
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
