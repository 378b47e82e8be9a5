"""Write docs/floor.md and its figure: every network's training step, compared with its convolutions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.page import Entries, capabilities, measured_on, rounds_of
from benchmarks.pictures import OURS, ROW, number, picture_name
from resnetlab.plots.style import INK, MUTED, fit_below_header, house_style, new_figure, save

READ = """\
The *floor* of a network is the time of its convolutions alone: each is timed separately, as torch computes it, forward
and backward, in its fastest memory format. Our step is complete: augmentation, forward, loss, backward, optimiser,
metrics and a running average of the weights. The *share* is the floor divided by our step, per round; a step that takes
exactly as long as torch's convolutions has a share of 1.

The share can exceed 1, because 3×3 convolutions from 32 channels up do not use torch's implementation here: faster
convolutions leave time for the rest. The gain is largest for many channels and small maps. The bottleneck networks for
224 px consist mostly of 1×1 convolutions, which are torch's. Batch norm, ReLU and addition on their maps, four times as
wide, are limited by memory bandwidth. The narrow networks (16 to 64 channels) have few multiplications per number read
or written, so batch norm, ReLU and addition take about as long as all their convolutions.
"""


def page(entries: Entries, pictures: Path) -> str:
    return "\n".join(parts(entries, pictures))


def parts(entries: Entries, pictures: Path) -> Iterator[str]:
    yield "# Training time and the convolution floor\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/results/floor.json; do not edit -->\n"
    yield READ
    for entry in entries:
        environment = entry["environment"]
        picture = pictures / picture_name("floor", "floor", environment)
        yield f"## {environment['device_name']}, {capabilities(environment)}\n"
        yield f"{measured_on(environment)} {rounds_of(entry['groups'])}\n"
        yield f"![the share of every network]({picture.as_posix()})\n"
        yield "| network | share | images/s | lowest – highest | convolutions alone, images/s | lowest – highest |"
        yield f"|---|{'---:|' * 5}"
        for title, ours, alone in rows(entry):
            cells = [title, f"{alone['first_against_it']:.2f}"]
            for found in (ours, alone):
                cells += [number(found["median"]), f"{number(found['lowest'])} – {number(found['highest'])}"]
            yield f"| {' | '.join(cells)} |"
        yield ""


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Title, our step and the convolutions alone, for each network."""
    for group in result["groups"]:
        ours, alone = group["contenders"]
        yield group["title"], ours, alone


def draw(result: Mapping[str, Any], file: Path) -> None:
    save(picture(result), file)


@house_style()
def picture(result: Mapping[str, Any]) -> Figure:
    """Figure with a bar for each network's share and a line at 1."""
    found = list(rows(result))
    machine = result.get("environment", {}).get("device_name", "")
    told = f"time of the convolutions alone divided by the time of our step; {machine}"
    figure = new_figure(8.5, ROW * len(found) + 1.4, "training: share of the floor", told)
    axes = figure.subplots()
    for place, (_, ours, alone) in enumerate(found):
        share = alone["first_against_it"]
        axes.barh(place, share, 0.68, color=OURS)
        text = f"{share:.2f}   ({number(ours['median'])} of {number(alone['median'])} images/s)"
        behind = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1}
        axes.text(share + 0.015, place, text, va="center", size=9, color=INK, bbox=behind)
    axes.axvline(1.0, color=MUTED, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(found)), [title for title, *_ in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, 1.45 * max(1.0, *(alone["first_against_it"] for *_, alone in found)))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel("share of the floor")
    fit_below_header(figure)
    return figure
