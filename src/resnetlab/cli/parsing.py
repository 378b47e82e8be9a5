"""Parse command lines and config files to typed arguments; options and help are derived from the typed fields."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import json
import re
import shutil
import textwrap
import tomllib
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import Field

from resnetlab.errors import BadInput, printable
from resnetlab.runs.config import MAIN, SHORT_FLAGS, RunConfig, Section, choices, value_text

Command = TypeVar("Command", bound="Arguments")


class Metavar(str):
    """Name of an option's value in its help: `Annotated[Path, Metavar("FOLDER")]`."""


class Positional(Metavar):
    """Name of a value that is given without an option."""


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
    "data.root": "FOLDER",
    "data.group_by": "PATTERN|COLUMN",
    "data.classes": "CLASS ...",
    "data.merge": "NEW=A,B ...",
    "model.name": "NAME",
    "model.pretrained": "torchvision|FILE|URL",
}
"""Names of the values of settings that are text."""

TRAINING = "training:"
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
            yield Option(
                path,
                " ".join((info.description or "").split()),
                str(metavar or METAVARS.get(path) or metavar_of(plain)),
                number_of_values(plain),
                is_optional,
                isinstance(metavar, Positional),
                info.is_required(),
                tuple(flag(name) for name in names),
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


class Switch(argparse.Action):
    """Store True, or False for one of the negative flags, as argparse's own BooleanOptionalAction does."""

    def __init__(self, option_strings: Sequence[str], dest: str, negative_flags: Sequence[str], **options: Any) -> None:
        super().__init__([*option_strings, *negative_flags], dest, nargs=0, **options)
        self.negative_flags = negative_flags

    def __call__(self, _: Any, namespace: argparse.Namespace, __: Any, flag: str | None = None) -> None:
        setattr(namespace, self.dest, flag not in self.negative_flags)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises BadInput. All values stay text; the typed fields convert and check them."""

    def __init__(self, options: Sequence[Option]) -> None:
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, exit_on_error=False)
        self.add_argument("-h", "--help", action="store_true")
        self.options = [option for option in options if not option.is_positional]
        self.positionals = [option for option in options if option.is_positional]
        self.flags = ["--help"]
        for option in self.options:
            self.flags += [*option.flags, *option.negative_flags]
            if option.values == 0:
                self.add_argument(*option.flags, dest=option.path, action=Switch, negative_flags=option.negative_flags)
            else:
                # A repeated list of names is one list; of numbers, as of single values, the last one counts.
                action = "extend" if option.values == "*" and option.metavar not in ("N", "X") else "store"
                self.add_argument(*option.flags, dest=option.path, nargs=option.values, action=action)

    def require_one_name(self, words: Sequence[str]) -> None:
        """Raise BadInput if an option is given by two of its names, such as --lr and --optim.lr, or on and off."""
        names = list(dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--")))
        for option in self.options:
            same = [name for name in names if name in (*option.flags, *option.negative_flags)]
            if len(same) > 1:
                raise BadInput(f"{' and '.join(same)} are the same setting; give one of them")

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the given values by path. Positional arguments may come between options; after `--` all are."""
        end = words.index("--") if "--" in words else len(words)
        dashed = [word if not word.startswith("--") else with_dashes(word) for word in words[:end]]
        try:
            given, rest = self.parse_known_args(dashed)
        except argparse.ArgumentError as error:
            raise BadInput(f"{error.argument_name}: {error.message}; --help shows how to use it") from None
        self.require_one_name(dashed)
        values = vars(given)
        wrong = [word for word in rest if word.startswith("-") and word != "-"]
        rest = [word for word in rest if word not in wrong] + list(words[end + 1 :])
        for option in self.positionals:
            if rest:
                values[option.path] = rest[:] if option.values == "*" else rest[0]
                del rest[: len(rest) if option.values == "*" else 1]
        if (wrong or rest) and "help" not in values:
            word = [*wrong, *rest][0].split("=", 1)[0]
            near = difflib.get_close_matches(word, self.flags, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists all options"
            raise BadInput(f"unknown {'option' if wrong else 'argument'} {word!r}; {hint}")
        return values


def with_dashes(word: str) -> str:
    """Replace underscores in an option's name: `--batch_size=3` becomes `--batch-size=3`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def parse(kind: type[Command], words: Sequence[str], program: str) -> Command:
    """Return `words` as an instance of `kind`. Raises BadInput; `--help` prints the help and raises SystemExit."""
    own = list(options_of(kind))
    shared = [] if kind.settings is None else list(options_of(kind.settings))
    values = Parser([*own, *shared]).read(words)
    given: dict[str, Any] = {}
    for option in own:
        store(option, values, given, kind.model_construct())
    for option in shared:
        store(option, values, given.setdefault("changes", {}))
    if "help" in values:
        print(help_text(kind, program, given))
        raise SystemExit(0)
    for option in own:
        if option.is_required and option.path not in values:
            raise BadInput(f"{option.name} is missing: {option.help}; for example: {kind.examples[0]}")
    return kind(**given)


def store(option: Option, values: Mapping[str, Any], table: dict[str, Any], defaults: Section | None = None) -> None:
    """Put the value of an option, if it was given, into a nested table; a new table begins with the defaults."""
    if option.path not in values:
        return
    *sections, name = option.path.split(".")
    for section in sections:
        if section not in table:
            table[section] = {} if defaults is None else getattr(defaults, section).model_dump()
        table = table[section]
    value = values[option.path]
    if value == "":
        raise BadInput(f"{option.name} is empty; give {option.metavar}, or omit it")
    table[name] = None if option.is_optional and value == "None" else value


def help_text(kind: type[Arguments], program: str, given: Mapping[str, Any]) -> str:
    """The help of a command: usage, purpose, examples, lists of names, and the options by section."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    positionals = [option for option in options_of(kind) if option.is_positional]
    usage = " ".join(["usage:", program, *(option.metavar for option in positionals), "[OPTION ...]"])
    purpose = [fill(paragraph, width) for paragraph in (inspect.getdoc(kind) or "").split("\n\n")]
    examples = ["\n".join(["examples:", *(f"  {example}" for example in kind.examples)])] if kind.examples else []
    lists = dict(kind.lists())
    if positionals:
        lists = {"arguments:": {option.metavar.strip("[]"): option.help for option in positionals}} | lists
    lists |= option_lists("options:", kind, kind.model_construct())
    about: list[str] = []
    if kind.settings is not None:
        start, about = defaults_for(kind, given)
        defaults = f"defaults of the recipe {start.recipe}" if start else "default: unchanged"
        lists |= option_lists(f"main settings ({defaults}):", kind.settings, start, kind.is_unused)
    shown = [f"{fill(heading, width)}\n{listing(rows, width)}" for heading, rows in lists.items()]
    return "\n\n".join([usage, *purpose, *(fill(paragraph, width) for paragraph in about), *examples, *shown])


def defaults_for(kind: type[Arguments], given: Mapping[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """The settings of a run before the options change them, and paragraphs about them; help is shown for any words."""
    try:
        return kind(**given).defaults(), kind.about(given)
    except BadInput as error:
        note = f"note: {printable(error)}" if "recipe" in given or "config" in given else ""
        with contextlib.suppress(BadInput):  # another option is wrong
            kept = {name: value for name, value in given.items() if name in ("recipe", "config", "changes")}
            return kind(**kept).defaults(), kind.about(kept)
        return kind.model_construct().defaults(), [note] * bool(note)


def option_lists(
    heading: str,
    kind: type[Section],
    defaults: Section | None,
    is_unused: Callable[[str], bool] = lambda _: False,
) -> dict[str, dict[str, str]]:
    """The options of a section and of those inside it, each list by its heading; a run's main settings come first."""
    is_run = issubclass(kind, RunConfig)
    lists: dict[str, dict[str, str]] = {heading: {"-h, --help": "show this help"} if heading == "options:" else {}}
    lists |= {TRAINING: {}} if is_run else {}
    options = [option for option in options_of(kind) if not option.is_positional and not is_unused(option.path)]
    for option in sorted(options, key=lambda option: MAIN.index(option.path) if option.path in MAIN else len(MAIN)):
        section, _, name = option.path.rpartition(".")
        title, holder = heading, defaults
        if section:
            holder = defaults and getattr(defaults, section)
        if section and not (is_run and option.path in MAIN):
            purpose = (inspect.getdoc(kind.model_fields[section].annotation) or "").rstrip(".")
            title = f"{section}: {purpose[:1].lower()}{purpose[1:]}"
        elif is_run and option.path not in MAIN:
            title = TRAINING
        default = "" if holder is None or "default:" in option.help else f"; default: {shown_default(holder, name)}"
        lists.setdefault(title, {})[f"{option.names} {option.usage}".rstrip()] = option.help + default
    return lists


def shown_default(holder: Section, name: str) -> str:
    value = getattr(holder, name)
    return "not set" if value is None or value == () else value_text(value)


def listing(rows: Mapping[str, str], width: int) -> str:
    """Names and meanings in two columns; a long name has a line of its own."""
    column = 26 if width >= 70 else 8
    lines = []
    for name, meaning in rows.items():
        filled = textwrap.fill(
            meaning, width, initial_indent=" " * column, subsequent_indent=" " * column, break_on_hyphens=False
        )
        lines.append(f"  {name:{column - 4}}  {filled.lstrip()}" if len(name) <= column - 4 else f"  {name}\n{filled}")
    return "\n".join(lines)


def fill(paragraph: str, width: int) -> str:
    return textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a `.json` or `.toml` file, not yet validated; a byte-order mark is ignored."""
    if path.suffix not in (".json", ".toml"):
        raise BadInput(f"config file {printable(path)} must end in .json or .toml")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"config file {printable(path)} has {path.stat().st_size:,} bytes; no settings are so large")
        text = path.read_text(encoding="utf-8-sig")
        if DEEP.search(text):
            raise BadInput(f"config file {printable(path)} has a name of more than 20 dotted parts; settings have two")
        is_json = path.suffix == ".json"
        settings = json.loads(text, object_pairs_hook=without_repetition) if is_json else tomllib.loads(text)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"could not read config file {printable(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"config file {printable(path)} is not UTF-8 text; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"config file {printable(path)} is not valid: {printable(error)[:200]}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"config file {printable(path)} holds no table of settings")
    return settings


LARGEST_FILE = 2**20  # bytes
DEEP = re.compile(r"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){20}""")
"""A name of more than 20 dotted parts: TOML's parser takes seconds for thousands of them."""


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table of a JSON file. Raises ValueError for a repeated setting, of which JSON would take the last."""
    table = dict(pairs)
    if len(table) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} is given twice")
    return table


def json_text(value: Any) -> str:
    """Return a value as JSON on several lines, in which control characters are escaped.

    >>> print(json_text({"name": "für später" + chr(0x9B)}))
    {
      "name": "für später\\u009b"
    }
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
