"""Where a run comes from: the command, the config, the machine, and the digests of data and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from resnetlab.errors import printable
from resnetlab.report.command import commands
from resnetlab.report.html import Html, text
from resnetlab.report.page import section
from resnetlab.report.pieces import element, join, more, pairs, short
from resnetlab.report.reading import Facts

MACHINE = {
    "device": "Device",
    "device_name": "Processor",
    "precision": "Precision",
    "threads": "Threads",
    "cpu_capability": "CPU capability",
    "platform": "Platform",
    "python": "Python",
    "started": "Started",
}


def origin(facts: Facts) -> Html:
    """The section about it."""
    lines = "\n".join(commands(facts.config))
    parts = [
        element("h3", text("The command that makes this run again")),
        element("pre", element("code", text_of_lines(lines)), id="command"),
        element("p", text(SAME), class_="muted"),
    ]
    if words := facts.environment.get("command"):
        given = " ".join(map(str, words)) if isinstance(words, list) else str(words)
        parts.append(pairs([("As it was typed", element("code", text(given)))]))
    if known := list(machine(facts.environment)):
        parts += [element("h3", text("Machine")), pairs(known)]
    if digests := list(identities(facts)):
        parts += [element("h3", text("Weights and images")), pairs(digests)]
    config = json.dumps(facts.config.to_json(), indent=2, ensure_ascii=False)
    parts.append(more("Every setting (config.json)", element("pre", element("code", text_of_lines(config)))))
    return section("origin", "How to get it again", *parts)


SAME = (
    "On the same machine and with the same versions the bits are the same; elsewhere the scores differ a little. A "
    "folder of images must hold the same files."
)


def text_of_lines(lines: str) -> Html:
    """Text whose line breaks stay."""
    return Html("\n".join(text(line) for line in lines.split("\n")))


def machine(environment: Mapping[str, Any]) -> Iterator[tuple[str, Html]]:
    """What the run was trained on and with."""
    for key, name in MACHINE.items():
        if key in environment:
            yield name, text(environment[key])
    packages = environment.get("packages")
    if isinstance(packages, Mapping):
        yield "Packages", text(", ".join(f"{name} {number}" for name, number in packages.items() if number))


def identities(facts: Facts) -> Iterator[tuple[str, Html]]:
    """What tells these weights and these images from all others."""
    if facts.model is not None:
        trained = sum(p.numel() for p in facts.model.network.parameters())
        yield "Network", text(f"{facts.model.network.name}, {trained:,} parameters")
        epoch = facts.model.provenance.get("epoch")
        yield "Weights", join(short(facts.model.weights_digest), text("" if epoch is None else f", of epoch {epoch}"))
    for scored in facts.scored.values():
        if scored.tta == "none":
            digest = scored.at("split_digest")
            yield f"{scored.title.capitalize()}", join(short(digest), text(f", {scored.metrics['images']:,} images"))
    yield "Run folder", element("code", text(printable(facts.run.path.resolve().name)))
