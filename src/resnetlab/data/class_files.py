"""Class names in a file: one per line, or JSON as other libraries write it, in the order of the network's outputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnetlab.data.classes import quoted
from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular

LARGEST_FILE = 2**24  # bytes
LISTS = ("label_names", "id2label")  # in the config.json of timm and of transformers
FORMS = 'one name per line, or JSON: ["cat", "dog"], {"0": "cat", "1": "dog"} or {"cat": 0, "dog": 1}'


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of classes in the order of the network's outputs.

    The file has one name per line, or is JSON: a list, an object from index to name or from name to index, or the
    config.json of timm or transformers. Raises BadInput for anything else, and for empty and repeated names.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST_FILE + 1)
    shown = printable(path)
    if len(content) > LARGEST_FILE:
        raise BadInput(f"{shown} is larger than {LARGEST_FILE:,} bytes; no list of class names is so large")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{shown} is not UTF-8 text; give class names: {FORMS}") from error
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{"))
    return distinct(names_in_json(text, shown) if is_json else lines(text), shown)


def lines(text: str) -> list[str]:
    """Return the lines without spaces around them; empty lines at the end are left out."""
    return [line.strip() for line in text.rstrip().split("\n")]


def names_in_json(text: str, shown: str) -> list[str]:
    """Return the names in a JSON list or object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{shown} is not valid JSON: {printable(error)[:200]}") from error
    if isinstance(found, Mapping):
        found = next((found[key] for key in LISTS if found.get(key)), found)
    if isinstance(found, Mapping) and all(type(value) is int for value in found.values()):
        by_index = {str(index): name for name, index in found.items()}  # torchvision's class_to_idx
        found = by_index if len(by_index) == len(found) else None
    if isinstance(found, Mapping):
        found = [found.get(str(index)) for index in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadInput(f"{shown} is not a list of class names, with every index from 0; give {FORMS}")
    return [name.strip() for name in found]


def distinct(names: Sequence[str], shown: str) -> tuple[str, ...]:
    """Return the names. Raises BadInput if one is empty or there twice."""
    if empty := [place for place, name in enumerate(names) if not name]:
        raise BadInput(f"{shown} has an empty name for class {empty[0]} (line {empty[0] + 1}); give {FORMS}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(f"{shown} has these names more than once: {quoted(twice)}; classes need distinct names")
    return tuple(names)
