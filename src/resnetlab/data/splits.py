"""Splits into images for training, validation and test, which are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from resnetlab.data.classes import quoted
from resnetlab.data.digests import names_digest
from resnetlab.data.groups import fold, hold_out
from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from torch import Tensor

    from resnetlab.data.pixels import Pixels


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==; compare digests
class Split:
    """One split of a data set: images uint8 (N, H, W, C), labels int64 (N,), and a name for each image.

    The images are a tensor or, if they are not held in memory, an object that is indexed like one by rows (see
    `resnetlab.data.pixels`).

    `contents` are content digests (see `resnetlab.data.digests`), one for each image: of the bytes of its file or, for
    a named data set, of its published pixels. Equal digests mean equal files. It is empty where nothing was published
    or read, as for arrays.

    `groups` are the names of what several images show, such as a patient, one for each image; empty without groups.

    >>> import torch
    >>> split = Split(torch.zeros(2, 8, 8, 1, dtype=torch.uint8), torch.tensor([0, 1]), ("a.png", "b.png"))
    >>> split.subset([1]).names
    ('b.png',)
    """

    images: Pixels
    labels: Tensor
    names: tuple[str, ...]
    contents: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if the lengths differ: labels must never shift."""
        if not len(self.images) == len(self.labels) == len(self.names):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels and {len(self.names)} names")
        if self.contents and len(self.contents) != len(self.names):
            raise ValueError(f"{len(self.names)} names and {len(self.contents)} content digests")
        if self.groups and len(self.groups) != len(self.names):
            raise ValueError(f"{len(self.names)} names and {len(self.groups)} groups")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted lines "name, tab, label": the same for the same images in any order."""
        return names_digest(self.names, self.labels.tolist())

    @cached_property
    def contents_digest(self) -> str | None:
        """SHA-256 over the sorted lines "name, tab, label, tab, content digest"; None if the contents are unknown."""
        return names_digest(self.names, self.labels.tolist(), self.contents) if self.contents else None

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Split:
        """Return the images at `indices`, in that order; those in memory are copied."""
        import torch

        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        places = chosen.tolist()
        images = self.images[chosen] if isinstance(self.images, torch.Tensor) else self.images.subset(chosen)
        names = tuple(self.names[i] for i in places)
        contents = tuple(self.contents[i] for i in places) if self.contents else ()
        groups = tuple(self.groups[i] for i in places) if self.groups else ()
        return Split(images, self.labels[chosen], names, contents, groups)


def stratified(
    labels: Sequence[int] | np.ndarray | Tensor,
    fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    purpose: str = "the held-out part",
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a `fraction` of the images, class by class: indices (kept, held out), both int64 and ascending.

    The split depends on the labels, the fraction and the seed only; it is scikit-learn's `train_test_split`. At least
    one image per class is kept, and at least as many images are held out as there are classes.

    Raises BadInput, naming the class, if that is impossible. `classes` (names by label) and `purpose` are for its
    message.

    >>> kept, held_out = stratified([0, 0, 0, 1, 1, 1], fraction=0.34, seed=0)
    >>> len(kept), len(held_out)
    (4, 2)
    """
    from sklearn.model_selection import train_test_split  # takes 0.8 s to import

    if not 0.0 < fraction < 1.0:
        raise BadInput(f"{purpose} cannot be {fraction:g} of the images; the fraction must be between 0 and 1")
    if not 0 <= seed < 2**32:
        raise BadInput(f"split seed {seed} is out of range; it must be in 0..{2**32 - 1}")
    array = np.asarray(labels, dtype=np.int64)
    present, counts = np.unique(array, return_counts=True)
    if not len(present):
        raise BadInput(f"{purpose} cannot be drawn: there are no images")

    def name(label: int) -> str:
        return repr(printable(classes[label])) if classes is not None else str(label)

    if counts.min() < 2:
        raise BadInput(
            f"class {name(present[counts.argmin()])} has 1 image left to draw {purpose} from; at least 2 are needed, "
            "one to train on and one to hold out: add images, or provide the split as a folder of its own"
        )
    total, smallest = len(array), len(present)
    held = min(max(round(fraction * total), smallest), total - smallest)
    kept, held_out = train_test_split(
        np.arange(total), test_size=held, train_size=total - held, random_state=seed, stratify=array
    )
    if lost := sorted(set(present.tolist()) - set(array[kept].tolist())):
        raise BadInput(
            f"class {name(lost[0])} would keep no image to train on: {purpose} takes all "
            f"{counts[present == lost[0]][0]} at {fraction:g} of the images; hold out a smaller fraction, or add images"
        )
    return np.sort(kept), np.sort(held_out)


