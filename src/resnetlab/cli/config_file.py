"""Settings in files: read .json and .toml, and write JSON that any terminal shows as it is."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput, printable
from resnetlab.files import read_regular


def read_settings(path: Path, kind: str = "config file") -> dict[str, Any]:
    """Return the settings in a `.json` or `.toml` file, not yet validated; a byte-order mark is ignored.

    Error messages name the file as a file of its `kind`.
    """
    if path.suffix not in (".json", ".toml"):
        raise BadInput(f"{kind} {printable(path)} must end in .json or .toml")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{kind} {printable(path)} has {path.stat().st_size:,} bytes; no settings are so large")
        text = read_regular(path).decode("utf-8-sig")
        if DEEP.search(text):
            raise BadInput(f"{kind} {printable(path)} has a name of more than 20 dotted parts; settings have two")
        is_json = path.suffix == ".json"
        settings = json.loads(text, object_pairs_hook=without_repetition) if is_json else tomllib.loads(text)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"could not read {kind} {printable(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{kind} {printable(path)} is not UTF-8 text; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{kind} {printable(path)} is not valid: {printable(error)[:200]}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{kind} {printable(path)} holds no table of settings")
    return settings


LARGEST_FILE = 2**20  # bytes
DEEP = re.compile(r"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){20}""")
"""A name of more than 20 dotted parts: TOML's parser takes seconds for thousands of them."""


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table of a JSON file. Raises ValueError for a repeated setting, of which JSON would take the last."""
    table = dict(pairs)
    if len(table) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} is given twice")
    return table


def json_text(value: Any) -> str:
    """Return a value as JSON on several lines, in which control characters are escaped.

    >>> print(json_text({"name": "für später" + chr(0x9B)}))
    {
      "name": "für später\\u009b"
    }
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
