"""Pages load nothing, and no name in them is ever more than text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from resnetlab.report.render import Picture, environment, lines, png_picture, render, rounded, with_code

HOSTILE = "<script>alert(1)</script> \"quoted\" 'so' & {{ title }} \x1b[2J\nhttp://evil"
PICTURE = Picture("data:image/png;base64,", 8, 8, HOSTILE, HOSTILE, is_wide=True)


class Reader(HTMLParser):
    """Elements, attributes and text; elements must be closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page() -> str:
    """A page with a hostile name in every place that takes one."""
    cells = {"columns": ["run", HOSTILE], "rows": [[HOSTILE, HOSTILE]]}
    return render(
        "comparison.html.j2",
        title=HOSTILE,
        kicker=HOSTILE,
        about=HOSTILE,
        sections={"scores": HOSTILE},
        sentences=[HOSTILE],
        **dict.fromkeys(("settings", "quality", "pairs", "cost"), cells),
        curves=PICTURE,
        words=["run"],
        method=HOSTILE,
        split_digest=HOSTILE,
    )


def test_names_are_text_wherever_they_stand() -> None:
    html = page()
    read = Reader(html)
    assert read.tags.count("script") == 1, "the page's own"
    assert "\x1b" not in html
    in_text = "".join(read.words).count("<script>alert(1)")
    in_attributes = sum("<script>alert(1)" in (value or "") for _, value in read.attributes)
    assert html.count("{{ title }}") == html.count("&lt;script&gt;") == in_text + in_attributes == 23
    assert {name for name, value in read.attributes if value and "<script>" in value} == {"alt", "aria-label"}
    assert not any(name.startswith("on") for name, _ in read.attributes)


def test_nothing_is_loaded_from_anywhere() -> None:
    html = page()
    sources = {value for name, value in Reader(html).attributes if name in ("src", "href")}
    assert sources == {PICTURE.source, "data:,", "#scores"}
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert "default-src 'none'" in html


def test_it_has_a_title_a_language_and_both_schemes() -> None:
    html = page()
    assert html.startswith("<!doctype html>")
    assert 'lang="en"' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_a_forgotten_value_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(UndefinedError, match="kicker"):
        render("base.html.j2", title="a", sections={})


def test_every_template_escapes_by_itself() -> None:
    """Templates never switch escaping off, nor declare a value safe."""
    files = list(resources.files("resnetlab.report").joinpath("templates").iterdir())
    pages = {"report", "comparison", "doctor", "explanations", "label_issues", "sweep"}
    assert {file.name for file in files} == {f"{name}.html.j2" for name in ("base", "macros", *pages)}
    for file in files:
        assert not re.search(r"autoescape|\bsafe\b", file.read_text(encoding="utf-8")), file.name
    assert environment().autoescape is True


def macro(name: str, *arguments: Any) -> str:
    return str(getattr(environment().get_template("macros.html.j2").module, name)(*arguments))


def test_numbers_show_few_digits_and_hold_all() -> None:
    assert macro("number", 0.83019999, "percent") == '<data value="0.83019999" title="0.83019999">83.02 %</data>'
    assert macro("number", 1.5, "plain", "val/<loss>") == (
        '<data value="1.5" title="1.5" data-from="val/&lt;loss&gt;">1.5000</data>'
    )
    assert macro("interval", [0.8, 0.85], "percent") == (
        '<data value="0.8" title="0.8">80.00</data> – <data value="0.85" title="0.85">85.00 %</data>'
    )
    assert rounded(12345, "count") == "12,345"


@pytest.mark.parametrize("value", [None, "x", [], float("nan"), float("inf"), True])
def test_what_is_no_number_is_a_dash(value: Any) -> None:
    assert macro("number", value) == '<span class="undefined" title="undefined: division by zero">–</span>'
    assert macro("interval", value) == ""


def test_filters_escape() -> None:
    assert with_code("run `a <b>` & c") == Markup("run <code>a &lt;b&gt;</code> &amp; c")
    assert lines("<a>\n\x1b") == Markup("&lt;a&gt;\n\\x1b")


def test_a_file_that_is_no_image_is_no_picture() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        png_picture(b"not an image", "x")
