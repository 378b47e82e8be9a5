"""Tables, pictures and stored runs for the notebooks. The networks and their training are written in the notebooks."""

from __future__ import annotations

import csv
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, fx, nn

from resnetlab.evaluation.intervals import Repeats, wilson
from resnetlab.models.blocks import ZeroPad
from resnetlab.models.summary import describe
from resnetlab.plots.confusion import confusion_matrix as draw_confusion
from resnetlab.plots.style import INK, MUTED, RIGHT, TEST, TRAIN, VALIDATION, WRONG, house_style, rendered

COLOURS = (TRAIN, VALIDATION, TEST, RIGHT)
LINES = ("-", "--", "-.", ":")
RESULTS = Path(__file__).resolve().parents[1] / "results"


# Display


def show(figure: Figure) -> None:
    """Display a figure, 100 pixels for an inch of its width; its file has more."""
    display(Image(rendered(figure, "png"), width=round(100 * figure.get_figwidth())))


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """Display a table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    display(Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)))


def accuracy_with_interval(right: int, of: int) -> str:
    """Format an accuracy with its 95 % interval (Wilson).

    >>> accuracy_with_interval(3693, 5000)
    '73.86 % (72.6 to 75.1)'
    """
    low, high = wilson(right, of)
    return f"{100 * right / of:.2f} % ({100 * low:.1f} to {100 * high:.1f})"


def class_table(truth: Tensor, predicted: Tensor, classes: Sequence[str]) -> None:
    """Display precision, recall and F1 of each class and their means; `truth` and `predicted` (N,) are class indices.

    The precision of a class that was never predicted is shown as 0.
    """
    columns = precision_recall_fscore_support(truth, predicted, labels=range(len(classes)), zero_division=0)
    rows = [
        [name, *(f"{share:.2f}" for share in shares), images]
        for name, *shares, images in zip(classes, *columns, strict=True)
    ]
    rows.append(["**mean**", *(f"**{column.mean():.2f}**" for column in columns[:3]), columns[3].sum()])
    table(["class", "precision", "recall", "F1", "images"], rows)


# Shapes and drawings of networks


@torch.no_grad()
def output_shapes(network: nn.Module, shape: Sequence[int]) -> dict[str, str]:
    """Output shape of each part of a network whose parts follow each other, for one image (C, H, W) of this shape."""
    found, x = {"image": "×".join(map(str, shape))}, torch.zeros(1, *shape)
    for name, part in network.eval().named_children():
        x = part(x.flatten(1) if isinstance(part, nn.Linear | nn.LazyLinear) else x)
        found[name] = "×".join(map(str, x.shape[1:]))
    return found


class Tracer(fx.Tracer):
    """Follows `forward` down to modules that contain no others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return not any(m.children())


