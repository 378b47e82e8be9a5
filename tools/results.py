"""Keep measured runs in the repository: `add RUN` copies a run's small files, `readme` writes the README's tables.

    python tools/results.py add runs/notebook-resnet34-001 [degradation/plain20]
    python tools/results.py readme            (--check: fail if the README is out of date)

Figures in the README are never typed: they are written between two markers, and a test runs `readme --check`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from resnetlab.runs import recipes

ROOT = Path(__file__).parents[1]
RESULTS, README = ROOT / "results", ROOT / "README.md"
SPEEDS = ROOT / "benchmarks" / "results" / "training.json"
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
WEIGHTS = "best.safetensors"
WITH_WEIGHTS = ("degradation/plain56", "degradation/resnet56")


def add(run: Path, name: str = "") -> None:
    """Copy the small files of a finished run to `results/<recipe>` or `results/<name>`, replacing an older copy.

    A run with a name is part of an experiment and is copied without figures of single images. Two small networks that
    a notebook uses are copied with their weights.
    """
    config = json.loads((run / "config.json").read_text())
    target = RESULTS / (name or config["recipe"])
    kept = [file for file in KEPT if "/" not in name or file.endswith((".json", ".csv")) or file == "curves.png"]
    kept += [WEIGHTS] * (name in WITH_WEIGHTS)
    if missing := [file for file in kept if not (run / file).exists()]:
        sys.exit(f"{run} is not finished: file not found: {missing[0]}")
    shutil.rmtree(target, ignore_errors=True)
    for file in kept:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / file, target / file)
    config["data"]["name"] = Path(config["data"]["name"]).name  # without the folders of this machine
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    environment = json.loads((target / "environment.json").read_text())
    environment["command"] = [Path(word).name for word in environment["command"]]
    (target / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


def row(folder: Path) -> str:
    """Line of the README's table for one run."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    test = json.loads((folder / "evaluation/test/metrics.json").read_text())
    header, *lines = (folder / "metrics.csv").read_text().split()
    seconds = [float(line.split(",")[header.split(",").index("train_seconds")]) for line in lines]
    recipe = recipes.get(config["recipe"])
    changed = "" if config["epochs"] == recipe.epochs else f" --epochs {len(lines)}"
    cells = (
        f"`train {config['recipe']}{changed}`",
        config["model"]["name"],
        {"cifar10-jpeg": "CIFAR-10 (JPEG copy)"}.get(config["data"]["name"], config["data"]["name"]),
        str(len(lines)),
        f"{test['accuracy']:.2%} of {test['images']:,}",
        f"{sum(seconds) / 60:.1f} min",
        f"{environment['device_name']}, {environment['precision']}, seed {config['seed']}",
    )
    return f"| {' | '.join(cells)} |\n"


def runs() -> str:
    """Table of the runs that are not part of an experiment."""
    head = "| command | network | data | epochs | test accuracy | training time | on |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(map(row, sorted(path.parent for path in RESULTS.glob("*/config.json"))))


def speeds() -> str:
    """Table of training throughput, as stored by `python -m benchmarks training`."""
    lines = ["| training, images/s | resnetlab | plain script | the fastest package | on |\n|---|---:|---:|---:|---|\n"]
    for group in json.loads(SPEEDS.read_text())["groups"]:
        ours, *others = group["contenders"]
        measured = [found for found in others if found.get("first_against_it")]
        packages = [found for found in measured if not found["name"].startswith("plain")]
        if group["unit"] == "images/s" and packages:
            plain = next(found for found in measured if found["name"] == "plain script")
            best = min(packages, key=lambda found: found["first_against_it"])
            machine = group["environment"]["device_name"].split(",")[0]
            cells = (group["title"], rate(ours), against(plain), f"{best['name']} {against(best)}", machine)
            lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def against(found: dict[str, Any]) -> str:
    return f"{rate(found)} ({found['first_against_it']:.2f}×)"


def rate(found: dict[str, Any]) -> str:
    return f"{found['median']:,.{0 if found['median'] >= 30 else 1}f}"


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
