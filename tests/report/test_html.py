"""Pages load nothing, and no name in them is ever more than text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from resnetlab.report import html as page

PNG = b"\x89PNG"
NASTY = "<script>alert(1)</script> \"quoted\" 'so' & \x1b[2J\nhttp://evil"


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


def whole() -> str:
    return page.page(
        NASTY,
        page.items([NASTY]),
        page.section(NASTY, page.paragraph(NASTY), page.table(["run", NASTY], [[NASTY, "1"]], words=("run",))),
        page.picture(PNG, NASTY),
        footer=NASTY,
    )


def test_names_are_text_wherever_they_stand() -> None:
    read = Reader(whole())
    assert "script" not in read.tags
    assert "\x1b" not in whole()
    assert "".join(read.words).count("<script>alert(1)</script>") == 8
    assert any(name == "alt" and value and value.startswith("<script>") for name, value in read.attributes)


def test_nothing_is_loaded_from_anywhere() -> None:
    html = whole()
    sources = [value for name, value in Reader(html).attributes if name in ("src", "href")]
    assert sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert "default-src 'none'" in html


def test_it_has_a_title_a_language_and_both_schemes() -> None:
    html = whole()
    assert html.startswith("<!doctype html>")
    assert 'lang="en"' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
