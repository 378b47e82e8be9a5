"""Groups and folds: images of one patient, plant or video stay in one split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from resnetlab.data.classes import counted, quoted, shortened
from resnetlab.errors import BadInput, printable
from resnetlab.host import warnings_ignored

MOST_PARTS = 20
"""Groups are divided into at most this many parts, of which some are held out: shares are multiples of 1/20 or so."""


def named_groups(names: Sequence[str], pattern: str, columns: Sequence[str] = ()) -> dict[str, str]:
    """Return the group of each name: what the first group of a regular expression matches, or the whole expression.

    Raises BadInput if the expression is not valid, or does not match a name. `columns` of a manifest are for its
    message.

    >>> named_groups(["cat/tom_1.jpg", "cat/tom_2.jpg"], "/([a-z]+)_")
    {'cat/tom_1.jpg': 'tom', 'cat/tom_2.jpg': 'tom'}
    """
    shown = repr(printable(pattern))
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"data.group_by is {shown}, which is not a regular expression: {error}") from error
    matches = {name: expression.search(name) for name in names}
    groups = {name: match[1 if expression.groups else 0] or "" for name, match in matches.items() if match}
    lost = [name for name in names if not groups.get(name)]
    if lost:
        hint = f", and is none of the columns {quoted(columns)}" if columns else ""
        raise BadInput(
            f"data.group_by is {shown}, which matches no text in {len(lost):,} of {len(names):,} image names, such as "
            f"{printable(lost[0])!r}{hint}"
        )
    return groups


def shared_groups(splits: Mapping[str, Iterable[str] | None]) -> dict[str, list[str]]:
    """Return the groups that are in more than one split, each with its splits. Splits that are given can share groups.

    >>> shared_groups({"train": ["a", "a", "b"], "val": ["b", "c"], "test": ["c", "d"]})
    {'b': ['train', 'val'], 'c': ['val', 'test']}
    """
    places: dict[str, list[str]] = {}
    for split, groups in splits.items():
        for group in dict.fromkeys(groups or ()):
            places.setdefault(group, []).append(split)
    return {group: found for group, found in places.items() if len(found) > 1}


def notes_on_groups(splits: Mapping[str, Sequence[str] | None]) -> tuple[str, ...]:
    """Return a sentence about the groups that are in more than one split; none if there are none.

    >>> notes_on_groups({"train": ["a", "b"], "val": ["c"], "test": ["b"]})
    ("1 of 3 groups is in more than one split ('b' in train and test), so scores are too good; keep each \
group in one split",)
    """
    shared = shared_groups(splits)
    if not shared:
        return ()
    total = len({group for groups in splits.values() for group in groups or ()})
    are = "is" if len(shared) == 1 else "are"
    places = [f"{printable(group)!r} in {' and '.join(found)}" for group, found in shared.items()]
    return (
        f"{len(shared):,} of {total:,} groups {are} in more than one split "
        f"({shortened(places, 5)}), so scores are too good; keep each group in one split",
    )


def hold_out(labels: np.ndarray, groups: Sequence[str], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups with about a `fraction` of the images: indices (kept, held out), ascending.

    The groups are divided by scikit-learn's StratifiedGroupKFold, and of the parts those are held out whose counts of
    each class are nearest to the fraction, while every class keeps an image. Raises BadInput if that is impossible.

    >>> kept, held = hold_out(np.array([0, 0, 1, 1] * 5), [f"g{i // 2}" for i in range(20)], 0.2, seed=0)
    >>> len(kept), len(held)
    (16, 4)
    """
    count = len(set(groups))
    if count < 2:
        raise BadInput(f"a split cannot be drawn by group: the images are of {count} group; at least 2 are needed")
    most = min(MOST_PARTS, count, int(np.bincount(labels).max()))  # scikit-learn needs an image of a class in each part
    if most < 2:
        raise BadInput("a split cannot be drawn by group: every class has 1 image; at least 2 are needed")
    shares = [(taken, parts) for parts in range(2, most + 1) for taken in range(1, parts)]
    near = min(abs(taken / parts - fraction) for taken, parts in shares)
    taken, parts = next(share for share in shares if abs(share[0] / share[1] - fraction) <= max(near, 0.005))
    folds = _divided(labels, groups, parts, seed)
    wanted = np.bincount(labels) * fraction
    best: tuple[float, np.ndarray] | None = None
    for first in range(parts):
        held = np.isin(folds, [(first + k) % parts for k in range(taken)])
        counts = np.bincount(labels[held], minlength=len(wanted))
        off = float(np.abs(counts - wanted).sum())
        if held.any() and set(labels[~held]) == set(labels) and (best is None or off < best[0]):
            best = off, held
    if best is None:
        raise BadInput(
            f"a split cannot be drawn from {count} groups: some class would keep no image to train on; give more groups"
        )
    return np.flatnonzero(~best[1]), np.flatnonzero(best[1])


def fold(
    labels: np.ndarray, groups: Sequence[str] | None, folds: int, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out fold `number` (1 to `folds`): indices (kept, held out), ascending.

    Every image is in exactly one fold. The folds are those of scikit-learn's StratifiedKFold or, with groups,
    StratifiedGroupKFold. Raises BadInput if there are too few images or groups.
    """
    count, what = (len(labels), "image") if groups is None else (len(set(groups)), "group")
    if count < folds:
        smaller = "" if groups is None else ", or smaller groups"
        raise BadInput(f"{counted(count, what)} cannot be divided into {folds} folds; choose fewer folds{smaller}")
    held = _divided(labels, groups, folds, seed) == number - 1
    if lost := sorted(set(labels.tolist()) - set(labels[~held].tolist())):
        raise BadInput(
            f"fold {number} of {folds} has all images of class number {lost[0]}; choose other groups or folds"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def _divided(labels: np.ndarray, groups: Sequence[str] | None, parts: int, seed: int) -> np.ndarray:
    """Return the part of each image, 0 to `parts` - 1, int64 (N,)."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes 0.8 s to import

    if not 0 <= seed < 2**32:
        raise BadInput(f"split seed {seed} is out of range; it must be in 0..{2**32 - 1}")
    if max(np.bincount(labels)) < parts:
        raise BadInput(f"no class has {parts} images, one for each of {parts} folds; choose fewer folds")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    found = np.zeros(len(labels), dtype=np.int64)
    with warnings_ignored("The least populated class", UserWarning):  # the splits that lack it are named
        splits = kind(parts, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
        for part, (_, inside) in enumerate(splits):
            found[inside] = part
    return found
