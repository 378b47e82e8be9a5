"""Compute the figures in README, docs and notebooks: `python tools/prose.py` writes them, `--check` finds wrong ones.

A figure stands between two HTML comments, after the expression that computes it:

    <!--= parameters("resnet34", classes=10) -->21,289,802<!--/-->

The expressions use the functions below, on the code (shapes, parameters), on the runs in results/ and on the benchmarks
in benchmarks/results/. Figures that look measured but have no expression are reported as well, so that none is ever
typed. Pages and tables that a program writes are compared with what it writes, and every speed table must contain the
strongest contender that was measured.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.errors import LabError
from resnetlab.models import build_model, summary

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from benchmarks.__main__ import BENCHMARKS as BENCHMARK_NAMES  # noqa: E402 - a package of the repository
from benchmarks.page import strongest  # noqa: E402
from benchmarks.pictures import number  # noqa: E402
from benchmarks.results import entries  # noqa: E402
from benchmarks.rounding import TORCH as TORCH_BF16  # noqa: E402

BENCHMARKS = ROOT / "benchmarks" / "results"
GENERATED = {  # page: the program that writes it
    "docs/accelerate.md": "benchmarks table",
    "docs/benchmarks.md": "benchmarks table",
    "docs/floor.md": "benchmarks table",
    "docs/scaling.md": "benchmarks table",
    "docs/scaling-out.md": "benchmarks table",
    "docs/cifar10-fast.md": "ablation.py",
    "docs/reference.md": "reference.py",
}
NOTEBOOKS = (*sorted((ROOT / "notebooks").glob("*.py")), *(ROOT / "notebooks").glob("README.md"))
WRITTEN = tuple(path for path in sorted(ROOT.glob("docs/*.md")) if f"docs/{path.name}" not in GENERATED)
PAGES = (ROOT / "README.md", *WRITTEN, *NOTEBOOKS)
MARKED = re.compile(r"<!--= ?(.+?) ?-->(.*?)<!--/-->", re.DOTALL)
MEASURED = re.compile(
    r"\d[\d.,]* ?(?:%|×(?!\d)|[kMG]B\b|seconds|minutes|hours|images/s)|\d+\.\d+ (?:million|points|times)"
    r"|\d{1,3}(?:,\d{3})+|\d+\.\d{2,}"
)
GIVEN = {
    *("1,000", "10,000", "45,000", "50,000", "60,000", "5,000"),  # published data sets
    *("5 GB", "170 MB", "83 MB"),  # downloads: PyTorch's default build, CIFAR-10, weights of ResNet-34
    *("95 %", "3.11"),  # the usual interval; the oldest Python
}
describe = cache(summary.describe)
BEGINS = re.compile(r"^#? *(<!--=.+?-->)", re.MULTILINE)
# Code, addresses, papers, and tables that tools/results.py writes have digits of their own.
ELSEWHERE = re.compile(
    r"<!-- (\w+): written by.*?<!-- end of \1 -->|^```.*?^```|(?:\n\n(?: {4}[^\n]*\n)+)+|`[^`]*`|https?://\S+|arXiv:[\d.]+",
    re.DOTALL | re.MULTILINE,
)


@cache
def run(name: str) -> tuple[dict[str, Any], list[dict[str, float]], dict[str, Any]]:
    """A stored run: its config, its epochs, and the test scores of its best one."""
    folder = ROOT / "results" / name
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    test = json.loads((folder / "evaluation/test/metrics.json").read_text())
    return json.loads((folder / "config.json").read_text()), rows, test


@cache
def parameters(model: str, classes: int = 10, stem: str = "auto") -> str:
    """Weights of a network, biases and norms included.

    >>> parameters("resnet34", classes=1000)
    '21,797,672'
    """
    network = build_model(model, classes, stem=stem, image_size=None if stem == "auto" else 32)
    return f"{sum(weight.numel() for weight in network.parameters()):,}"


def million(model: str, classes: int = 10, stem: str = "auto") -> str:
    """The same, short.

    >>> million("resnet34", classes=1000)
    '21.8 million'
    """
    return f"{int(parameters(model, classes, stem).replace(',', '')) / 1e6:.1f} million"


def shape(model: str, stage: str, size: int = 32, stem: str = "imagenet") -> str:
    """Output shape of a stage: channels × height × width.

    >>> shape("resnet34", "layer4")
    '512×1×1'
    """
    rows = {row.stage: row for row in describe(model, size, stem=stem)}
    return "×".join(map(str, rows[stage].shape[-3:]))


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def test(name: str) -> str:
    """Accuracy on the test split of the epoch that validated best."""
    return percent(run(name)[2]["accuracy"])


def validation(name: str, epoch: int = 0) -> str:
    """Accuracy on validation: of the best epoch, of one counted from 1, or with -1 of the last one."""
    return percent(scores(name, "val_accuracy", epoch))


def training(name: str, epoch: int = -1) -> str:
    """Accuracy on the fixed sample of training images, without augmentation: of one epoch, or of the last one."""
    return percent(scores(name, "train_accuracy", epoch))


def scores(name: str, column: str, epoch: int) -> float:
    rows = run(name)[1]
    return rows[best(name) - 1 if epoch == 0 else epoch if epoch < 0 else epoch - 1][column]


def best(name: str) -> int:
    """The epoch that validated best, counted from 1; of equal ones the one with the lower loss."""
    rows = run(name)[1]
    return 1 + min(range(len(rows)), key=lambda i: (-rows[i]["val_accuracy"], rows[i]["val_loss"]))


def epochs(name: str) -> int:
    return len(run(name)[1])


def seed(name: str) -> int:
    return int(run(name)[0]["seed"])


def minutes(name: str) -> str:
    """Minutes of training, without scoring, on the machine of the run."""
    return f"{sum(row['train_seconds'] for row in run(name)[1]) / 60:.0f}"


def machine(name: str) -> str:
    """Processor and number format of the run."""
    found = json.loads((ROOT / "results" / name / "environment.json").read_text())
    return f"{found['device_name']}, {found['precision']}"


def cost(name: str) -> str:
    """Multiply-adds of all forward passes over the training images, in 10¹²."""
    config = run(name)[0]
    model, sizes = config["model"], config["augment"].get("sizes") or [1]
    macs = [
        stage.macs / len(sizes)
        for size in sizes
        for stage in describe(
            model["name"], round(32 * size), num_classes=10, stem=model["stem"], shortcut=model["shortcut"]
        )
    ]
    return f"{epochs(name) * 45_000 * sum(macs) / 1e12:.0f}"


def points(new: str, old: str, column: str = "") -> str:
    """Difference in points of test accuracy between two runs, or of a column of their last epochs."""
    if column:
        gap = scores(new, column, -1) - scores(old, column, -1)
    else:
        gap = run(new)[2]["accuracy"] - run(old)[2]["accuracy"]
    return f"{100 * gap:+.1f}".replace("-", "−")


def rounding() -> str:
    """Range of our bf16 error, divided by that of torch's own bf16, over all stored networks and machines."""
    factors = [
        row["first_against_it"]
        for entry in entries(BENCHMARKS, "rounding")
        for group in entry["groups"]
        for row in group["contenders"]
        if row["name"] == TORCH_BF16
    ]
    return f"{min(factors):.2f} to {max(factors):.2f}"


