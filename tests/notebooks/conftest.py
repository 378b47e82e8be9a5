"""Notebooks are tested from their sources: cells with a tag are taken out of notebooks/NAME.py and executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest

HOME = Path(__file__).parents[2] / "notebooks"


def tagged(name: str, tag: str) -> str:
    """The code of the cells of notebooks/NAME.py that have this tag, in their order."""
    found = [
        cell.source
        for cell in jupytext.read(HOME / f"{name}.py").cells
        if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])
    ]
    assert found, f"notebooks/{name}.py has no code cell tagged {tag!r}"
    return "\n\n".join(found)


@pytest.fixture(scope="session", autouse=True)
def helpers_can_be_imported() -> Iterator[None]:
    """Find notebooks/helpers.py, as a notebook does in its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOME))
        yield


@pytest.fixture(scope="session")
def cells() -> Callable[[str, str], str]:
    """`cells(name, tag)`: the source of the tagged cells of notebooks/NAME.py."""
    return tagged


@pytest.fixture(scope="session")
def executed() -> Callable[..., dict[str, Any]]:
    """`executed(name, *tags, **given)`: the names that the tagged cells define, executed among the names given."""

    def execute(name: str, *tags: str, **given: Any) -> dict[str, Any]:
        names = {"__name__": name, **given}
        for tag in tags:
            exec(compile(tagged(name, tag), f"notebooks/{name}.py [{tag}]", "exec"), names)
        return names

    return execute
