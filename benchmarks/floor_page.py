"""docs/floor.md and its picture, from the stored shares: every network's step beside its convolutions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.page import measured_on
from benchmarks.pictures import OURS, ROW, number
from resnetlab.plots.style import INK, MUTED, fit_below_header, house_style, new_figure, save

READ = """\
The *floor* of a network is the time of its convolutions alone, each by itself as torch computes it, forwards and
backwards, in the memory format it is fastest in. Our step is whole: augmentation, forward, loss, backward, optimiser,
metrics and an average of the weights. The *share* is the floor over our step, by rounds; 1 would be a step that costs
nothing but torch's convolutions.

A share above 1 is no error: 3×3 convolutions from 32 channels up are not torch's here, and whoever computes them in
less time than the floor does has time left for the rest. That pays where channels are many and maps small. The
networks for 224 px with bottlenecks are mostly 1×1 convolutions, which are torch's, and their maps, four times as wide,
pass through normalisation, ReLU and addition at the speed of the memory. The narrow ones (16 to 64 channels) multiply
so little for every number they read and write that the same three cost about as much as all their convolutions.
"""


def page(result: Mapping[str, Any], pictures: Path) -> str:
    return "\n".join(parts(result, pictures))


def parts(result: Mapping[str, Any], pictures: Path) -> Iterator[str]:
    yield "# How far the floor is\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/results/floor.json; do not edit -->\n"
    yield READ
    yield f"{measured_on(result['environment'])}\n"
    yield f"![the share of every network]({(pictures / 'floor.png').as_posix()})\n"
    yield "| network | share | images/s | lowest – highest | convolutions alone, images/s | lowest – highest |"
    yield f"|---|{'---:|' * 5}"
    for title, ours, alone in rows(result):
        cells = [title, f"{alone['first_against_it']:.2f}"]
        for found in (ours, alone):
            cells += [number(found["median"]), f"{number(found['lowest'])} – {number(found['highest'])}"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """A network's title, our step and its convolutions alone."""
    for group in result["groups"]:
        ours, alone = group["contenders"]
        yield group["title"], ours, alone


def draw(result: Mapping[str, Any], file: Path) -> None:
    save(picture(result), file)


@house_style()
def picture(result: Mapping[str, Any]) -> Figure:
    """A bar for each network, as long as its share, and a line where a step costs as much as its convolutions."""
    found = list(rows(result))
    machine = result.get("environment", {}).get("device_name", "")
    told = f"time of its convolutions alone over that of our whole step; {machine}"
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