def constant(name: str) -> Any:
    """A constant of the package, by module and name.

    >>> constant("data.preprocess.LARGEST_SIZE")
    4096
    """
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(f"resnetlab.{module}"), last)


def risks() -> str:
    """The risks for which a model file has thresholds."""
    *most, last = (f"{100 * risk:g}" for risk in constant("evaluation.selective.RISKS"))
    return f"{', '.join(most)} and {last} %"


def smallest_risk(images: int) -> str:
    """The smallest of these risks that so many images support if all predictions are right and of distinct confidence.

    >>> smallest_risk(100)
    '5 %'
    """
    from resnetlab.evaluation.selective import fit_rejections

    found = fit_rejections(np.linspace(0.5, 1, images), np.ones(images, bool))
    return f"{100 * found[0].risk:g} %"


def ablation() -> str:
    """The finding of docs/cifar10-fast.md."""
    from ablation import finding, stored

    return finding(*stored())


FUNCTIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (
        parameters,
        million,
        shape,
        percent,
        test,
        validation,
        training,
        best,
        epochs,
        seed,
        minutes,
        machine,
        cost,
        points,
        run,
        rounding,
        ablation,
        constant,
        risks,
        smallest_risk,
    )
} | {"sum": sum, "max": max, "min": min, "abs": abs, "round": round, "len": len, "sqrt": math.sqrt}


def filled(text: str) -> str:
    """Text of a page with every figure computed from its expression."""

    def figure(found: re.Match[str]) -> str:
        value = eval(found[1].replace("\n#", "\n"), {"__builtins__": {}}, dict(FUNCTIONS))  # our own pages
        return f"<!--= {found[1]} -->{value}<!--/-->"

    return MARKED.sub(figure, text)


