"""The notebooks say what the code and the stored runs say, and show what their sources hold."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from types import ModuleType

import jupytext
import pytest
from matplotlib.figure import Figure

from resnetlab.cli.arguments import TrainArguments
from resnetlab.cli.parsing import parse
from resnetlab.plots.style import rendered

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.py")) if path.stem != "helpers"]


@pytest.fixture
def prose(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import prose

    return prose


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import notebooks

    return notebooks


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["resnet18", "resnet34", "why_residuals"]


def test_every_figure_in_the_prose_is_that_of_the_code_or_of_a_stored_run(
    prose: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prose.py", "--check"])
    prose.main()  # leaves with a list of what is wrong


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_executed_notebooks_are_those_of_their_sources(notebooks: ModuleType, source: Path) -> None:
    assert notebooks.check(source, again=False) == []  # `make notebooks` compares the outputs, too


def test_every_notebook_begins_with_the_same_cell() -> None:
    first = {next(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code") for path in NOTEBOOKS}
    assert len(first) == 1


def test_the_first_cell_finds_the_repository(tmp_path: Path) -> None:
    """It asks for an address where there is no checkout, clones one, and goes into the folder of the notebooks."""
    code = next(cell.source for cell in jupytext.read(NOTEBOOKS[0]).cells if cell.cell_type == "code")

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"{code}\nprint(Path.cwd(), sys.path[0])"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    alone = run(code)
    assert alone.returncode == 1
    assert alone.stderr == "this notebook needs its repository: write its address into `repository` in this cell\n"
    origin = tmp_path / "origin"
    (origin / "notebooks").mkdir(parents=True)
    (origin / "notebooks" / "helpers.py").touch()
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "one")):
        subprocess.run(["git", *words], cwd=origin, check=True)
    for _ in range(2):  # the second time the clone is there
        found = run(code.replace('repository = ""', f'repository = "{origin.as_uri()}"'))
        folder = str(tmp_path / "resnetlab" / "notebooks")
        assert found.stdout.split() == [folder, folder], found.stderr


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_executed_notebooks_show_real_images_and_pictures(source: Path) -> None:
    shown = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert "cifar10-jpeg" in shown
    assert shown.count('"image/png"') >= 3
    assert "/root/" not in shown  # where it was made is nobody's business
    assert "/tmp/" not in shown
    assert len(shown) < 3_000_000  # it has to open in a browser


def test_a_wrong_figure_is_put_right_and_a_typed_one_is_told(prose: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(
        "# %% [markdown]\n"
        '# It has <!--= parameters("resnet20") -->1<!--/--> weights and 91.2 % of them are 45,000 times `12.5 %`.\n'
        "#\n"
        "# %%\n"
        "print('99.9 %')\n"
    )
    assert "-->269,722<!--/-->" in prose.filled(page.read_text())
    assert prose.typed(page) == ["91.2 %"]


def test_a_figure_that_begins_a_line_would_end_its_paragraph(prose: ModuleType) -> None:
    assert prose.BEGINS.findall("# It has\n# <!--= million('resnet18') -->1<!--/--> weights\n") == [
        "<!--= million('resnet18') -->"
    ]
    assert not prose.BEGINS.findall("# It has <!--= million('resnet18') -->1<!--/--> weights\n")


def test_a_cell_is_measured_if_it_depends_on_images_machine_or_time(notebooks: ModuleType) -> None:
    cells = [
        "import time\nfrom resnetlab import open_dataset\nSEED, size = 0, 32",
        "def double(x):\n    return 2 * x",
        "data = open_dataset('digits', image_size=size)\nprint(len(data.train), SEED)",
        "print(double(SEED))",  # a function and a constant stay as they are
        "print(size)",  # a variable that a measured cell has used may have changed
        "def images():\n    return data.train.images",
        "print(images().shape)",
        "data = [1, 2]\nprint(data)",  # another object with the same name
        "print(data, [data for data in (1, 2)])",
        "for images in (1, 2):\n    print(images)",  # assigned before it is read
        "began = time.perf_counter()",
        "print(time.strftime('%Y'), began)",
        "from time import perf_counter\nprint(perf_counter())",
    ]
    assert notebooks.measured(cells) == [bool(int(x)) for x in "0010111000111"]


def test_variables_of_comprehensions_are_not_the_notebooks(notebooks: ModuleType) -> None:
    assert notebooks.names_in("x = [{a: b for a, b in c} for c in d if E]") == ({"d", "E"}, {"x"})
    assert notebooks.names_in("y = {[z for z in w][0] for w in f(v)}") == ({"f", "v"}, {"y"})


def test_a_digest_covers_the_helpers_that_a_measured_cell_uses(
    notebooks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notebooks, "HOME", tmp_path)
    helpers = "WIDE = 3\n\ndef draw(data):\n    return line(data)\n\ndef line(data):\n    return WIDE * data\n"
    cells = ["from helpers import draw", "data = open_dataset()", "draw(data)", "draw(1)"]

    def digests(helpers: str) -> list[str]:
        (tmp_path / "helpers.py").write_text(helpers)
        notebooks.tree_of.cache_clear()
        return list(notebooks.digests(cells))

    first = digests(helpers)
    assert [bool(digest) for digest in first] == [False, False, True, False]
    assert digests(helpers + "\n\ndef other():\n    return 1\n") == first
    assert digests(helpers.replace("(data):", '(data):\n    """Draw a line."""')) == first
    assert digests(helpers.replace("WIDE = 3", "WIDE = 4")) != first
    drawing = "from resnetlab.plots.diagram import diagram_figure as line\n"
    assert digests(drawing + helpers.replace("def line", "def other")) != first
    notebooks.tree_of.cache_clear()


def test_a_digest_covers_the_code_that_draws_the_librarys_figures(notebooks: ModuleType) -> None:
    """The legend of the diagram is also drawn by another module, which the activations are drawn by."""
    covered = notebooks.closure({("resnetlab.plots.activations", "activations_figure")})
    assert ("resnetlab.plots.diagram", "SHORTCUT_LINES") in covered
    assert not any(module.startswith("resnetlab.models") for module, _ in covered)


def test_a_digest_covers_the_stored_run_that_a_measured_cell_names(
    notebooks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    run = tmp_path / "results" / "some-run"
    (run / "evaluation" / "test").mkdir(parents=True)
    for file in ("config.json", "metrics.csv", "evaluation/test/metrics.json"):
        (run / file).write_text("1")
    cells = ["data = open_dataset()", "print(data, load_run('some-run'))", "print(data, 'no-run')"]
    before = notebooks.digests(cells)
    assert [bool(digest) for digest in before] == [False, True, False]
    (run / "metrics.csv").write_text("2")
    assert notebooks.digests(cells)[1] != before[1]


@pytest.mark.slow
def test_check_finds_outputs_that_are_out_of_date(notebooks: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text(
        "# %%\nfrom IPython.display import Image, display\nfrom matplotlib.figure import Figure\n\n"
        "from resnetlab.plots.style import rendered\n\n"
        "# %%\nprint(1)\n\n"
        "# %%\ndisplay(Image(rendered(Figure(figsize=(1, 1)), 'png')))\n\n"
        "# %%\nfrom time import perf_counter\n\nprint(perf_counter() > 0, rendered.__name__)\n"
    )
    notebooks.run(source, tmp_path)
    file = source.with_suffix(".ipynb")
    executed = file.read_text()
    assert notebooks.check(source) == []
    stored = json.loads(executed)
    stored["cells"][1]["outputs"][0]["text"] = ["0\n"]
    grey = rendered(Figure(figsize=(1, 1), facecolor="grey"), "png")
    stored["cells"][2]["outputs"][0]["data"]["image/png"] = b64encode(grey).decode()
    stored["cells"][3]["metadata"]["digest"] = "of other code"
    file.write_text(json.dumps(stored))
    first, second, third = notebooks.check(source)
    assert first == (
        "small.ipynb: cell 2 ('print(1)') prints or draws something else now; run: python tools/notebooks.py run small"
    )
    assert "cell 3" in second
    assert "cell 4 ('from time import perf_counter') uses code or stored runs that have changed since" in third
    stored["metadata"]["made_with"] = "matplotlib 3.0"  # pictures and digests of another version are not compared
    file.write_text(json.dumps(stored))
    assert notebooks.check(source) == [first]


@pytest.mark.slow
def test_sync_copies_text_and_imports_and_refuses_other_code(notebooks: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text("# %% [markdown]\n# One.\n\n# %%\nimport os\ndef one():\n    return 1\n\nprint(one())\n")
    notebooks.run(source, tmp_path)
    assert notebooks.check(source) == []
    source.write_text(
        "# %% [markdown]\n# Two.\n\n# %%\nimport sys  # another\nfrom os import path\n"
        'def one():\n    """The first number."""\n    return 1\n\nprint(one())\n'
    )
    assert notebooks.check(source)
    notebooks.sync(source)
    assert notebooks.check(source) == []
    synced = source.with_suffix(".ipynb").read_text()
    assert "Two." in synced
    assert "from os import path" in synced
    assert "The first number." in synced
    assert '"1\\n"' in synced  # the output
    source.write_text("# %% [markdown]\n# Three.\n\n# %%\nimport sys\n\nprint(2)\n")
    with pytest.raises(SystemExit, match="code of cell 2 has changed"):
        notebooks.sync(source)
    assert "Three." not in source.with_suffix(".ipynb").read_text()
    source.write_text("# %%\nprint(1)\n")
    with pytest.raises(SystemExit, match="other cells"):
        notebooks.sync(source)


def test_code_and_generated_tables_have_figures_of_their_own(prose: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "Twice 1.41× as fast.\n\n    resnetlab train --lr 0.125\n    # 99.5 %\n\n```python\nx = 0.25  # 12.5 %\n```\n\n"
        "<!-- speed: written by tools/results.py -->\n| a | 1,391 |\n<!-- end of speed -->\nOn 7 GB, in 3 minutes.\n"
    )
    assert prose.typed(page) == ["1.41×", "7 GB", "3 minutes"]


def test_a_speed_table_without_the_strongest_contender_is_found(prose: ModuleType, tmp_path: Path) -> None:
    rows = [{"name": "resnetlab", "median": 715.0, "values": [715.0]}]
    rows += [
        {"name": name, "median": median, "first_against_it": 715 / median, "values": [median]}
        for name, median in (("plain script", 263.0), ("plain script, bf16", 508.0), ("timm, fast", 399.0))
    ]
    group = {"title": "ResNet-56", "unit": "images/s", "more_is_better": True, "contenders": rows}
    group["environment"] = {"device_name": "AMD EPYC"}
    page = tmp_path / "README.md"
    page.write_text("| ResNet-56 | 715 | timm, fast: 399 (1.79×) | AMD EPYC |\n")
    missing = ["README.md: the row 'ResNet-56' lacks plain script, bf16, 508 images/s"]
    assert prose.strongest_missing(page, [group]) == missing
    page.write_text("| ResNet-56 | 715 | plain script, bf16: 508 (1.41×) | AMD EPYC |\n")
    assert prose.strongest_missing(page, [group]) == []
    page.write_text("### ResNet-56\n\n| resnetlab | 715 |\n| timm, fast | 399 | 1.79× |\n")
    assert prose.strongest_missing(page, [group]) == [missing[0].replace("row", "table")]
    page.write_text("### ResNet-56\n\n| resnetlab | 715 |\n| plain script, bf16 | 508 | 1.41× |\n")
    assert prose.strongest_missing(page, [group]) == []
    assert {group["unit"] for group in prose.measured_speeds()} >= {"images/s", "requests/s"}


def test_a_stored_run_that_the_table_of_the_notebooks_lacks_is_found(prose: ModuleType, tmp_path: Path) -> None:
    text = (ROOT / "notebooks" / "README.md").read_text()
    page = tmp_path / "README.md"
    page.write_text(text.replace("| `shortcuts/A` |", "| |"))
    assert prose.not_in_notebooks(page) == [f"{page}: `shortcuts/A` is stored and is not shown"]


def test_a_generated_page_that_was_edited_is_found(
    prose: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ablation

    from benchmarks import __main__ as benchmarks

    assert prose.stale() == []
    edited = tmp_path / "cifar10-fast.md"
    edited.write_text(ablation.PAGE.read_text().replace("Muon", "Adam"))
    monkeypatch.setattr(ablation, "PAGE", edited)
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {**benchmarks.BENCHMARKS, "rounding": "another sentence"})
    assert prose.stale() == [
        "cifar10-fast.md is out of date; run: python tools/ablation.py",
        "benchmarks.md is out of date; run: python -m benchmarks table",
    ]


def test_figures_of_stored_runs_are_read_from_their_files(prose: ModuleType) -> None:
    config, rows, test = prose.run("notebook-resnet34")
    assert config["epochs"] == len(rows) == prose.epochs("notebook-resnet34")
    assert prose.test("notebook-resnet34") == f"{100 * test['accuracy']:.1f} %"
    best = max(row["val_accuracy"] for row in rows)
    assert prose.validation("notebook-resnet34") == f"{100 * best:.1f} %"
    assert prose.points("notebook-resnet34", "notebook-resnet34") == "+0.0"


def test_the_classic_run_is_as_good_as_the_tutorials(prose: ModuleType) -> None:
    """A plain script scores 73.0 % on all 10,000 test images; the lower end allows for the half at hand and a seed."""
    assert prose.run("notebook-resnet34")[2]["accuracy"] >= 0.715


def test_every_stored_experiment_is_the_command_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from experiments import EXPERIMENTS, missing

    for name, words in EXPERIMENTS.items():
        if not (ROOT / "results" / name / "config.json").exists():
            assert name in missing()
            continue
        asked = parse(TrainArguments, words.split(), "train").run_config().to_json()
        stored = json.loads((ROOT / "results" / name / "config.json").read_text())
        for section in ("model", "augment", "optim", "schedule"):
            for key, value in stored[section].items():
                assert asked[section][key] == value, f"{name}: {section}.{key}"
        for key in ("epochs", "steps", "batch_size", "seed", "label_smoothing"):
            assert asked[key] == stored[key], f"{name}: {key}"
