"""Keep measured runs in the repository: `add RUN` copies a run's small files, `readme` writes the README's tables.

    python tools/results.py add runs/notebook-resnet34-001 [degradation/plain20]
    python tools/results.py readme            (--check: fail if the README is out of date)

RUN may be the folder of a series (`resnetlab train --seeds 5`): the small files of its first run are kept, and the
summary of all. Figures in the README are never typed: they are written between two markers, and a test runs
`readme --check`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetlab.evaluation.intervals import wilson
from resnetlab.runs import recipes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.nets import NETS  # noqa: E402 - a package of the repository, which is not installed
from benchmarks.page import ENOUGH, capabilities, strongest  # noqa: E402
from benchmarks.pictures import number  # noqa: E402
from benchmarks.results import entries  # noqa: E402
from benchmarks.training import BARE, PLAIN, PLAIN_FAST  # noqa: E402

RESULTS, README = ROOT / "results", ROOT / "README.md"
SPEEDS = ROOT / "benchmarks" / "results"
KEPT = (
    "config.json",
    "environment.json",
    "metrics.csv",
    "curves.png",
    "evaluation/val/metrics.json",
    "evaluation/test/metrics.json",
    "evaluation/test/confusion_matrix.png",
    "evaluation/test/samples.png",
    "evaluation/test/mistakes.png",
)
SUMMARY = "summary.json"  # of a series
WEIGHTS = "best.safetensors"
WITH_WEIGHTS = ("degradation/plain56", "degradation/resnet56")


def add(run: Path, name: str = "") -> None:
    """Copy the small files of a finished run or series to `results/<recipe>` or `results/<name>`, replacing older ones.

    A run whose name has a slash is part of an experiment and is copied without figures of single images. Two small
    networks that a notebook uses are copied with their weights.
    """
    summary = json.loads((run / SUMMARY).read_text()) if (run / SUMMARY).exists() else None
    if summary and len(summary["runs"]) < len(summary["seeds"]):
        sys.exit(f"{run} is not finished: {len(summary['runs'])} of {len(summary['seeds'])} runs are scored")
    source = run / summary["runs"][0]["folder"] if summary else run
    if not (source / "config.json").exists():
        sys.exit(f"{run} is neither a run nor a series: file not found: config.json")
    config = json.loads((source / "config.json").read_text())
    target = RESULTS / (name or config["recipe"])
    kept = [file for file in KEPT if "/" not in name or file.endswith((".json", ".csv")) or file == "curves.png"]
    kept += [WEIGHTS] * (name in WITH_WEIGHTS)
    if missing := [file for file in kept if not (source / file).exists()]:
        sys.exit(f"{source} is not finished: file not found: {missing[0]}")
    shutil.rmtree(target, ignore_errors=True)
    for file in kept:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    write(target / "config.json", without_folders(config))
    if summary:
        write(target / SUMMARY, {**summary, "config": without_folders(summary["config"])})
    environment = json.loads((target / "environment.json").read_text())
    for session in (environment, *environment.get("resumed", ())):
        session["command"] = [Path(word).name for word in session["command"]]
    write(target / "environment.json", environment)


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the folders of this machine."""
    return {**config, "data": {**config["data"], "name": Path(config["data"]["name"]).name}}


def write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def row(folder: Path) -> str:
    """Line of the README's table for one run or series."""
    config, environment = read(folder / "config.json"), read(folder / "environment.json")
    scores = read(folder / "evaluation/test/metrics.json")
    test, val = scores["images"], read(folder / "evaluation/val/metrics.json")["images"]
    train = round(val / config["data"]["val_fraction"]) - val  # the rest of the data set's train/
    header, *epochs = (folder / "metrics.csv").read_text().split()
    if (folder / SUMMARY).exists():
        summary = read(folder / SUMMARY)
        accuracy, interval = over_seeds(summary["together"]["accuracy"])
        seeds = f"{len(summary['runs'])} seeds"
        seconds = summary["together"]["train_seconds"]["mean"]
    else:
        accuracy, interval = over_images(scores)
        seeds = "1 seed"
        seconds = sum(float(line.split(",")[header.split(",").index("train_seconds")]) for line in epochs)
    changed = "" if config["epochs"] == recipes.get(config["recipe"]).epochs else f" --epochs {config['epochs']}"
    cells = (
        f"`train {config['recipe']}{changed}`",
        config["model"]["name"],
        f"{train:,} / {val:,} / {test:,}",
        str(len(epochs)),
        accuracy,
        seeds,
        interval,
        f"{seconds / 60:.1f} min",
        f"{environment['device_name']} ({capabilities(environment)}), {environment['precision']}",
    )
    return f"| {' | '.join(cells)} |\n"


