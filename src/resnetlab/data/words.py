"""The names that people give to splits: train, Training, test_set, seg_val, …"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORDS = {
    **dict.fromkeys(("train", "training", "trainval", "tr", "trn", "learn", "learning"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development", "va"), "val"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "eval"),  # val; beside another val folder, test
    **dict.fromkeys(("test", "testing", "tests", "tst", "te", "ts"), "test"),
}

_FILLERS = {"data", "dataset", "dir", "files", "folder", "part", "samples", "set", "split", "subset"}
_FILLERS |= {"image", "images", "img", "imgs", "photo", "photos", "pic", "pics", "picture", "pictures"}


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a folder's name: "TrainSet_2" has train, set and 2."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])", " ", name)
    return tuple(re.sub(r"[\W_]+", " ", split).casefold().split())


def is_filler(name: str) -> bool:
    """Return True for a name such as "images" or "data-set", which is not that of a class."""
    return bool(words_of(name)) and all(_FILLERS & {word, word.removesuffix("s")} for word in words_of(name))


def part_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split that a folder's name means, and its other words; None for any other name.

    >>> part_of("Training Set"), part_of("seg_train"), part_of("testimages"), part_of("cat")
    (('train', ()), ('train', ('seg',)), ('test', ()), None)
    """
    words = [word for word in words_of(name) if word not in _FILLERS]
    whole = "".join(words)
    for filler in ("", *sorted(_FILLERS)):
        if whole.endswith(filler) and (word := whole[: len(whole) - len(filler)]) in _WORDS:
            return _WORDS[word], ()
    for place, word in enumerate(words):
        if word in _WORDS:
            rest = tuple(words[:place] + words[place + 1 :])
            is_number = place == 1 and rest[0].isdecimal()  # "01_train"
            return _WORDS[word], rest[1:] if is_number else rest
    return None


def split_of(name: str) -> str | None:
    """Return the split that a name means, which has no other words; None for any other name.

    >>> split_of("Training"), split_of("eval"), split_of("seg_train")
    ('train', 'val', None)
    """
    found = part_of(name)
    return None if found is None or found[1] else found[0].replace("eval", "val")


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the split that it means, or to itself for any other name.

    As for folders, "eval" means val or, beside a val split, test. Beside both it has no meaning.

    >>> splits_of(["Training", "eval", "pred"]), splits_of(["train", "valid", "eval"])["eval"]
    ({'Training': 'train', 'eval': 'val', 'pred': 'pred'}, 'test')
    """
    found = {name: part_of(name) for name in dict.fromkeys(names)}
    parts = {name: part[0] if part is not None and not part[1] else name for name, part in found.items()}
    free = next((split for split in ("val", "test") if split not in parts.values()), "eval")
    return {name: free if part == "eval" else part for name, part in parts.items()}
