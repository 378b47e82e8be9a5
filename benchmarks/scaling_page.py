"""Write docs/scaling.md and its figure: time and memory as the work grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.page import Entries, measured_on, rounds_of
from benchmarks.pictures import number, picture_name
from resnetlab.plots.style import MUTED, TRAIN, VALIDATION, fit_below_header, house_style, new_figure, save

WHY = {
    "batch": (
        "Some costs of a step do not depend on the batch: the update of the weights, their conversion for each kernel, "
        "the overhead of each operation, the checks for NaN. In a small batch, these costs are spread over few images, "
        "and each convolution has too little work for all threads. In a large batch they hardly matter, but the output "
        "of a layer no longer fits into the caches, and the images per second level off. Memory consists of the "
        "network and its optimiser, and a constant amount per image for the activations."
    ),
    "image": (
        "Multiply-adds grow with the area, and so does the time, once the maps are large enough. At 32 px the last "
        "stages of a network for 224 px work on 2×2 and 1×1 maps: a 3×3 kernel covers mostly padding, and the weights "
        "are read for a few pixels only. Most of the step is work on the weights, which is the same at every size."
    ),
    "depth": (
        "The bottleneck networks (50 layers and more) spend more time outside of multiply-adds: 1×1 convolutions, and "
        "batch norm, ReLU and addition on maps four times as wide, are limited by memory bandwidth, not arithmetic. "
        "With the same kind of unit, a deeper network costs less per multiply-add: stem, classifier and first stages "
        "are a smaller share, and the added layers have more channels and smaller maps. Memory grows with the number "
        "of maps kept for the backward pass, not with the number of weights."
    ),
    "images": (
        "An epoch begins with the random draws of all its samples (order, crops and flips: a few numbers per sample, "
        "so proportional to the data set). Then each batch gathers its images from random places in memory. Once the "
        "pixels no longer fit into the caches, every image is a cache miss and a batch takes longer. Pixels are stored "
        "once, as uint8: memory is 3,072 bytes per image at 32 px, plus its name."
    ),
}
WORK = {"batch": "batch", "image": "pixels per side", "depth": "network", "images": "images"}


def page(entries: Entries, pictures: Path, *, bent: float) -> str:
    return "\n".join(parts(entries, pictures, bent))


def parts(entries: Entries, pictures: Path, bent: float) -> Iterator[str]:
    yield "# Scaling\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/results/scaling.json; do not edit -->\n"
    yield (
        "This page shows how time and memory of resnetlab's training grow. Every point is its own process; where there "
        "are several interleaved rounds, the numbers are medians over them. *Relative cost* is the time per work of a "
        f"point, divided by that of the cheapest point of its curve. Time counts as proportional to work up to a "
        f"relative cost of {bent:g}. Memory is the peak proportional set size of the process, from its start.\n"
    )
    for entry in entries:
        yield f"{measured_on(entry['environment'])} {rounds(entry)}\n"
        picture = pictures / picture_name("scaling", "scaling", entry["environment"])
        yield f"![time and memory over batch, image, depth and data set]({picture.as_posix()})\n"
    for name, curve in entries[0]["curves"].items():
        yield f"## {curve['title'][0].upper()}{curve['title'][1:]}\n"
        for entry in entries:
            if len(entries) > 1:
                yield f"**{entry['environment']['device_name']}**\n"
            points = entry["curves"][name]["points"]
            yield table(name, points)
            yield f"{verdict(points)} {memory_line(name, points)}".rstrip() + "\n"
        yield f"{WHY[name]}\n"


def rounds(entry: Mapping[str, Any]) -> str:
    """Sentence with the number of rounds, from the samples of all points."""
    samples = [found for curve in entry["curves"].values() for found in curve.get("samples", {}).values()]
    return rounds_of([{"contenders": [{"values": found} for found in samples]}])


def table(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    epochs = name == "images"
    head = [WORK[name], "s per epoch" if epochs else "ms per step", "images/s", "relative cost", "peak memory, GB"]
    if epochs:
        head += ["ms to the first batch of an epoch", "ms per batch"]
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
    """Sentence with the points where time is proportional to work."""
    known = [found for found in points if "price" in found]
    bent = [shown(found["at"]) for found in known if not found["straight"]]
    straight = [shown(found["at"]) for found in known if found["straight"]]
    if not known:
        return "Nothing was measured."
    if not bent:
        dearest = max(found["price"] for found in known)
        return f"Time is proportional to work everywhere: the highest relative cost is {dearest:.2f}."
    return f"Proportional: {', '.join(straight)}. Above: {', '.join(bent)}."


def memory_line(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Sentence with a linear fit of memory, for curves over a number."""
    known = [found for found in points if "peak_bytes" in found]
    if name == "depth" or len(known) < 3:
        return ""
    at = np.array([float(found["at"]) for found in known]) ** (2 if name == "image" else 1)
    memory = np.array([found["peak_bytes"]["median"] for found in known])
    slope, start = np.polyfit(at, memory, 1)
    off = float(np.abs(slope * at + start - memory).max() / memory.max())
    each = {"batch": "image of the batch", "image": "pixel of the image's area", "images": "image"}[name]
    size = f"{slope / 1e6:.1f} MB" if slope >= 1e5 else f"{slope / 1e3:.1f} kB"
    return (
        f"Memory: {start / 1e9:.2f} GB plus {size} per {each}; the largest residual is {off:.0%} of the highest point."
    )


def shown(at: str) -> str:
    return f"{int(at):,}" if at.isdigit() else at


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Save a figure of four panels: time over work, with a proportional line through the cheapest point, and memory."""
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
    axes.set_ylabel("seconds per epoch" if name == "images" else "seconds per step", color=VALIDATION)
    axes.grid(axis="y")
    if all("peak_bytes" in found for found in points):
        memory = axes.twinx()
        memory.plot(work, [found["peak_bytes"]["median"] / 1e9 for found in points], "s:", color=TRAIN, markersize=4)
        memory.set_yscale("log")
        label(memory, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        memory.set_ylabel("peak memory, GB", color=TRAIN)
        memory.spines["right"].set_visible(True)


def label(axes: Axes, at: tuple[float, ...]) -> None:
    """Label a logarithmic axis with plain numbers, `at` these multiples of every power of ten."""
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