def over_images(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Accuracy of one run, and its 95 % interval (Wilson): other images of the same kind, not other seeds.

    >>> over_images({"accuracy": 0.9, "images": 5000})
    ('90.00%', 'over images: 89.1–90.8')
    """
    low, high = wilson(scores["accuracy"] * scores["images"], scores["images"])
    return f"{scores['accuracy']:.2%}", f"over images: {100 * low:.1f}–{100 * high:.1f}"


def over_seeds(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    """Mean and standard deviation over seeds, and the 95 % interval of the mean (Student): other seeds, same images.

    >>> over_seeds({"mean": 0.9, "std": 0.00114, "interval": [0.8986, 0.9014]})
    ('90.00% ± 0.11', 'over seeds: 89.9–90.1')
    """
    interval = accuracy["interval"]
    if interval is not None:
        told = "over seeds: {:.1f}–{:.1f}".format(*percents(interval))
    elif accuracy["std"]:
        told = "none: too few seeds"
    else:
        told = "none: all seeds are equal"
    return f"{accuracy['mean']:.2%} ± {100 * (accuracy['std'] or 0):.2f}", told


def percents(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def runs() -> str:
    """Table of the runs that are not part of an experiment."""
    head = ("command", "network", "images: train / validation / test", "epochs", "test accuracy", "seeds")
    head += ("95 % interval", "training time", "machine, number format")
    lines = [f"| {' | '.join(head)} |\n", f"|{'---|' * len(head)}\n"]
    return "".join([*lines, *map(row, sorted(path.parent for path in RESULTS.glob("*/config.json")))])


def speeds() -> str:
    """Table of training throughput, as stored by `python -m benchmarks training`: a row for each task and machine.

    It shows the strongest contender of the same rounds, whichever that is.
    """
    head = ("training, images/s", "resnetlab", "plain script, fp32", "strongest other", "rounds", "measured on")
    lines = [f"| {' | '.join(head)} |\n", "|---|---:|---:|---|---:|---|\n"]
    places = list(NETS)
    found = [group for entry in entries(SPEEDS, "training") for group in entry["groups"] if group["more_is_better"]]
    for group in sorted(found, key=lambda group: places.index(group["subject"])):
        ours, *others = group["contenders"]
        plain = next((row for row in others if row["name"] == PLAIN and "first_against_it" in row), None)
        best = strongest(group)
        if best is None:
            continue
        environment = group["environment"]
        cells = (
            group["title"],
            number(ours["median"]),
            "" if plain is None else against(plain),
            f"{best['name']}: {against(best)}",
            rounds(group),
            f"{environment['device_name']} ({capabilities(environment)}), {environment['started'][:10]}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines) + "\n" + contenders(found)


def rounds(group: Mapping[str, Any]) -> str:
    """Number of rounds that every contender has; fewer than three are marked.

    >>> rounds({"contenders": [{"values": [1.0]}]}), rounds({"contenders": [{"values": [1.0, 2.0, 3.0]}]})
    ('1 (too few)', '3')
    """
    count = min(len(row["values"]) for row in group["contenders"] if row["values"])
    return str(count) if count >= ENOUGH else f"{count} (too few)"


def contenders(groups: Sequence[Mapping[str, Any]]) -> str:
    """Line with the contenders of the table's rows; those that some rows lack, or all of them, are named as such."""
    rows = [{row["name"] for row in group["contenders"] if row["values"]} for group in groups]
    names = dict.fromkeys(row["name"] for group in groups for row in group["contenders"] if row["values"])
    everywhere = [name for name in names if all(name in row for row in rows)]
    elsewhere = [name for name in names if name not in everywhere]
    missing = [name for name in (PLAIN, PLAIN_FAST, *BARE) if name not in names]
    told = f"Contenders: {'; '.join(everywhere)}."
    told += f" In some rows only: {'; '.join(elsewhere)}." if elsewhere else ""
    return told + (f" Not measured yet: {'; '.join(missing)}." if missing else "") + "\n"


def against(found: dict[str, Any]) -> str:
    return f"{number(found['median'])} ({found['first_against_it']:.2f}×)"


def readme(*, check: bool) -> None:
    """Write the tables between their markers; with `check`, exit with an error if they are out of date."""
    text = written = README.read_text()
    for name, table in (("results", runs()), ("speed", speeds())):
        begin, end = f"<!-- {name}: written by tools/results.py -->\n", f"<!-- end of {name} -->\n"
        before, rest = written.split(begin)
        _, after = rest.split(end)
        written = f"{before}{begin}\n{table}\n{end}{after}"
    if check and written != text:
        sys.exit("the README's figures are out of date; run: python tools/results.py readme")
    README.write_text(written)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["add", run, *name]:
            add(Path(run), *name)
        case ["readme", *flags]:
            readme(check="--check" in flags)
        case _:
            sys.exit(__doc__)
