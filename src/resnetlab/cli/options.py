"""The arguments of a command as typed fields, and the options that follow from them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import Field

from resnetlab.runs.config import SHORT_FLAGS, RunConfig, Section, choices

Command = TypeVar("Command", bound="Arguments")


class Mark(str):
    """A text in the annotation of a field. It is equal to no text of another kind.

    `Annotated` returns an earlier annotation again if it is equal to the new one: with `Metavar("FILE")` equal to
    `Positional("FILE")`, an argument could become an option.
    """

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) and (type(other) is type(self) or not isinstance(other, Mark))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Metavar(Mark):
    """Name of an option's value in its help: `Annotated[Path, Metavar("FOLDER")]`."""


class Positional(Metavar):
    """Name of a value that is given without an option."""


class Short(Mark):
    """A short form of an option: `Annotated[bool, Short("-0")]`."""


class Arguments(Section):
    """The arguments of one command: a field is an option, a section a group of options, the docstring its help."""

    settings: ClassVar[type[RunConfig] | None] = None
    """settings of a run that the command accepts as options too; those that were given end up in `changes`"""
    unused: ClassVar[tuple[str, ...]] = ()
    """settings, and sections with a final dot, that have no effect on the command"""
    examples: ClassVar[tuple[str, ...]] = ()
    changes: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def path_to(cls, *names: str | int) -> str:
        option = next((option for option in options_of(cls) if option.path == names[0]), None)
        return str(names[0]) if option is None else option.name

    def defaults(self) -> RunConfig | None:
        """Return the settings of the run before the options change them; None if they depend on a run."""
        return None

    @classmethod
    def is_unused(cls, path: str) -> bool:
        """Return True for a setting of the run that has no effect on the command."""
        return any(path == name or (name.endswith(".") and path.startswith(name)) for name in cls.unused)

    @classmethod
    def about(cls, given: Mapping[str, Any]) -> list[str]:  # noqa: ARG003 - of the commands that take a recipe
        """Return paragraphs for the help about the given values."""
        return []

    @classmethod
    def lists(cls) -> dict[str, Mapping[str, str]]:
        """Return lists for the help, by heading: names with their meaning."""
        return {}


@dataclass(frozen=True)
class Option:
    """One option or positional argument, as the typed field declares it."""

    path: str
    help: str
    metavar: str
    values: int | str | None  # as argparse's nargs; 0 for a switch
    is_optional: bool
    is_positional: bool
    is_required: bool
    flags: tuple[str, ...]
    negative_flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name in error messages."""
        return self.metavar if self.is_positional else self.flags[0]

    @property
    def usage(self) -> str:
        """The values after the flag."""
        more = " ..." if self.values == "*" and not self.metavar.endswith("...") else ""
        return "" if self.values == 0 else f"{self.metavar}{more}"

    @property
    def names(self) -> str:
        """The flags in the help: `--augment.[no-]flip` for a switch that can be turned off."""
        if self.negative_flags and "." not in self.path and self.path not in RunConfig.model_fields:
            return ", ".join(self.flags)  # a switch of the command, which is off
        names = self.flags
        if self.negative_flags:
            names = tuple(re.sub(r"^(--(?:\w+\.)?)", r"\1[no-]", flag) for flag in self.flags)
        return ", ".join(names)


METAVARS = {
    "data.name": "NAME|FOLDER|FILE",
    "data.root": "FOLDER|ARCHIVE",
    "data.group_by": "PATTERN|COLUMN",
    "data.classes": "CLASS ...",
    "data.merge": "NEW=A,B ...",
    "model.name": "NAME",
    "model.pretrained": "torchvision|FILE|URL",
}
"""Names of the values of settings that are text."""
ALIASES = {"data.root": ("--data-file",)}  # reads better before an archive
HIDDEN = ("changes", "recipe")  # fields that are no options


def options_of(kind: type[Section], prefix: str = "") -> Iterator[Option]:
    """Yield the options that a section's fields declare, with those of the sections inside it."""
    for name, info in kind.model_fields.items():
        path, annotation = prefix + name, info.annotation
        metavar = next((extra for extra in info.metadata if isinstance(extra, Metavar)), None)
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from options_of(annotation, f"{path}.")
        elif path not in HIDDEN or metavar is not None:
            plain, is_optional = without_none(annotation)
            names = [path, *([SHORT_FLAGS[path]] if path in SHORT_FLAGS else [])][::-1]
            short = [extra for extra in info.metadata if isinstance(extra, Short)]
            yield Option(
                path,
                " ".join((info.description or "").split()),
                str(metavar or METAVARS.get(path) or metavar_of(plain)),
                number_of_values(plain),
                is_optional,
                isinstance(metavar, Positional),
                info.is_required(),
                (*(flag(name) for name in names), *short, *ALIASES.get(path, ())),
                tuple(flag(name, "no-") for name in names) if plain is bool else (),
            )


def flag(path: str, negation: str = "") -> str:
    """The option of a setting.

    >>> flag("augment.crop_padding"), flag("augment.flip", "no-")
    ('--augment.crop-padding', '--augment.no-flip')
    """
    section, dot, name = path.removesuffix("_").rpartition(".")  # json_, for pydantic's models have a method json
    return f"--{section}{dot}{negation}{name}".replace("_", "-")


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Return a type without `Annotated` and `| None`, and True if it had the latter."""
    if get_origin(annotation) is Annotated:
        return without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not type(None))
        return without_none(inner)[0], True
    return annotation, False


def metavar_of(kind: Any) -> str:
    if names := choices(kind):
        return "{" + ",".join(names) + "}"
    if get_origin(kind) is tuple:
        inner = without_none(get_args(kind)[0])[0]
        return metavar_of(inner) if get_args(kind)[1] is ... else " ".join(metavar_of(inner) for _ in get_args(kind))
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def number_of_values(kind: Any) -> int | str | None:
    if kind is bool:
        return 0
    if get_origin(kind) is tuple:
        return "*" if get_args(kind)[1] is ... else len(get_args(kind))
    return None