def step_label(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Text of a box of `unit_figure`: what one step of a traced unit computes; nothing for the identity."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.Conv2d):
            kernel, stride = "×".join(map(str, module.kernel_size)), module.stride[0]
            halved = f", stride {stride}" if stride > 1 else ""
            return f"{kernel} convolution\n{module.in_channels} → {module.out_channels} channels{halved}"
        if isinstance(module, nn.Identity):
            return ""
        if isinstance(module, ZeroPad):
            return f"every {module.stride}nd pixel,\n{module.new_channels} channels of zeros"
        return {nn.BatchNorm2d: "batch norm", nn.ReLU: "ReLU"}.get(type(module), type(module).__name__)
    if node.target in (F.relu, torch.relu, "relu"):
        return "ReLU"
    return "+" if node.target in (operator.add, torch.add) else node.name


@house_style()
def unit_figure(units: Mapping[str, nn.Module], shape: Sequence[int]) -> Figure:
    """Draw units side by side, as `torch.fx` finds their steps in the code of `forward`.

    `units` has a title for each unit, `shape` is (C, H, W) of its input. The longer way from the input to the addition
    is drawn straight down, the shortcut to the right of it.
    """
    figure = Figure(figsize=(4.8 * len(units), 6.2), layout="constrained")
    all_axes = figure.subplots(1, len(units), squeeze=False)[0]
    for axes, (title, unit) in zip(all_axes, units.items(), strict=True):
        draw_unit(axes, unit, shape)
        axes.set_title(title, loc="center", fontsize=11)
    return figure


def draw_unit(axes: Axes, unit: nn.Module, shape: Sequence[int]) -> None:
    """Draw one unit: its steps from the first line to the last, a row each."""
    modules = dict(unit.named_modules())
    first, *steps = [node for node in Tracer().trace(unit).nodes if node.op != "output"]
    with torch.no_grad():
        output = unit.eval()(torch.zeros(1, *shape)).shape[1:]
    addition = next((node for node in steps if step_label(node, modules) == "+"), None)
    ways = [way_to(node, first) for node in addition.all_input_nodes] if addition else [steps]
    straight, *shortcut = sorted(ways, key=lambda way: -len(drawn(way, modules)))
    after = steps[steps.index(addition) :] if addition else []
    labels = drawn(straight, modules)
    rows = [*labels, *drawn(after, modules)]
    y_of = [-1.0 - row for row in range(len(rows))]
    axes.text(0, 0.1, f"x   {'×'.join(map(str, shape))}", ha="center", va="bottom", color=MUTED)
    for y, label in zip(y_of, rows, strict=True):
        arrow(axes, (0, y + 1 - (0.3 if y < -1 else 0)), (0, y + 0.3))
        draw_step(axes, label, 0, y)
    end = y_of[-1] - 1
    arrow(axes, (0, end + 0.7), (0, end + 0.1))
    axes.text(0, end, f"y   {'×'.join(map(str, output))}", ha="center", va="top", color=MUTED)
    if shortcut:
        beside, place = drawn(shortcut[0], modules), y_of[len(labels)]
        x, colour = (2.6, TEST) if beside else (1.8, INK)
        axes.plot((0, x, x), (-0.15, -0.15, place), color=colour, linewidth=1.6, zorder=1)
        arrow(axes, (x, place), (0.24, place), colour)
        for row, label in enumerate(beside):
            draw_step(axes, label, x, (place - 0.15) / 2 + (len(beside) - 1) / 2 - row, TEST)
        axes.text(x, -0.02, "shortcut" if beside else "shortcut: x itself", ha="center", va="bottom", fontsize=9)
        axes.text(-0.3, place, "F(x)", ha="right", va="bottom", color=MUTED)
    axes.set(xlim=(-1.4, 4.0), ylim=(end - 0.5, 0.6))
    axes.set_axis_off()


def way_to(node: fx.Node, first: fx.Node) -> list[fx.Node]:
    """The steps from `first` to `node`, without `first`."""
    way: list[fx.Node] = []
    while node is not first:
        way.insert(0, node)
        node = node.all_input_nodes[0]
    return way


def drawn(way: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> list[str]:
    return [label for node in way if (label := step_label(node, modules))]


def draw_step(axes: Axes, label: str, x: float, y: float, colour: str = VALIDATION) -> None:
    """Draw a box with its label, or the circle of an addition."""
    if label == "+":
        axes.add_patch(Circle((x, y), 0.24, facecolor="white", edgecolor=INK, linewidth=1.4, zorder=2))
    else:
        box = FancyBboxPatch((x - 1.15, y - 0.28), 2.3, 0.56, "round,pad=0,rounding_size=0.1", zorder=2)
        box.set(facecolor="white", edgecolor=colour, linewidth=1.2)
        axes.add_patch(box)
    axes.text(x, y, label, ha="center", va="center", fontsize=13 if label == "+" else 8.5, zorder=3)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = MUTED) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style, zorder=1)


# Pictures of numbers and images


