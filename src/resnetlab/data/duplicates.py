"""Copies of one image in a data set: equal files, and pictures that were re-encoded, resized or mirrored.

Near copies are found in two steps. The 63 lowest frequencies of the grey image (a discrete cosine transform of 32×32
pixels, as for the perceptual hash "pHash", but not rounded to bits) give the candidates: one product of matrices
compares all pairs. A mirrored image has the same even frequencies, and the odd ones with the opposite sign, so it is
found by the same product. Candidates are then compared in colour at 16×16 pixels.

Both limits were chosen by eye, on pairs found in CIFAR-10. In four random samples of 5,000 of its images they find
seven pairs; by eye, all seven are one photo. Of 400 images planted again, all are found that were mirrored, enlarged,
or saved as JPEG of quality 50 or 30, and 399 of those at half the size, but only half of those without their colours.
Copies that were cropped, turned or made brighter are not found.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resnetlab.data import SPLITS
from resnetlab.errors import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnetlab.data.datasets import ImageData

SIDE, FREQUENCIES, COLOUR_SIDE = 32, 8, 16  # pixels, per axis, pixels
MOST_ANGLE = 0.985  # smallest cosine between the frequencies of two copies
MOST_DIFFERENCE = 0.35  # root mean square of the difference in colour, as a share of the standard deviation
LEAST_CONTRAST = 2.0  # of 255 grey values; all blank images look alike
_BLOCK = 1024  # images that are compared with all others at a time


class Fingerprint(NamedTuple):
    """A fingerprint that copies have in common: grey pixels, uint8 (32, 32), and colours, uint8 (16, 16, 3)."""

    grey: np.ndarray
    colour: np.ndarray


def fingerprint(image: Image) -> Fingerprint:
    """Shrink a decoded image (mode L or RGB, any size), without regard to its aspect ratio."""
    from PIL import Image as images

    grey = image.convert("L").resize((SIDE, SIDE), images.Resampling.BILINEAR)
    colour = image.convert("RGB").resize((COLOUR_SIDE, COLOUR_SIDE), images.Resampling.BILINEAR)
    return Fingerprint(np.asarray(grey), np.asarray(colour))


@dataclass(frozen=True)
class Copies:
    """Images that show one picture: their indices, ascending. `is_exact` if the files are equal."""

    images: tuple[int, ...]
    is_exact: bool
    is_mirrored: bool = False  # at least two of them are mirror images of each other


def exact_copies(contents: Sequence[str]) -> list[Copies]:
    """Find images with equal content digests.

    >>> exact_copies(["a", "b", "a"])
    [Copies(images=(0, 2), is_exact=True, is_mirrored=False)]
    """
    places: dict[str, list[int]] = {}
    for i, content in enumerate(contents):
        places.setdefault(content, []).append(i)
    return [Copies(tuple(group), is_exact=True) for group in places.values() if len(group) > 1]


def near_copies(greys: np.ndarray, colours: np.ndarray, contents: Sequence[str] = ()) -> list[Copies]:
    """Find images that are re-encoded, resized or mirrored copies of each other, but not equal files.

    `greys` are uint8 (N, 32, 32), `colours` uint8 (N, 16, 16, 3). The time grows with the square of N: 55,000 images
    took half a minute on one core. Blank images are left out (see `blank`).
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    digests = np.unique(np.asarray(contents), return_inverse=True)[1] if len(contents) else np.arange(len(greys))
    kept = np.flatnonzero(~blank(greys))
    kept = kept[np.sort(np.unique(digests[kept], return_index=True)[1])]  # one of several equal files
    if len(kept) < 2:
        return []
    first, second, is_mirrored = _similar_pairs(greys[kept], colours[kept])
    if not len(first):
        return []
    first, second = kept[first], kept[second]
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(greys),) * 2)
    group_of = connected_components(graph, directed=False)[1]
    mirrored = set(group_of[first[is_mirrored]].tolist())
    wanted = np.unique(group_of[first])
    by_digest = {digest: group_of[i] for i, digest in zip(kept.tolist(), digests[kept].tolist(), strict=True)}
    members: dict[int, list[int]] = {group: [] for group in wanted.tolist()}
    for i, digest in enumerate(digests.tolist()):  # equal files of a near copy are near copies, too
        group = by_digest.get(digest)
        if group in members:
            members[group].append(i)
    return [Copies(tuple(images), is_exact=False, is_mirrored=group in mirrored) for group, images in members.items()]


