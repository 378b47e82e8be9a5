"""Choose the classes of a data set: a subset of them, several merged into one, and their order."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resnetlab.errors import BadInput, printable

Order = Literal["plain", "natural"]


@dataclass(frozen=True)
class ClassChoice:
    """The classes to use. `only` are names, or names with commas between them; `merge` are such as "pet=cat,dog".

    Without `only` all classes are used. The order of the classes, which is that of the network's outputs, is "plain"
    (by character code, as torchvision's ImageFolder has it) or "natural" ("class2" before "class10").

    >>> ClassChoice(merge=("pet=cat,dog",)).names_of(["bird", "cat", "dog"])
    {'bird': 'bird', 'cat': 'pet', 'dog': 'pet'}
    """

    only: tuple[str, ...] = ()
    merge: tuple[str, ...] = ()
    order: Order = "plain"

    def names_of(self, found: Sequence[str]) -> dict[str, str]:
        """Map each chosen class of the data, in the order of `found`, to its name after merging.

        Raises BadInput for a name that is not among the classes, and for a class that is merged twice.
        """
        parts = self._merges(found)
        new = {old: name for name, olds in parts.items() for old in olds}
        known = [*found, *parts]
        wanted = self._split(self.only, known)
        _require_known("data.classes", wanted, known)
        chosen = {old for name in wanted for old in (*parts.get(name, ()), *([name] if name in found else []))}
        if self.only and (lost := sorted(set(new) - chosen)):
            raise BadInput(f"data.merge names {quoted(lost)}, which data.classes leaves out")
        return {name: new.get(name, name) for name in found if not self.only or name in chosen}

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names without repetition, in the chosen order."""
        return tuple(sorted(set(names), key=natural_key if self.order == "natural" else None))

    def names_any_of(self, names: Iterable[str]) -> bool:
        """Return True if `only` names one of these."""
        names = list(names)
        return bool(set(self._split(self.only, names)) & set(names))

    def notes(self, found: Sequence[str]) -> tuple[str, ...]:
        """Return sentences about the choice, for the log."""
        names = self.names_of(found)
        merged: dict[str, list[str]] = {}
        for old, name in names.items():
            merged.setdefault(name, []).append(old)
        lines = [f"{len(names)} of the {len(found)} classes are used"] if len(names) < len(found) else []
        lines += [f"class {printable(n)} is {', '.join(map(printable, o))}" for n, o in merged.items() if o != [n]]
        return tuple(lines)

    def _merges(self, found: Sequence[str]) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = {}
        owner: dict[str, str] = {}
        for rule in self.merge:
            name, equals, given = rule.partition("=")
            olds = self._split([given], found)
            if not equals or not name.strip() or not olds:
                raise BadInput(f"data.merge is {printable(rule)!r}, but must be NEW=CLASS,CLASS, such as pet=cat,dog")
            _require_known("data.merge", olds, found)
            for old in olds:
                if owner.setdefault(old, name.strip()) != name.strip():
                    raise BadInput(
                        f"data.merge puts class {printable(old)!r} into {owner[old]} and into {name.strip()}"
                    )
            parts.setdefault(name.strip(), []).extend(olds)
        return parts

    @staticmethod
    def _split(words: Iterable[str], known: Sequence[str]) -> list[str]:
        """Split words at commas, except for those that are the name of a class."""
        return [
            name for word in words for name in ([word] if word in known else map(str.strip, word.split(","))) if name
        ]


def _require_known(setting: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise BadInput, with the nearest names, for names that are not those of classes."""
    if lost := [name for name in dict.fromkeys(names) if name not in known]:
        near = [match for name in lost for match in difflib.get_close_matches(name, known, n=1)]
        hint = f" (did you mean {quoted(near)}?)" if near else ""
        raise BadInput(f"{setting} names {quoted(lost)}{hint}, but the classes of the data are {shortened(known)}")


def natural_key(name: str) -> tuple[object, ...]:
    """Return a key that sorts numbers in names by value.

    >>> sorted(["class10", "class2", "a"], key=natural_key)
    ['a', 'class2', 'class10']
    """
    parts = re.split(r"([0-9]+)", name)
    return (*((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True)), name)


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Return the names with commas; beyond `most` the first ones and the number of the others.

    >>> shortened(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    shown = ", ".join(map(printable, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in case, spaces, dashes or Unicode normalisation.

    >>> alike(["Cat", "cat ", "dog"])
    [['Cat', 'cat ']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        groups.setdefault(re.sub(r"[\s_-]+", "", plain), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def notes_on_alike(names: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence for names that look like one class written in different ways, or nothing."""
    found = [" and ".join(repr(printable(name)) for name in group) for group in alike(names)]
    if not found:
        return ()
    return (
        f"classes whose names differ only in case, spaces or Unicode form: {shortened(found, 5)}; if they are the "
        "same, merge them: `merge=['NAME=A,B']`",
    )


def require_two(classes: Sequence[str], where: str = "the data") -> None:
    """Raise BadInput for fewer than two classes."""
    if len(classes) < 2:
        one = f"one class only, {quoted(classes)}" if classes else "no class"
        raise BadInput(f"{where} has {one}; classification needs at least two")


def quoted(names: Iterable[str]) -> str:
    """Return the names in quotation marks, shortened.

    >>> quoted(["a", "b c"])
    "'a', 'b c'"
    """
    return shortened([repr(printable(name)) for name in names])