class Labelled(Protocol):
    """Images with labels, in memory or not read yet."""

    @property
    def labels(self) -> np.ndarray: ...
    @property
    def groups(self) -> Sequence[str] | None: ...
    def subset(self: P, indices: np.ndarray) -> P: ...


P = TypeVar("P", bound=Labelled)


@dataclass(frozen=True)
class HoldOut:
    """The sizes and the seed of missing splits: test is drawn first, then val from the rest.

    `test_fraction` is a share of the training images, `val_fraction` a share of those that are left. With `folds`, the
    test split is fold number `fold` (from 1) of the training images. Images of one group stay in one split.

    With `val_is_test`, the val split of data without a test split is its test split, as ImageNet's.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    folds: int | None = None
    fold: int | None = None
    val_is_test: bool = False

    def __post_init__(self) -> None:
        """Raise BadInput for folds without a number, or for one out of range."""
        if self.folds is None and self.fold is not None:
            raise BadInput(f"data.fold is {self.fold}, but the number of folds is missing; give data.folds too")
        if self.folds is not None and self.fold is None:
            raise BadInput(
                f"data.folds is {self.folds}, but the number of the fold is missing; give data.fold, or train "
                f"all folds with `resnetlab train --folds {self.folds}`"
            )
        if self.folds is not None and self.fold is not None and not 1 <= self.fold <= self.folds:
            raise BadInput(f"data.fold is {self.fold}, but must be in 1..{self.folds}, the number of folds")

    def draw(
        self, classes: Sequence[str], train: P, val: P | None, test: P | None
    ) -> tuple[tuple[P, P, P], tuple[str, ...]]:
        """Draw the splits that are None from `train`; return (train, val, test), and a sentence for each drawn split.

        Raises BadInput if a class has too few images.
        """
        notes = []
        if self.val_is_test and val is not None and test is None:
            notes.append(f"test: the {len(val.labels):,} images of the data's val split (`data.val_is_test`)")
            val, test = None, val
        elif self.val_is_test and test is None:
            notes.append("`data.val_is_test` has no effect, because the data has no val split: a test split is drawn")
        if self.folds is not None and test is not None:
            raise BadInput(
                f"folds are test splits, but the data has {len(test.labels):,} test images of its own; give the other "
                "images alone, such as FOLDER/train"
            )
        missing = [name for name, split in (("test", test), ("val", val)) if split is None]
        counts = np.bincount(train.labels, minlength=len(classes))
        smallest = int(counts.min())
        if smallest <= len(missing):
            raise BadInput(
                f"class {printable(classes[int(counts.argmin())])!r} has {smallest} image{'s' * (smallest != 1)}; at "
                f"least {1 + len(missing)} are needed, one each for train and the splits to draw ({', '.join(missing)})"
            )
        if test is None:
            train, test, note = self._draw_one("test", self.test_fraction, classes, train)
            notes.append(note)
            if val is not None:
                notes.append(
                    f"the data has no test split: its val split, {len(val.labels):,} images, chooses the best epoch, "
                    "and the test split is drawn from its training images; to test on its val split instead, set "
                    "`data.val_is_test`"
                )
        if val is None:
            train, val, note = self._draw_one("val", self.val_fraction, classes, train)
            notes.append(note)
        return (train, val, test), tuple(notes)

    def _draw_one(self, name: str, fraction: float, classes: Sequence[str], train: P) -> tuple[P, P, str]:
        labels, groups, how = train.labels, train.groups, ""
        if name == "test" and self.folds is not None and self.fold is not None:
            kept, held_out = fold(labels, groups, self.folds, self.fold, self.seed)
            how = f"fold {self.fold} of {self.folds}, "
        elif groups is not None:
            kept, held_out = hold_out(labels, groups, fraction, self.seed)
        else:
            kept, held_out = stratified(labels, fraction, self.seed, classes=classes, purpose=f"the {name} split")
        if groups is not None:
            held = len({groups[i] for i in held_out.tolist()})
            how += f"{len(held_out) / len(labels):.1%} in {held:,} of {len(set(groups)):,} whole groups, "
        lost = sorted(set(labels.tolist()) - set(labels[held_out].tolist()))
        lacks = f"; no image of {quoted(classes[label] for label in lost)}" if lost else ""
        how += f"stratified by class, seed {self.seed}{lacks}"
        note = f"{name}: {len(held_out):,} of {len(labels):,} training images, {how}"
        return train.subset(kept), train.subset(held_out), note
