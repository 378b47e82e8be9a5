"""docs/scaling.md and its picture, from the stored points: what grows, and where it leaves the straight line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.page import measured_on
from benchmarks.pictures import number
from resnetlab.plots.style import MUTED, TRAIN, VALIDATION, fit_below_header, house_style, new_figure, save

WHY = {
    "batch": (
        "A step has costs that do not depend on the batch: the update of the weights, their gradients, the form in "
        "which each kernel reads them, one call for every operation, the checks for NaN. A small batch pays them for "
        "few images, and gives each convolution too little to share among the threads. In a large one they hardly "
        "count, but what a layer writes has left the caches before the next one reads it, and the images a second "
        "level off. Memory is the network and its optimiser, and then so much an image, for what backward needs of "
        "forward."
    ),
    "image": (
        "Multiply-adds grow with the area, and so does the time, once the maps are large enough. At 32 px the last "
        "stages of a network made for 224 px work on 2×2 and 1×1 maps: a 3×3 kernel meets mostly padding, the weights "
        "are read for a handful of pixels, and what a step does to the weights alone, the same at every size, is "
        "most of its time."
    ),
    "depth": (
        "The bottleneck nets (50 and deeper) have more of what is not a multiply-add in a convolution: 1×1 "
        "convolutions and the normalisation, ReLU and addition of maps four times as wide are bound by memory, not "
        "arithmetic. Within a kind of unit a deeper network is the cheaper one for its work: stem, classifier and "
        "first stages are shared by more layers, and those that are added have more channels and smaller maps. "
        "Memory follows the number of maps kept for backward, not the number of weights."
    ),
    "images": (
        "An epoch begins with the draws of all its samples (their order, crops and flips: a few numbers each, so "
        "proportional to the data set); then each batch gathers its images from all over memory. Once the pixels are "
        "larger than the caches every image is a miss, which is where a batch becomes dearer. Pixels are held once, "
        "as uint8: memory is 3,072 bytes an image at 32 px, and its name."
    ),
}
WORK = {"batch": "batch", "image": "pixels a side", "depth": "network", "images": "images"}


def page(result: Mapping[str, Any], pictures: Path, *, bent: float) -> str:
    return "\n".join(parts(result, pictures, bent))


def parts(result: Mapping[str, Any], pictures: Path, bent: float) -> Iterator[str]:
    yield "# As the work grows\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/results/scaling.json; do not edit -->\n"
    yield (
        "Training of resnetlab alone, every point a process of its own, medians of interleaved rounds. A curve is "
        "straight where time is proportional to work; *price* is a point's time per work over that of the cheapest "
        f"point of its curve, and a curve has left the straight line where the price is above {bent:g}. Memory is the "
        "peak proportional set size of the process, from its start.\n"
    )
    yield f"{measured_on(result['environment'])}\n"
    yield f"![time and memory over batch, image, depth and data set]({(pictures / 'scaling.png').as_posix()})\n"
    for name, curve in result["curves"].items():
        yield f"## {curve['title'][0].upper()}{curve['title'][1:]}\n"
        yield table(name, curve["points"])
        yield f"{verdict(curve['points'])} {memory_line(name, curve['points'])}".rstrip() + "\n"
        yield f"{WHY[name]}\n"


def table(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    epochs = name == "images"
    head = [WORK[name], "s an epoch" if epochs else "ms a step", "images/s", "price", "peak memory, GB"]
    if epochs:
        head += ["ms to the first batch of an epoch", "ms a batch"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for found in points:
        cells = [shown(found["at"])]
        if "failed" in found:
            lines.append(f"| {cells[0]} | {found['failed']} |{' |' * (len(head) - 2)}")
            continue
        cells += [
            number(found["seconds"]["median"] * (1 if epochs else 1000)),
            number(found["images_per_second"]["median"]),
            f"{found['price']:.2f}",
            number(found["peak_bytes"]["median"] / 1e9) if "peak_bytes" in found else "",
        ]
        if epochs:
            cells += [number(1000 * found[key]["median"]) for key in ("epoch_seconds", "median_step_seconds")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdict(points: Sequence[Mapping[str, Any]]) -> str:
    """Which points are on the straight line, in a sentence."""
    known = [found for found in points if "price" in found]
    bent = [shown(found["at"]) for found in known if not found["straight"]]
    straight = [shown(found["at"]) for found in known if found["straight"]]
    if not known:
        return "Nothing was measured."
    if not bent:
        dearest = max(found["price"] for found in known)
        return f"Straight throughout: the dearest point pays {dearest:.2f} times the cheapest."
    return f"On the straight line: {', '.join(straight)}. Off it: {', '.join(bent)}."


def memory_line(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Memory as a straight line over what varies, where it does so as a number."""
    known = [found for found in points if "peak_bytes" in found]
    if name == "depth" or len(known) < 3:
        return ""
    at = np.array([float(found["at"]) for found in known]) ** (2 if name == "image" else 1)
    memory = np.array([found["peak_bytes"]["median"] for found in known])
    slope, start = np.polyfit(at, memory, 1)
    off = float(np.abs(slope * at + start - memory).max() / memory.max())
    each = {"batch": "an image of the batch", "image": "a pixel of the image's area", "images": "an image"}[name]
    size = f"{slope / 1e6:.1f} MB" if slope >= 1e5 else f"{slope / 1e3:.1f} kB"
    return (
        f"Memory: {start / 1e9:.2f} GB and {size} for {each}; the points lie within {off:.0%} of the highest from it."
    )