@house_style()
def number_grids(grids: Mapping[str, Tensor], digits: int = 0) -> Figure:
    """Draw small matrices side by side, each with its title, its numbers written into coloured cells."""
    widths = [grid.shape[1] for grid in grids.values()]
    tall = max(grid.shape[0] for grid in grids.values())
    figure = Figure(figsize=(0.44 * sum(widths) + 0.35 * len(widths), 0.44 * tall + 0.4), layout="constrained")
    all_axes = figure.subplots(1, len(grids), width_ratios=widths, squeeze=False)[0]
    limit = max(float(grid.abs().max()) for grid in grids.values())
    for axes, (title, grid) in zip(all_axes, grids.items(), strict=True):
        axes.imshow(grid.numpy(), cmap="RdBu", vmin=-1.6 * limit, vmax=1.6 * limit)
        for (row, column), value in np.ndenumerate(grid.numpy()):
            axes.text(column, row, f"{value:.{digits}f}".replace("-", "−"), ha="center", va="center", fontsize=9)
        axes.set_title(title, loc="center", fontsize=9.5)
        axes.set_xticks(np.arange(grid.shape[1] + 1) - 0.5, labels=())
        axes.set_yticks(np.arange(grid.shape[0] + 1) - 0.5, labels=())
        axes.grid(color="white", linewidth=1.5)
        axes.set_axisbelow(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
    return figure


def draw_image(axes: Axes, image: Tensor, title: str = "", colour: str = INK) -> None:
    """Draw one image (H, W, C) without axes."""
    axes.imshow(image.squeeze().numpy(), cmap="gray")  # the colour map applies only to images of one channel
    axes.set_title(title, loc="center", fontsize=8.5, color=colour)


@house_style()
def image_rows(
    rows: Sequence[Sequence[Tensor]],
    title: str,
    *,
    captions: Sequence[Sequence[str]] = (),
    colours: Sequence[str] = (),
) -> Figure:
    """Draw rows of images (H, W, C), with a caption above each and a colour of the captions for each row."""
    columns = max(map(len, rows))
    lines = 1 + max((text.count("\n") for row in captions for text in row), default=-1)
    figure = Figure(figsize=(1.15 * columns, (1.2 + 0.16 * lines) * len(rows) + 0.4), layout="constrained")
    for row, all_axes in enumerate(figure.subplots(len(rows), columns, squeeze=False)):
        for column, axes in enumerate(all_axes):
            axes.set_axis_off()
            if column < len(rows[row]):
                caption = captions[row][column] if row < len(captions) and column < len(captions[row]) else ""
                draw_image(axes, rows[row][column], caption, colours[row] if colours else INK)
    figure.suptitle(title)
    return figure


def images_by_class(split: Any, classes: Sequence[str], title: str, each: int = 3) -> Figure:
    """Draw the first images of each class of a split, a column for each class."""
    columns = [split.images[split.labels == label][:each] for label in range(len(classes))]
    rows = [[column[row] for column in columns if row < len(column)] for row in range(each)]
    return image_rows(rows, title, captions=[list(classes)])


def predictions_figure(
    images: Tensor, truth: Tensor, probabilities: Tensor, classes: Sequence[str], *, title: str, each: int = 8
) -> Figure:
    """Draw random correct predictions (above) and mistakes (below), each with the predicted class and its probability.

    `probabilities` (N, K) are those of the `images` (N, H, W, C), uint8.
    """
    predicted = probabilities.argmax(1)
    shuffled = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
    rows, captions = [], []
    for is_right in (True, False):
        chosen = [i for i in shuffled.tolist() if (predicted[i] == truth[i]) == is_right][:each]
        texts = [f"{classes[predicted[i]]}, {probabilities[i].max():.0%}" for i in chosen]
        if not is_right:
            texts = [f"{text}\nis {classes[truth[i]]}" for text, i in zip(texts, chosen, strict=True)]
        rows.append([images[i] for i in chosen])
        captions.append(texts)
    return image_rows(rows, title, captions=captions, colours=(RIGHT, WRONG))


def confusion_figure(truth: Tensor, predicted: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix: images by true class (row) and predicted class (column)."""
    counts = confusion_matrix(truth, predicted, labels=range(len(classes)))
    return draw_confusion(counts, classes, title)


@house_style()
def curves_figure(histories: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Draw loss, accuracy and learning rate of trainings by epoch; a large dot marks the best validation accuracy.

    A history has a row for each epoch: epoch, train_loss, val_loss, train_accuracy, val_accuracy, and the rate if it
    changes.
    """
    has_rates = all("rate" in row for history in histories.values() for row in history)
    heights = (3, 3, 1.6) if has_rates else (3, 3)
    figure = Figure(figsize=(9, 1.25 * sum(heights)), layout="constrained")
    top, middle, *rest = all_axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for (name, history), colour in zip(histories.items(), COLOURS, strict=False):
        epochs = [row["epoch"] for row in history]
        best = max(history, key=lambda row: row["val_accuracy"])
        for axes, number, factor in ((top, "loss", 1), (middle, "accuracy", 100)):
            for part, dashes, label in (("train", "--", "training"), ("val", "-", "validation")):
                values = [factor * row[f"{part}_{number}"] for row in history]
                axes.plot(epochs, values, dashes, marker=".", color=colour, label=f"{name}, {label}")
            axes.plot(best["epoch"], factor * best[f"val_{number}"], "o", markersize=9, color=colour)
        for axes in rest:
            axes.step(epochs, [row["rate"] for row in history], where="mid", marker=".", color=colour, label=name)
            axes.set(title="Learning rate", ylabel="rate", yscale="log")
    top.set(title=f"Loss: {title}", ylabel="loss (nats)")
    middle.set(title="Accuracy", ylabel="accuracy (%)")
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.get_major_locator().set_params(integer=True)
    for axes in all_axes:
        axes.grid(visible=True)
        axes.legend(fontsize=9)
    return figure


# Stored runs


@dataclass(frozen=True)
class Run:
    """A training stored in results/: its settings, a row of numbers for each epoch, and its test scores."""

    name: str
    config: dict[str, Any]
    epochs: list[dict[str, float]]
    test: dict[str, Any]

    @property
    def label(self) -> str:
        """The name of the network."""
        return str(self.config["model"]["name"])

    def column(self, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """One number of every epoch, such as `val_accuracy`."""
        return np.array([row[key] for row in self.epochs])

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of the forward pass for one training image; the mean over the phases of a run whose images grow."""
        model, shares = self.config["model"], self.config["augment"].get("sizes") or [1]
        return multiply_adds(model["name"], model["stem"], [round(32 * share) for share in shares], model["shortcut"])

    @property
    def best(self) -> dict[str, float]:
        """The epoch with the best validation accuracy; of equal ones the one with the lower loss."""
        return max(self.epochs, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def load_run(name: str) -> Run:
    """Read a run from results/."""
    folder = RESULTS / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no stored run {name!r}; make it with: python tools/experiments.py {name} --data cifar10"
        )
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    config, test = (json.loads((folder / file).read_text()) for file in ("config.json", "evaluation/test/metrics.json"))
    return Run(name, config, epochs, test)


def multiply_adds(name: str, stem: str, sizes: Sequence[int], shortcut: str | None = None) -> float:
    """Multiply-adds of a network for one image: the mean over image sizes, in pixels."""
    costs = [
        sum(row.macs for row in describe(name, size, num_classes=10, stem=stem, shortcut=shortcut)) for size in sizes
    ]
    return sum(costs) / len(costs)


def difference(new: Run, old: Run) -> tuple[float, float]:
    """Test accuracy of a run minus that of another, and half of its 95 % interval, both in points.

    The interval treats the two accuracies as independent: p - q ± 1.96 · sqrt(p (1 - p) / n + q (1 - q) / m).
    """
    (p, n), (q, m) = ((run.test["accuracy"], run.test["images"]) for run in (new, old))
    return 100 * (p - q), 196 * (p * (1 - p) / n + q * (1 - q) / m) ** 0.5


def is_stored(name: str) -> bool:
    return (RESULTS / name).is_dir()


def epoch_cost(run: Run) -> float:
    """Multiply-adds of the forward passes of one epoch, in 10¹², for the 45,000 training images of CIFAR-10."""
    return 45_000 * run.multiply_adds / 1e12


def training_gap(deep: Run, shallow: Run) -> tuple[float, float]:
    """Training error of the last epoch, deep minus shallow, and half of its 95 % interval, both in points.

    The training errors are shares of a sample of 5,000 training images.
    """
    p, q = (1 - run.epochs[-1]["train_accuracy"] for run in (deep, shallow))
    return 100 * (p - q), 196 * ((p * (1 - p) + q * (1 - q)) / 5_000) ** 0.5


def signed(points: float, half: float) -> str:
    """Format a difference with half of its interval.

    >>> signed(-1.234, 0.5)
    '−1.23 ± 0.50 points'
    """
    return f"{points:+.2f} ± {half:.2f} points".replace("-", "−")


def mean_with_interval(values: Sequence[float]) -> str:
    """Format the mean of repeated measurements and, from three on, half of its 95 % interval (Student's t).

    >>> mean_with_interval([70, 72, 71])
    '71.0 ± 2.5'
    """
    repeats = Repeats.of(values)
    assert repeats is not None
    half = f" ± {repeats.interval[1] - repeats.mean:.1f}" if repeats.interval else ""
    return f"{repeats.mean:.1f}{half}".replace("-", "−")


# Pictures of stored runs


@house_style()
def rates_figure(schedules: Mapping[str, Callable[[float], float]], epochs: int) -> Figure:
    """Draw learning rates over a training; a schedule maps the share that is done, 0 to 1, to a rate."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    done = np.linspace(0, 1, 500, endpoint=False)
    for (name, rate), colour, line in zip(schedules.items(), COLOURS, LINES, strict=False):
        axes.plot(epochs * done, [rate(float(share)) for share in done], line, color=colour, label=name)
    axes.set(title=f"Learning rate over {epochs} epochs", xlabel="epochs done", ylabel="learning rate")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=True)
    return figure


@house_style()
def runs_figure(runs: Mapping[str, Run]) -> Figure:
    """Draw the validation accuracy of stored runs by epoch (left) and by the cost of the training (right)."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (title, run), colour, marker in zip(runs.items(), (MUTED, *COLOURS), "osv^D", strict=False):
        accuracy, cost = 100 * run.column("val_accuracy"), epoch_cost(run)
        style = {"color": colour, "marker": marker, "markersize": 4, "label": title}
        left.plot(run.column("epoch"), accuracy, **style)
        right.plot(cost * run.column("epoch"), accuracy, **style)
    left.set(title="Validation accuracy (%) by epoch", xlabel="epoch")
    right.set(title="Validation accuracy (%) by cost", xlabel="10¹² multiply-adds of forward passes", xscale="log")
    for axes in (left, right):
        axes.grid(visible=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@house_style()
def transfer_figure(accuracies: Mapping[tuple[str, int], Sequence[float]], chance: float) -> Figure:
    """Draw test accuracy (%) by the number of images of each class: dots for the draws, a line through their means.

    `accuracies` are by way and number of images. `chance` is the accuracy of guessing.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    counts = sorted({count for _, count in accuracies})
    ways = list(dict.fromkeys(way for way, _ in accuracies))
    for way, colour, marker, shift in zip(ways, COLOURS, "osv^", (0.95, 1, 1.05, 1.1), strict=False):
        places = [shift * count for count in counts]  # side by side
        for place, count in zip(places, counts, strict=True):
            axes.plot([place] * len(accuracies[way, count]), accuracies[way, count], ".", color=colour, alpha=0.45)
        means = [np.mean(accuracies[way, count]) for count in counts]
        axes.plot(places, means, marker=marker, color=colour, label=way)
    axes.axhline(chance, color=MUTED, linestyle=":", label="guessing")
    axes.set(title="Accuracy on the new classes", xlabel="images of each new class", ylabel="test accuracy (%)")
    axes.set(xscale="log", xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=True)
    return figure


# Plain and residual networks


@house_style()
def error_figure(pairs: Mapping[str, Sequence[tuple[str, Run]]], title: str) -> Figure:
    """Draw error by epoch of stored runs, a panel for each entry: training thin and dashed, validation bold.

    The first run of a panel is grey, the others are coloured.
    """
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, (name, runs), colour in zip(panels, pairs.items(), COLOURS, strict=False):
        for (label, run), shade in zip(runs, (MUTED, colour), strict=True):
            epoch = run.column("epoch")
            axes.plot(
                epoch, 100 - 100 * run.column("train_accuracy"), "--", color=shade, lw=1, label=f"{label}, training"
            )
            axes.plot(epoch, 100 - 100 * run.column("val_accuracy"), color=shade, lw=2.2, label=f"{label}, validation")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=True)
        axes.legend()
    panels[0].set_ylabel("error (%)")
    figure.suptitle(title)
    return figure


@house_style()
def gradients_figure(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], dict[str, Any]]]], limit: float | None = None
) -> Figure:
    """Draw the relative gradient of each kernel, from the image to the head; a panel for each entry.

    A line has its numbers and its style, as keywords of matplotlib's `plot`. `limit` is a dotted line.
    """
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for label, (gradients, style) in lines.items():
            axes.semilogy(range(1, len(gradients) + 1), gradients, label=label, **style)
        if limit is not None:
            axes.axhline(limit, color=MUTED, linestyle=":")
        axes.set(title=title, xlabel="3×3 kernel, from the image to the head")
        axes.grid(visible=True)
        axes.legend()
    all_axes[0].set_ylabel("‖gradient‖ / ‖weight‖")
    return figure


