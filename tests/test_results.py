"""The README's figures are those of the stored runs."""

from __future__ import annotations

import doctest
import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.stats import binomtest

import resnetlab
from resnetlab.evaluation.intervals import Repeats

ROOT = Path(__file__).parents[1]


def test_the_readme_says_what_the_stored_runs_say() -> None:
    script = ROOT / "tools" / "results.py"
    done = subprocess.run([sys.executable, script, "readme", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_module_of_the_package_and_none_that_is_not_there() -> None:
    tree = (ROOT / "README.md").read_text().split("```")
    listed = {word for line in tree[-2].splitlines() for word in line.split() if word.endswith((".py", "/"))}
    source = ROOT / "src" / "resnetlab"
    there = {p.name + ("/" if p.is_dir() else "") for p in source.iterdir() if p.suffix == ".py" or p.is_dir()}
    there -= {"__pycache__/", "__main__.py"}
    assert there <= listed
    for name in listed:
        assert (source / name).exists() or (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_python_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, shortened to a few steps."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("picture.png")
    short = resnetlab.recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 2, "final_test": "never"})
    monkeypatch.setattr(resnetlab.recipes, "quickstart", lambda: short)
    examples = [part.split("```")[0] for part in (ROOT / "README.md").read_text().split("```python\n")[1:]]
    examples = [example for example in examples if example.startswith("import resnetlab\n")]
    assert len(examples) == 3
    for example in examples:
        names: dict[str, object] = {}
        exec(example.replace("epochs=5", "steps=2"), names)
    assert {path.name for path in Path("runs").iterdir() if path.is_dir()} == {"digits", "mine"}


def test_the_code_that_the_readme_shows_is_the_code() -> None:
    shown = next(part for part in (ROOT / "README.md").read_text().split("```python\n") if "def forward" in part)
    head, *body = shown.split("```")[0].rstrip().splitlines()
    code = (ROOT / "src" / "resnetlab" / head.partition("resnetlab/")[2]).read_text().splitlines()
    lines = [line.strip() for line in code]
    start = lines.index(body[0].strip())
    assert lines[start : start + len(body)] == [line.strip() for line in body]


def test_results_of_a_series_have_the_mean_and_the_interval_of_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import results

    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    stored = ROOT / "results" / "cifar10-fast"
    series = tmp_path / "series"
    for seed in (0, 1):
        shutil.copytree(stored, series / f"seed-{seed}")
        (series / f"seed-{seed}" / "best.safetensors").touch()
        for figure in ("confusion_matrix", "samples", "mistakes"):
            (series / f"seed-{seed}" / "evaluation" / "test" / f"{figure}.png").touch()
    accuracies = [0.89, 0.91]
    config = json.loads((stored / "config.json").read_text())
    config["data"]["name"] = "/home/somebody/cifar10-jpeg"
    runs = [
        {"seed": seed, "folder": f"seed-{seed}", "accuracy": value, "images": 5000}
        for seed, value in enumerate(accuracies)
    ]
    together = {"accuracy": asdict(Repeats.of(accuracies)), "train_seconds": asdict(Repeats.of([60.0, 180.0]))}
    summary = {"config": config, "seeds": [0, 1, 2], "split": "test", "runs": runs, "together": together}
    (series / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(SystemExit, match="2 of 3 runs are scored"):
        results.add(series)
    (series / "summary.json").write_text(json.dumps({**summary, "seeds": [0, 1]}))
    results.add(series)
    line = results.row(tmp_path / "results" / "cifar10-fast")
    assert "| 90.00% ± 1.41 | 2 seeds | none: too few seeds | 2.0 min |" in line
    assert "| 49,000 / 1,000 / 5,000 |" in line
    file = tmp_path / "results" / "cifar10-fast" / "environment.json"
    environment: dict[str, Any] = {"device_name": "a machine, 2 cores", "precision": "bf16"}
    for told in ("bf16, AMX not recorded", "bf16 and AMX"):
        file.write_text(json.dumps(environment))
        environment |= {"bf16": True, "amx": True}
        assert results.row(file.parent).endswith(f"| a machine, 2 cores ({told}), bf16 |\n")
    assert results.over_seeds(asdict(Repeats.of([0.89, 0.9, 0.91]))) == ("90.00% ± 1.00", "over seeds: 87.5–92.5")
    assert results.over_seeds(asdict(Repeats.of([0.9, 0.9, 0.9]))) == ("90.00% ± 0.00", "none: all seeds are equal")
    assert "somebody" not in (tmp_path / "results" / "cifar10-fast" / "summary.json").read_text()


def test_one_run_is_called_one_seed_with_the_interval_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import results

    scores = json.loads((ROOT / "results/notebook-resnet34/evaluation/test/metrics.json").read_text())
    low, high = proportion_confint(scores)
    accuracy, interval = results.over_images(scores)
    assert accuracy == f"{scores['accuracy']:.2%}"
    assert interval == f"over images: {low:.1f}–{high:.1f}"


def proportion_confint(scores: dict[str, float]) -> tuple[float, float]:
    """SciPy's Wilson interval, in percent."""
    correct = round(scores["accuracy"] * scores["images"])
    found = binomtest(correct, int(scores["images"])).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high


@pytest.mark.parametrize("tool", ["results", "experiments"])
def test_the_examples_of_the_tools_run(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    done = doctest.testmod(importlib.import_module(tool))
    assert done.attempted
    assert not done.failed


@pytest.mark.slow
def test_experiments_are_trained_from_the_cheapest_on_and_stored_ones_only_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import experiments

    def listed(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["experiments.py", *words, "--list"])
        experiments.main()
        return [line.split("--out ")[1].removeprefix("runs/") for line in capsys.readouterr().out.splitlines()]

    assert listed("degradation/plain56", "degradation/plain20", "shortcuts/A")[:2] == [
        "shortcuts/A",
        "degradation/plain20",
    ]
    assert listed() == sorted(experiments.missing(), key=experiments.work)
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    assert len(listed()) == len(experiments.EXPERIMENTS)
    assert not experiments.is_stored("cifar10-fast")
    (tmp_path / "cifar10-fast").mkdir()
    (tmp_path / "cifar10-fast" / "config.json").touch()
    (tmp_path / "cifar10-fast" / "summary.json").write_text(json.dumps({"runs": [{}] * 4}))
    assert not experiments.is_stored("cifar10-fast")  # four of its five seeds


@pytest.mark.parametrize("recipe", ["cifar10-fast", "cifar10-resnet18", "notebook-resnet34"])
def test_a_recipe_is_described_with_the_accuracy_of_its_stored_run(recipe: str) -> None:
    stored = ROOT / "results" / recipe
    accuracy = json.loads((stored / "evaluation/test/metrics.json").read_text())["accuracy"]
    if (stored / "summary.json").exists():
        accuracy = json.loads((stored / "summary.json").read_text())["together"]["accuracy"]["mean"]
    assert f"{100 * accuracy:.2f}" in (resnetlab.recipes.RECIPES[recipe].__doc__ or "")


def test_the_times_and_the_compared_accuracy_of_the_recipes_are_those_of_the_stored_results() -> None:
    fast, usual = (" ".join(resnetlab.recipes.description(name)) for name in ("cifar10-fast", "cifar10-resnet18"))
    benchmarks = ROOT / "benchmarks" / "results"
    seconds, accuracies, _ = (
        group["contenders"][0]["values"]
        for group in json.loads((benchmarks / "to_accuracy.json").read_text())["machines"][0]["groups"]
    )
    assert ", ".join(f"{value:.2f}" for value in accuracies[:-1]) + f" and {accuracies[-1]:.2f} %" in fast
    assert f"{min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes" in fast
    header, *rows = (ROOT / "results/cifar10-resnet18/metrics.csv").read_text().split()
    times = [float(row.split(",")[header.split(",").index("train_seconds")]) for row in rows]
    assert f"{sum(times) / 60:.1f} minutes" in usual
    script = json.loads((benchmarks / "beside_script.json").read_text())["machines"][0]
    assert f"{script['script_test_accuracy']:.2%}".replace("%", " %") in usual
    assert round(1 / script["share_of_time"]) == 10
    assert "ten times as long" in usual


def test_the_speed_table_has_a_row_for_every_machine_with_the_strongest_contender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import results

    def entry(device: str, amx: bool, speeds: dict[str, float]) -> dict[str, Any]:
        ours = speeds["resnetlab"]
        rows = [{"name": name, "median": x, "values": [x] * 3} for name, x in speeds.items()]
        rows = [
            row if row["name"] == "resnetlab" else {**row, "first_against_it": ours / row["median"]} for row in rows
        ]
        environment = {"device_name": device, "bf16": True, "amx": amx, "started": "2026-11-28T20:00:00+00:00"}
        group = {"subject": "resnet56", "title": "ResNet-56", "more_is_better": True, "contenders": rows}
        return {"groups": [{**group, "environment": environment}]}

    stored = [
        entry("AMD EPYC", False, {"resnetlab": 715, "plain script": 263, "plain script, bf16": 508, "timm, fast": 399}),
        entry("Intel Xeon", True, {"resnetlab": 900, "plain script": 300, "bare loop, bf16": 950}),
    ]
    stored[1]["groups"][0]["contenders"][2]["values"] = [1.0, 1.0]  # two rounds
    monkeypatch.setattr(results, "entries", lambda *_: stored)
    head, line, first, second, *_, last = results.speeds().splitlines()
    assert head.count("|") == line.count("|") == first.count("|") == second.count("|")
    assert first == (
        "| ResNet-56 | 715 | 263 (2.72×) | plain script, bf16: 508 (1.41×) | 3 | AMD EPYC (bf16, no AMX), 2026-11-28 |"
    )
    assert "| bare loop, bf16: 950 (0.95×) | 2 (too few) | Intel Xeon (bf16 and AMX), 2026-11-28 |" in second
    assert last == (
        "Contenders: resnetlab; plain script. In some rows only: plain script, bf16; timm, fast; bare loop, bf16. "
        "Not measured yet: bare loop, fp32; bare loop, bf16, compiled."
    )