def shown(at: str) -> str:
    return f"{int(at):,}" if at.isdigit() else at


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Four panels: time over work, with the straight line through the cheapest point, and memory."""
    save(picture(result), file)


@house_style()
def picture(result: Mapping[str, Any]) -> Figure:
    machine = result.get("environment", {}).get("device_name", "")
    told = f"dashed: time proportional to work, through the cheapest point; {machine}"
    figure = new_figure(11.5, 7.0, "scaling of resnetlab's training", told)
    for axes, (name, curve) in zip(figure.subplots(2, 2).flat, result["curves"].items(), strict=False):
        known = [found for found in curve["points"] if "price" in found]
        if known:
            panel(axes, name, known)
        axes.set_title(curve["title"])
    fit_below_header(figure)
    return figure


def panel(axes: Axes, name: str, points: Sequence[Mapping[str, Any]]) -> None:
    work = [found["work"] for found in points]
    seconds = [found["seconds"]["median"] for found in points]
    cheapest = min(second / amount for second, amount in zip(seconds, work, strict=True))
    axes.plot(work, [cheapest * amount for amount in work], "--", color=MUTED, linewidth=1.2)
    axes.plot(work, seconds, "o-", color=VALIDATION, linewidth=1.8, markersize=5)
    axes.fill_between(
        work,
        [found["seconds"]["lowest"] for found in points],
        [found["seconds"]["highest"] for found in points],
        color=VALIDATION,
        alpha=0.2,
        linewidth=0,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(work, [short(found["at"]) for found in points], size=8.5)
    axes.set_xticks([], minor=True)
    label(axes, (1.0, 2.0, 5.0))
    axes.set_xlabel(f"{WORK[name]}, spaced by work")
    axes.set_ylabel("seconds an epoch" if name == "images" else "seconds a step", color=VALIDATION)
    axes.grid(axis="y")
    if all("peak_bytes" in found for found in points):
        memory = axes.twinx()
        memory.plot(work, [found["peak_bytes"]["median"] / 1e9 for found in points], "s:", color=TRAIN, markersize=4)
        memory.set_yscale("log")
        label(memory, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        memory.set_ylabel("peak memory, GB", color=TRAIN)
        memory.spines["right"].set_visible(True)


def label(axes: Axes, at: tuple[float, ...]) -> None:
    """Plain numbers on a logarithmic axis, `at` these places of every decade."""
    axes.yaxis.set_major_locator(LogLocator(subs=at))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def short(at: str) -> str:
    """
    >>> short("1000000"), short("10000"), short("512"), short("resnet152")
    ('1M', '10k', '512', '152')
    """
    if not at.isdigit():
        return at.removeprefix("resnet")
    count = int(at)
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:g}{unit}"
    return at
