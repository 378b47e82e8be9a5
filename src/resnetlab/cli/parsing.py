"""Parse command lines to typed arguments."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from resnetlab.cli.help import help_text
from resnetlab.cli.options import Command, Option, options_of
from resnetlab.errors import BadInput
from resnetlab.runs.config import Section


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
