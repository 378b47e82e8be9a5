"""Write docs/reference.md, the Python reference, from the docstrings of the public names.

    python tools/reference.py            write the page
    python tools/reference.py --check    fail if the page is out of date

The public names are those of `resnetlab.__all__`. The architectures share a section.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

import resnetlab
from resnetlab.models.zoo import ARCHITECTURES

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
WIDTH = 100  # characters of a signature on one line
HEAD = """# Python reference

<!-- written by `python tools/reference.py` from the docstrings; do not edit -->

These are the public names of `resnetlab`. Every example runs as a test.
"""


def page() -> str:
    """Text of the page."""
    names = [name for name in sorted(resnetlab.__all__, key=str.lower) if name not in ARCHITECTURES]
    sections = [section(name, getattr(resnetlab, name)) for name in names]
    place = names.index("build_model")
    names.insert(place, "Architectures")
    sections.insert(place, architectures())
    return "\n".join([HEAD, *(f"- [{name}](#{name.lower()})" for name in names), "", *sections])


def section(name: str, value: Any) -> str:
    """A function, class or module with its docstring and its public members."""
    parts, members = [f"## {name}\n"], (member(f"{name}.{key}", found) for key, found in functions(value))
    if isinstance(value, ModuleType) and callable(value):  # a package that shares its name with a function
        parts += [signature(name, value), text(type(value).__call__)]
    elif isinstance(value, ModuleType):
        parts += [text(value), *members]
    elif isinstance(value, type) and issubclass(value, BaseModel):
        parts += [text(value), *settings(value), *members]
    elif isinstance(value, type):
        parts += [signature(name, value), text(value), *members]
    else:
        parts += [signature(name, value), text(value)]
    return "\n".join(parts)


def functions(owner: Any) -> Iterator[tuple[str, Any]]:
    """Public functions that a class or module defines itself and documents, in their order."""
    home = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for key, value in vars(owner).items():
        is_public = not key.startswith("_") or key == "__call__"
        if is_public and inspect.isfunction(value) and value.__module__ == home and value.__doc__:
            yield key, value


def member(name: str, value: Any) -> str:
    return f"### {name}\n\n{signature(name, value)}\n{text(value)}"


def architectures() -> str:
    """The functions that build a network of the zoo: the signature of one, and a table of all."""
    first, *_ = ARCHITECTURES
    lines = ["## Architectures\n", signature(first, getattr(resnetlab, first)), text(getattr(resnetlab, first))]
    lines += [
        "The other functions have the same parameters.\n",
        "| function | source | default of `num_classes` |",
        "|---|---|---:|",
    ]
    for name, architecture in ARCHITECTURES.items():
        default = inspect.signature(getattr(resnetlab, name)).parameters["num_classes"].default
        lines.append(f"| `{name}` | {architecture.source} | {default:,} |")
    return "\n".join(lines) + "\n"


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Tables of the settings of a config, section by section."""
    inner, rows = [], []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner.append((f"{prefix}{name}.", field.annotation))
        else:
            meaning = " ".join((field.description or "").split())
            rows.append(
                f"| `{prefix}{name}` | `{field.get_default(call_default_factory=True)!r}` | {escaped(meaning)} |"
            )
    yield "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"
    for deeper, annotation in inner:
        yield from settings(annotation, deeper)


def escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


class Source(str):
    """Text that `repr` shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature(name: str, value: Any) -> str:
    """The call of a function or class as Python code, one parameter a line where it is long."""
    found = inspect.signature(value)
    parameters = [plain(p) for p in found.parameters.values() if p.name != "self"]
    result = found.return_annotation
    returns = Source(result) if isinstance(result, str) else result
    found = found.replace(
        parameters=parameters, return_annotation=inspect.Signature.empty if inspect.isclass(value) else returns
    )
    line = f"{name}{found}"
    if len(line) > WIDTH:
        line = f"{name}{broken(found)}"
    return f"```python\n{line}\n```\n"


def plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose annotation is shown as written, and whose default has no address in memory."""
    annotation, default = parameter.annotation, parameter.default
    if isinstance(annotation, str):
        annotation = Source(annotation)
    if callable(default) and default is not inspect.Parameter.empty:
        default = Source(default.__qualname__)
    return parameter.replace(annotation=annotation, default=default)


def broken(found: inspect.Signature) -> str:
    """A signature with one parameter a line."""
    lines, keyword_only = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("*")
        lines.append(str(parameter))
    tail = "" if found.return_annotation is found.empty else f" -> {inspect.formatannotation(found.return_annotation)}"
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){tail}"


def text(value: Any) -> str:
    """A docstring as Markdown: its examples become blocks of code."""
    lines, example = [], False
    for line in (inspect.getdoc(value) or "").splitlines():
        if line.startswith(">>>") and not example:
            lines.append("```pycon")
            example = True
        elif example and not line.strip():
            lines.append("```")
            example = False
        lines.append(line)
    return "\n".join([*lines, "```"] if example else lines) + "\n"


def main() -> None:
    written = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != written:
            sys.exit("docs/reference.md is out of date; run: python tools/reference.py")
        return
    PAGE.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
