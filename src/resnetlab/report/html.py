"""Self-contained HTML pages: no network, no script, readable light and dark and on paper. All text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from resnetlab.errors import printable

Html = NewType("Html", str)

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --muted: #667080; --line: #d9dde3; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --muted: #9aa3b2; --line: #3a4150; --paper: #171a21; }
  img { background: #fff; border-radius: 6px; }
}
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.muted, footer { color: var(--muted); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
th.number, td.number { text-align: right; white-space: nowrap; }
ul { margin: .6rem 0; padding-left: 1.2rem; max-width: 46rem; }
img { display: block; max-width: 100%; height: auto; }
footer { margin-top: 3rem; }
"""


def page(title: str, *parts: Html, footer: str = "") -> str:
    """A whole page. Its policy forbids it to load anything."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{''.join(parts)}<footer>{text(footer)}</footer>\n</body>\n</html>\n"
    )


def text(words: object) -> Html:
    """Words from anywhere, as nothing but words.

    >>> text("<b> & co")
    '&lt;b&gt; &amp; co'
    """
    return Html(escape(printable(words)))


def section(heading: str, *parts: Html) -> Html:
    return Html(f"<section>\n<h2>{text(heading)}</h2>\n{''.join(parts)}</section>\n")


def items(sentences: Iterable[str]) -> Html:
    return Html(f"<ul>\n{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}\n</ul>\n")


def paragraph(words: str, *, muted: bool = False) -> Html:
    return Html(f"<p{' class=muted' if muted else ''}>{text(words)}</p>\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()) -> Html:
    """A table of cells; the columns named in `words` stand to the left, numbers to the right."""
    kinds = ["" if column in words else " class=number" for column in columns]
    head = "".join(f"<th scope=col{kind}>{text(column)}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>\n"
        for row in rows
    )
    return Html(f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n')


def picture(png: bytes, description: str) -> Html:
    """A PNG inside the page."""
    return Html(f'<img alt="{text(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">\n')
