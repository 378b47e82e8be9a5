"""The help of a command, from its typed arguments."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from resnetlab.cli.options import Arguments, options_of
from resnetlab.errors import BadInput, printable
from resnetlab.runs.config import MAIN, RunConfig, Section, value_text

TRAINING = "training:"


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
        if option.is_required:
            default = "; required"
        else:
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