def blank(greys: np.ndarray) -> np.ndarray:
    """Return True for each image, uint8 (N, 32, 32), that is of one colour, or nearly so."""
    deviations = [block.reshape(len(block), SIDE**2).std(1) for block in np.array_split(greys, 1 + len(greys) // 4096)]
    return np.concatenate(deviations) < LEAST_CONTRAST


def _similar_pairs(greys: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs as indices i < j, and True for each pair that is mirrored."""
    import torch

    frequencies = _frequencies(greys)
    even, odd = (torch.from_numpy(frequencies[:, :, start::2].reshape(len(greys), -1)) for start in (0, 1))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for start in range(0, len(greys), _BLOCK):
            similarity = even[start : start + _BLOCK] @ even[start:].T
            similarity += (odd[start : start + _BLOCK] @ odd[start:].T).abs_()
            rows, columns = (part.numpy() for part in torch.nonzero(similarity >= MOST_ANGLE, as_tuple=True))
            upper = columns > rows
            for pairs in np.array_split(np.flatnonzero(upper), 1 + int(upper.sum()) // 16384):
                i, j = rows[pairs] + start, columns[pairs] + start
                straight, mirrored = (_difference(colours[i], other) for other in (colours[j], colours[j][:, :, ::-1]))
                same = np.minimum(straight, mirrored) <= MOST_DIFFERENCE
                found.append((i[same], j[same], (mirrored < straight)[same]))
    first, second, is_mirrored = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second, is_mirrored


def _frequencies(greys: np.ndarray) -> np.ndarray:
    """Return the lowest frequencies but the mean, of length 1: float32 (N, 8, 8)."""
    cosines = _cosines()
    found = np.empty((len(greys), FREQUENCIES, FREQUENCIES), np.float32)
    for start in range(0, len(greys), 4096):
        found[start : start + 4096] = cosines @ greys[start : start + 4096].astype(np.float32) @ cosines.T
    found[:, 0, 0] = 0
    return np.asarray(found / np.maximum(np.sqrt((found**2).sum((1, 2), keepdims=True)), 1e-6))


@functools.cache
def _cosines() -> np.ndarray:
    """Return the first rows of the matrix of the discrete cosine transform, float32 (8, 32)."""
    from scipy.fft import dct

    return np.asarray(dct(np.eye(SIDE), axis=0, norm="ortho")[:FREQUENCIES], np.float32)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how much images (N, 16, 16, 3) differ: the root mean square, as a share of the deviation of the flatter.

    One grey value of the deviation is added, so that noise in a nearly blank image is no difference.
    """
    x, y = (images.reshape(len(images), 3 * COLOUR_SIDE**2).astype(np.float32) for images in (a, b))
    contrast = np.minimum(x.std(1), y.std(1))
    return np.asarray(np.sqrt(((x - y) ** 2).mean(1)) / np.maximum(contrast, 1.0))


def notes_on_copies(data: ImageData) -> tuple[str, ...]:
    """Return sentences about equal files in several splits, and about one image with several labels.

    The digests were computed when the images were read, so this takes no time.
    """
    splits = {"train": data.train, "val": data.val, "test": data.test}
    contents = [content for split in splits.values() for content in split.contents]
    names = [name for split in splits.values() for name in split.names]
    if len(contents) < len(names):
        return ()
    labels = [label for split in splits.values() for label in split.labels.tolist()]
    places = [place for place, split in splits.items() for _ in split.names]
    copies = exact_copies(contents)
    across = [group for group in copies if len({places[i] for i in group.images}) > 1]
    conflicts = [group for group in copies if len({labels[i] for i in group.images}) > 1]
    notes = []
    if across:
        between = quoted_splits({places[i] for group in across for i in group.images})
        count = "1 image is" if len(across) == 1 else f"{len(across):,} images are"
        notes.append(
            f"{count} in more than one split ({between}), so scores are too good; the first: "
            f"{example(across[0], names)}; `resnetlab doctor` lists all"
        )
    if conflicts:
        count = "1 image has" if len(conflicts) == 1 else f"{len(conflicts):,} images have"
        notes.append(
            f"{count} different labels; the first: {example(conflicts[0], names)}; `resnetlab doctor` lists all"
        )
    return tuple(notes)


def example(group: Copies, names: Sequence[str]) -> str:
    """Return the first two names of a group."""
    return " = ".join(printable(names[i]) for i in group.images[:2])


def quoted_splits(splits: Iterable[str]) -> str:
    """Return the names of splits in their usual order.

    >>> quoted_splits({"test", "train"})
    'train, test'
    """
    return ", ".join(split for split in SPLITS if split in splits)
