"""Metadata of a model card: YAML as the Hugging Face Hub reads it, written so that no name can break it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LICENSES = (  # the names that the Hub knows, of those that weights usually have
    *(
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "isc",
        "unlicense",
        "wtfpl",
    ),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0"),
    *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
    *(
        "epl-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "ecl-2.0",
        "artistic-2.0",
        "afl-3.0",
        "ms-pl",
        "ncsa",
        "osl-3.0",
        "postgresql",
    ),
    *("odbl", "odc-by", "pddl", "openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "zlib"),
)


def license_fields(name: str) -> dict[str, str]:
    """Return the metadata of a licence: a name that the Hub knows, or "other" with the name or the address.

    >>> license_fields("Apache-2.0"), license_fields("unstated")
    ({'license': 'apache-2.0'}, {'license': 'unknown'})
    >>> license_fields("https://example.org/terms")["license_link"]
    'https://example.org/terms'
    """
    if name.lower() in LICENSES:
        return {"license": name.lower()}
    if name in ("", "unstated", "unknown"):
        return {"license": "unknown"}
    if name.startswith(("https://", "http://")):
        return {"license": "other", "license_name": "see-link", "license_link": name}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "see-text"}


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return metadata as a block of YAML between two lines of dashes.

    >>> print(front_matter({"tags": ["a: b"], "results": [{"value": 0.5, "text": "- x"}]}), end="")
    ---
    tags:
      - "a: b"
    results:
      - value: 0.5
        text: "- x"
    ---
    """
    return "\n".join(["---", *yaml_lines(metadata), "---", ""])


def yaml_lines(value: Any) -> Iterator[str]:
    """Yield the lines of a mapping or a list of mappings, lists, texts and numbers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list):
                yield f"{key}:"
                yield from (f"  {line}" for line in yaml_lines(inner))
            else:
                yield f"{key}: {scalar(inner)}"
        return
    for inner in value if isinstance(value, Sequence) else ():
        first, *rest = yaml_lines(inner) if isinstance(inner, Mapping) else [scalar(inner)]
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


def scalar(value: object) -> str:
    """Return a number, or a text between double quotes, in which YAML has the escapes of JSON and those of Python.

    >>> print(scalar(chr(0x85) + "ü" + chr(0x1F600)), scalar(None))
    "\\x85ü😀" null
    """
    if not isinstance(value, str):
        return json.dumps(value)
    plain = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else escape(c) for c in plain) + '"'


def escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
