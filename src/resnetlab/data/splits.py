"""Splits: which images belong to training, validation and test, and the same ones everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==; compare digests
class Split:
    """A part of a data set in memory: images uint8 (N, H, W, C), labels int64 (N,), and a name for each image."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a split whose parts do not belong together: labels must never shift."""
        if not len(self.images) == len(self.labels) == len(self.names):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels and {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted lines "name, tab, label": the same for the same images, in whatever order."""
        return names_digest(self.names, self.labels.tolist())

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Split:
        """The images at `indices`, in that order, as a copy."""
        import torch

        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        names = tuple(self.names[i] for i in chosen.tolist())
        return Split(self.images[chosen], self.labels[chosen], names)


def names_digest(names: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256, hexadecimal, over the sorted lines "name, tab, label".

    >>> names_digest(["b", "a"], [1, 0]) == names_digest(["a", "b"], [0, 1])
    True
    """
    lines = sorted(f"{name}\t{label}\n" for name, label in zip(names, labels, strict=True))
    # surrogateescape: a file name on Linux need not be valid UTF-8
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def stratified(
    labels: Sequence[int] | np.ndarray | Tensor,
    fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    purpose: str = "a held-out part",
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out), both int64 and ascending; `fraction` of the images is held out, class by class.

    Depends on the labels, the fraction and the seed only. It draws what scikit-learn's `train_test_split` draws, but
    does not import it, which would take 0.8 s and 80 MB. At least one image per class is kept, and at least as
    many images are held out as there are classes. Raises BadInput, naming the class, where that cannot be; `classes`
    are the names to use, `purpose` says in that sentence what is being drawn.

    >>> kept, held_out = stratified([0, 0, 0, 1, 1, 1], fraction=0.34, seed=0)
    >>> len(kept), len(held_out)
    (4, 2)
    """
    if not 0.0 < fraction < 1.0:
        raise BadInput(f"{purpose} of {fraction:g} of the images cannot be drawn; it must lie between 0 and 1")
    if not 0 <= seed < 2**32:
        raise BadInput(f"split seed {seed} is out of range; it must lie in 0..{2**32 - 1}")
    array = np.asarray(labels, dtype=np.int64)
    present, counts = np.unique(array, return_counts=True)
    if not len(present):
        raise BadInput(f"{purpose} cannot be drawn: there are no images")

    def class_name(label: Any) -> str:
        return repr(printable(classes[label])) if classes is not None else str(label)

    for label, count in zip(present, counts, strict=True):
        if count < 2:
            raise BadInput(
                f"class {class_name(label)} has 1 image left to draw {purpose} from; at least 2 are needed, "
                "one to train on and one to hold out: add images, or provide the split as folders of its own"
            )
    total, smallest = len(array), len(present)
    held = min(max(round(fraction * total), smallest), total - smallest)
    draw = np.random.RandomState(seed)  # old, and so promised to draw the same numbers for ever (NEP 19)
    kept_counts = _shares(counts, total - held, draw)
    held_counts = _shares(counts - kept_counts, held, draw)
    if not kept_counts.all():
        label = present[kept_counts.argmin()]
        raise BadInput(
            f"class {class_name(label)} would keep no image to train on: {purpose} of {fraction:g} takes all "
            f"{counts[present == label][0]}; hold out a smaller fraction, or add images"
        )
    kept_indices, held_indices = [], []
    by_class = np.split(np.argsort(array, kind="stable"), np.cumsum(counts)[:-1])
    for members, keep, hold in zip(by_class, kept_counts, held_counts, strict=True):
        shuffled = members[draw.permutation(len(members))]
        kept_indices.append(shuffled[:keep])
        held_indices.append(shuffled[keep : keep + hold])
    return np.sort(np.concatenate(kept_indices)), np.sort(np.concatenate(held_indices))


def _shares(counts: np.ndarray, total: int, draw: np.random.RandomState) -> np.ndarray:
    """How many of `total` each class gives: in proportion to its count, the largest remainders rounded up."""
    exact = counts / counts.sum() * total
    given: np.ndarray = np.floor(exact).astype(np.int64)
    left = total - int(given.sum())
    remainders = exact - given
    for remainder in np.unique(remainders)[::-1] if left else ():
        tied = np.flatnonzero(remainders == remainder)
        chosen = draw.choice(tied, size=min(len(tied), left), replace=False)
        given[chosen] += 1
        left -= len(chosen)
        if not left:
            break
    return given


class HasLabels(Protocol):
    @property
    def labels(self) -> np.ndarray: ...
    def subset(self: P, indices: np.ndarray) -> P: ...


P = TypeVar("P", bound=HasLabels)


@dataclass(frozen=True)
class Draw:
    """How missing splits are drawn from the training images: test first, then val from what is left."""

    val_fraction: float
    test_fraction: float
    seed: int

    def __call__(
        self, classes: Sequence[str], train: P, val: P | None, test: P | None
    ) -> tuple[tuple[P, P, P], tuple[str, ...]]:
        """(train, val, test), and a sentence for each that was drawn."""
        missing = [part for part, given in (("test", test), ("val", val)) if given is None]
        counts = np.bincount(train.labels, minlength=len(classes))
        if counts.min() <= len(missing):
            raise BadInput(
                f"class {printable(classes[int(counts.argmin())])!r} has {_images(int(counts.min()))}; at least "
                f"{1 + len(missing)} are needed, one each for train and the splits to draw ({', '.join(missing)})"
            )
        notes = []
        if test is None:
            train, test, note = self._one("test", self.test_fraction, classes, train)
            notes.append(note)
        if val is None:
            train, val, note = self._one("val", self.val_fraction, classes, train)
            notes.append(note)
        return (train, val, test), tuple(notes)

    def _one(self, part: str, fraction: float, classes: Sequence[str], train: P) -> tuple[P, P, str]:
        kept, held = stratified(train.labels, fraction, self.seed, classes=classes, purpose=f"{part} split")
        note = f"{part}: {len(held):,} of {len(train.labels):,} training images, drawn by class with seed {self.seed}"
        return train.subset(kept), train.subset(held), note


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
