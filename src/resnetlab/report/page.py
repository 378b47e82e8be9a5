"""The frame of a page: one file that loads nothing, in light and dark, on screen and on paper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from resnetlab.report.html import Html, text
from resnetlab.report.pieces import element, join


def section(anchor: str, heading: str, *content: Html) -> Html:
    """A part of the page, with a heading that the list at the top leads to."""
    return join(element("section", element("h2", text(heading)), Html("\n"), *content, id=anchor), "\n")


def document(
    title: str, content: Sequence[Html], *, kicker: str, summary: Html, links: Sequence[tuple[str, str]], footer: Html
) -> str:
    """A whole page; `links` are anchors and their names. Its policy forbids it to load anything from anywhere."""
    style, script = asset("page.css"), asset("page.js")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    entries = [element("li", element("a", text(name), href=f"#{anchor}")) for anchor, name in links]
    head = (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
    )
    top = element("header", element("p", text(kicker), class_="kicker"), element("h1", text(title)), summary)
    nav = element("nav", element("ul", *entries), aria_label="Contents")
    return join(
        *(head, "<body>\n", top, "\n", nav, "\n"),
        *(element("main", Html("\n"), *content), "\n", element("footer", footer), "\n"),
        *(f"<script>{script}</script>\n", "</body>\n</html>\n"),
    )


def asset(name: str) -> str:
    """One of the files beside this one."""
    return resources.files("resnetlab.report").joinpath(name).read_text(encoding="utf-8")