def typed(page: Path) -> list[str]:
    """Figures in the text of a page that look measured but have no expression."""
    lines = page.read_text(encoding="utf-8").splitlines()
    if page.suffix == ".py":
        prose, inside = [], False
        for line in lines:
            inside = line.startswith("# %% [markdown]") or (inside and line.startswith("#") and line[:4] != "# %%")
            prose += [line] * inside
        lines = prose
    bare = ELSEWHERE.sub("", MARKED.sub("", "\n".join(lines) + "\n"))
    return [found for found in MEASURED.findall(bare) if found not in GIVEN]


def strongest_missing(page: Path, groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Speed tables of a page that lack the strongest contender of a stored measurement, one sentence each.

    A measurement is shown by the row that begins with its title and names its machine, or by the tables under its title
    as a heading.
    """
    wrong, rows, under = [], list[str](), dict[str, list[str]]()
    title = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(("#", "**")):
            title = line.strip("#* ")
        if line.startswith("|"):
            rows.append(line)
            under.setdefault(title, []).append(line)
    for group in groups:
        best = strongest(group)
        if best is None:
            continue
        median, machine = number(best["median"]), group["environment"]["device_name"]
        own = [line for line in rows if line.startswith(f"| {group['title']} |") and machine in line]
        if own and not any(f"{best['name']}: {median}" in line for line in own):
            wrong.append(f"{page.name}: the row {group['title']!r} lacks {best['name']}, {median} {group['unit']}")
        tables = under.get(group["title"], [])
        if tables and not any(line.startswith(f"| {best['name']} | {median} |") for line in tables):
            wrong.append(f"{page.name}: the table {group['title']!r} lacks {best['name']}, {median} {group['unit']}")
    return wrong


def measured_speeds() -> list[Mapping[str, Any]]:
    """The stored measurements of images or requests per second, of all benchmarks."""
    return [
        group
        for name in BENCHMARK_NAMES
        for entry in entries(BENCHMARKS, name)
        for group in entry.get("groups", ())
        if group["unit"].endswith("/s")
    ]


def not_in_readme() -> list[str]:
    """Tasks of the training benchmark that the README's table lacks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    titles = [group["title"] for entry in entries(BENCHMARKS, "training") for group in entry["groups"]]
    return [f"README.md: {title!r} was measured and is not shown" for title in titles if f"| {title} |" not in text]


def not_in_notebooks(page: Path) -> list[str]:
    """Stored runs of the notebooks that the table of their README lacks."""
    from experiments import EXPERIMENTS

    text = page.read_text(encoding="utf-8")
    names = [name for name in EXPERIMENTS if "/" in name and not name.startswith("ablation/")]
    stored = [name for name in names if (ROOT / "results" / name / "config.json").exists()]
    return [f"{page}: `{name}` is stored and is not shown" for name in stored if f"| `{name}` |" not in text]


def stale() -> list[str]:
    """Generated pages and tables that differ from what their programs write."""
    import ablation
    import reference
    import results

    from benchmarks import __main__ as benchmarks

    wrong = [
        f"{module.PAGE.name} is out of date; run: python tools/{module.__name__}.py"
        for module in (ablation, reference)
        if module.PAGE.read_text(encoding="utf-8") != module.page()
    ]
    for check in (lambda: results.readme(check=True), lambda: benchmarks.write_page(check=True)):
        try:
            check()
        except (SystemExit, LabError) as error:
            wrong.append(str(error))
    return wrong


def main() -> None:
    check = "--check" in sys.argv[1:]
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        wrong += [f"{page.name}: {figure} is typed; give it an expression" for figure in typed(page)]
        wrong += [
            f"{page.name}: {line} begins a line, where Markdown starts an HTML block" for line in BEGINS.findall(text)
        ]
        if check:
            pairs = zip(MARKED.findall(text), MARKED.findall(new), strict=True)
            wrong += [f"{page.name}: {old[1]} should be {now[1]} ({now[0]})" for old, now in pairs if old != now]
        elif new != text:
            page.write_text(new, encoding="utf-8")
    speeds = measured_speeds()
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *NOTEBOOKS):
        wrong += strongest_missing(page, speeds)
    wrong += [*not_in_readme(), *not_in_notebooks(ROOT / "notebooks" / "README.md"), *stale()]
    if wrong:
        sys.exit("\n".join((*wrong, "run: python tools/prose.py")))


if __name__ == "__main__":
    main()
