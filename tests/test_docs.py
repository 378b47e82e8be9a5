"""What the pages say is so: every test they name exists, and the exit codes are those of the code."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

import resnetlab
from resnetlab import errors
from resnetlab.cli.main import USAGE
from resnetlab.errors import LabError

ROOT = Path(__file__).parents[1]
GUARANTEES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
CODES = dict(re.findall(r"^\| (\d) \| ([^|]+) \|$", GUARANTEES, re.MULTILINE))


def named_tests() -> list[tuple[str, str]]:
    """(file, test) of every test on the page; a file is said once for the tests that follow it."""
    found = []
    for line in PAGE.splitlines():
        file = ""
        for word in re.findall(r"`(tests/[\w/]+\.py|test_\w+)`", line):
            if word.endswith(".py"):
                file = word
            else:
                found.append((file, word))
    return found


@pytest.mark.parametrize(("file", "test"), named_tests(), ids=lambda value: value)
def test_every_test_that_a_promise_names_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|.*\|.*\|", line) and line.count("|") == 4]
    assert len(rows) > 20
    for row in rows:
        assert "`test_" in row, row


def test_both_pages_have_the_same_guarantees() -> None:
    described = re.findall(r"^- (?:[^\n]|\n  )*?\((\d+)\)$", GUARANTEES, re.MULTILINE)
    audited = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    assert sorted(described, key=int) == sorted(audited, key=int)
    assert len(set(described)) == len(described)


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LabError)]
    assert {str(kind.exit_code) for kind in kinds} | {"0"} == CODES.keys()
    assert list(CODES) == [str(number) for number in range(len(CODES))]


def test_exit_codes_are_those_of_the_usage() -> None:
    listed = re.search(r"exit codes: (.*)", USAGE, re.DOTALL)
    assert listed
    told = dict(part.split(" ", 1) for part in " ".join(listed[1].split()).split(" · "))
    assert told == CODES


@pytest.mark.parametrize("page", sorted(path.stem for path in (ROOT / "docs").glob("*.md")))
def test_the_readme_leads_to_the_page(page: str) -> None:
    assert f"(docs/{page}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_reference_is_that_of_the_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import reference

    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python tools/reference.py"


def test_the_reference_has_every_public_name_with_its_docstring() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in resnetlab.__all__:
        assert f"\n## {name}\n" in text or f"| `{name}` |" in text, name
        value = getattr(resnetlab, name)
        assert value.__doc__, name


def test_what_each_ingredient_gives_is_what_the_stored_runs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import ablation

    assert not doctest.testmod(ablation).failed
    assert ablation.PAGE.read_text(encoding="utf-8") == ablation.page()


def test_the_citation_has_the_version_and_its_date() -> None:
    cited = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    assert (cited["version"], cited["date-released"]) == (newest[1], newest[2])
    assert cited["version"] == resnetlab.__version__
    assert {"doi", "url", "repository-code"}.isdisjoint(cited)  # none exists yet