def mark_stages(axes: Axes, lengths: Sequence[int]) -> None:
    """Draw a line at the start of each stage; `lengths` are the numbers of units of the stages."""
    first = 0.5
    for number, length in enumerate(lengths, 1):
        axes.axvline(first, color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(first + 0.1, 1.0, f"stage {number}", transform=axes.get_xaxis_transform(), color=MUTED, va="top")
        first += length
    axes.set(xlabel="unit, from the image to the head", xlim=(0, first + 0.5))


@house_style()
def corrections_figure(ratios: Mapping[str, Sequence[float]], lengths: Sequence[int], title: str) -> Figure:
    """Draw the size of each unit's correction relative to its shortcut, a line for each entry."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    for (label, values), colour, line in zip(ratios.items(), (MUTED, VALIDATION), ("--", "-"), strict=True):
        axes.plot(range(1, len(values) + 1), values, line, marker="o", markersize=4, color=colour, label=label)
    mark_stages(axes, lengths)
    axes.set(title=title, ylabel="‖F(x)‖ / ‖shortcut(x)‖", ylim=(0, 1.15 * max(map(max, ratios.values()))))
    axes.grid(visible=True)
    axes.legend(loc="upper right")
    return figure


@dataclass(frozen=True)
class Removals:
    """Accuracies (%) of a network without one of its units, by the number of the unit, and of the whole network."""

    name: str
    whole: float
    same_shape: Mapping[int, float]
    other_shape: Mapping[int, float]
    lengths: Sequence[int]  # units of the stages


@house_style()
def removals_figure(networks: Sequence[Removals], chance: float) -> Figure:
    """Draw the accuracy of networks without one unit, a panel for each network; `chance` is that of guessing."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, network, colour in zip(panels, networks, (VALIDATION, TEST), strict=False):
        for scores, face, label in (
            (network.same_shape, colour, "one unit removed"),
            (network.other_shape, "white", "one that changes the shape"),
        ):
            if scores:
                axes.plot(list(scores), list(scores.values()), "o", color=colour, mfc=face, ms=6, label=label)
        axes.axhline(network.whole, color=colour, linewidth=1, linestyle="--", label="whole")
        axes.axhline(chance, color=MUTED, linewidth=1, linestyle=":", label="guessing")
        mark_stages(axes, network.lengths)
        axes.set(title=f"{network.name}: accuracy without one unit", ylim=(0, 105))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8.5)
    panels[0].set_ylabel("validation accuracy (%)")
    return figure


@house_style()
def removal_orders_figure(
    counts: Sequence[int], scores: np.ndarray[Any, np.dtype[np.float64]], *, whole: float, chance: float, title: str
) -> Figure:
    """Draw the accuracy (%) by the number of removed units: `scores` (counts, orders), their mean and deviation."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    labels = ["one order", *[""] * (scores.shape[1] - 1)]
    axes.plot(counts, scores, "o-", color=VALIDATION, alpha=0.35, linewidth=0.8, markersize=4, label=labels)
    mean, std = scores.mean(1), scores.std(1, ddof=1)
    axes.errorbar(counts, mean, std, color=VALIDATION, linewidth=2, capsize=4, label="mean ± standard deviation")
    axes.axhline(whole, color=VALIDATION, linewidth=1, linestyle="--", label="whole")
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle=":", label="guessing")
    axes.set(title=title, ylabel="validation accuracy (%)", ylim=(0, 100), xlabel="units removed")
    axes.grid(visible=True)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
