"""Read every image of a data set once, for the doctor: its size, digest and fingerprint, or why it cannot be read.

Nothing is changed, and nothing stops at the first bad image: each is named.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnetlab.data import SPLITS
from resnetlab.data.bands import bands_header, read_bands
from resnetlab.data.classes import ClassChoice, counted
from resnetlab.data.decode import decode, header, read_bytes
from resnetlab.data.depth import DeepPixels
from resnetlab.data.digests import content_digest
from resnetlab.data.duplicates import SIDE, Fingerprint, fingerprint
from resnetlab.data.folder import scan
from resnetlab.data.limits import MAX_PIXELS, TooManyPixels
from resnetlab.data.named import open_named
from resnetlab.data.reading import MOST_THREADS, in_order, usable_cores
from resnetlab.data.sources import is_named, published_side
from resnetlab.data.splits import HoldOut
from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

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
    groups: tuple[str, ...] | None = None  # of each image

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
    if is_named(name_or_folder) and published_side(name_or_folder) is not None:
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
    listing = scan(name_or_folder, choice, group_by=group_by, root=root, may_download=download)
    files, notes = hold_out.draw(listing.classes, listing.train, listing.val, listing.test)
    names = tuple(name for split in files for name in split.names)

    read_header = header if channels in (None, 1, 3) else bands_header

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
        raise BadInput(f"{error} (`max_pixels` sets the limit)") from error
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
    groups = [group for files in splits for group in files.groups or [None] * len(files.names)]
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
        None if None in groups else tuple(groups[i] for i in kept),
    )
