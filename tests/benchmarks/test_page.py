"""What is stored becomes tables, pictures and pages; nothing in them is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.options import Options
from benchmarks.rounds import Outcome, group, spread

from benchmarks import __main__ as command
from benchmarks import accelerate, floor_page, page, pictures, results, scaling, scaling_page, training
from resnetlab.errors import BadInput

MACHINE = {
    "device_name": "a machine, 2 cores",
    "threads": 2,
    "cpu_capability": "AVX512",
    "bf16": True,
    "amx": False,
    "commit": "abc1234",
    "torch": "2.15.0",
    "python": "3.11.7",
    "started": "2026-11-20T13:00:00+00:00",
}
HEADER = (137, 80, 78, 71)  # of a PNG


def sample(subject: str = "resnet18", speed: float = 200.0) -> dict[str, Any]:
    outcomes = {
        "resnetlab": Outcome([{"x": speed}, {"x": speed + 4}, {"x": speed - 2}]),
        "plain script": Outcome([{"x": 60.0, "notes": ["fp32"]}, {"x": 61.0, "notes": ["fp32"]}, {"x": 59.0}]),
        "timm, fast": Outcome([], "g++ was not found"),
    }
    found = group(subject, f"a net called {subject}", "images/s", outcomes, lambda s: s["x"], more_is_better=True)
    return {"groups": [{**found, "environment": MACHINE}], "samples": {subject: {}}}


def points() -> dict[str, Any]:
    """Stored curves: the last batch size is twice as dear for its work."""
    curves: dict[str, Any] = {}
    for name, curve in scaling.CURVES.items():
        found = []
        for place, value in enumerate(curve.values):
            work = 1000 * 2**place
            seconds = work / 1e4 * (2 if place == 0 else 1)
            found.append(
                {
                    "at": str(value),
                    "work": work,
                    "seconds": {"median": seconds, "lowest": seconds * 0.9, "highest": seconds * 1.1},
                    "images_per_second": {"median": work / seconds},
                    "peak_bytes": {"median": 1e9 + 1e5 * work},
                    "epoch_seconds": {"median": 0.01},
                    "median_step_seconds": {"median": 0.002},
                }
            )
        scaling.judge(found)
        curves[name] = {"title": curve.title, "points": found}
    return {"curves": curves, "page": "docs/scaling.md", "environment": MACHINE}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of results of its own for the command."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "PAGE", tmp_path / "docs" / "benchmarks.md")
    return tmp_path


def test_the_page_says_what_is_stored(kept: Path) -> None:
    results.store(kept / "results", "training", sample(), MACHINE)
    assert command.main(["table"]) == 0
    text = (kept / "docs" / "benchmarks.md").read_text()
    assert "| resnetlab | 200 | 198 – 204 |  |" in text
    assert "| plain script | 60 | 59 – 61 | 3.34× |" in text
    assert "- plain script: fp32" in text
    assert "- timm, fast: failed. g++ was not found" in text
    assert "a machine, 2 cores (bf16, no AMX), 2 threads, AVX512, torch 2.15.0, Python 3.11.7, commit abc1234" in text
    assert "2026-11-20. Medians of 3 rounds.\n" in text
    assert "(../results/training-resnet18-a-machine-2-cores-2-threads.png)" in text
    assert (kept / "results" / "training-resnet18-a-machine-2-cores-2-threads.png").exists()


def test_a_single_round_is_not_called_a_median() -> None:
    outcomes = {"resnetlab": Outcome([{"x": 6.0}]), "plain script": Outcome([{"x": 2.0}])}
    found = group("a", "a net", "images/s", outcomes, lambda s: s["x"], more_is_better=True)
    entry = {"environment": MACHINE, "groups": [{**found, "environment": MACHINE}]}
    text = "\n".join(page.section("training", [entry], "about", Path("results")))
    assert "One round, which is too few." in text
    assert "edian" not in text
    assert "lowest" not in text
    assert "| plain script | 2 | 3× |" in text


def test_every_machine_has_its_table_and_is_replaced_alone(kept: Path) -> None:
    other = {**MACHINE, "device_name": "another machine, 2 cores", "amx": True}
    folder = kept / "results"
    results.store(folder, "training", sample(speed=200.0), MACHINE)
    results.store(folder, "training", sample(speed=400.0), other)
    results.store(folder, "training", sample(speed=300.0), MACHINE)
    found = results.entries(folder, "training")
    assert [results.machine_of(entry["environment"]) for entry in found] == [
        "a machine, 2 cores, 2 threads",
        "another machine, 2 cores, 2 threads",
    ]
    assert [entry["groups"][0]["contenders"][0]["median"] for entry in found] == [300.0, 400.0]
    assert command.main(["table"]) == 0
    text = (kept / "docs" / "benchmarks.md").read_text()
    assert text.count("### a net called resnet18") == 1
    assert "another machine, 2 cores (bf16 and AMX)" in text
    assert "| resnetlab | 300 |" in text
    assert "| resnetlab | 400 |" in text
    assert len(list(folder.glob("*.png"))) == 2


def test_rows_of_a_machine_or_before_a_date_are_forgotten_with_one_command(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**MACHINE, "device_name": "another machine, 2 cores", "started": "2026-12-24T13:00:00+00:00"}
    folder = kept / "results"
    for machine in (MACHINE, other):
        results.store(folder, "training", sample("resnet18"), machine)
        results.store(folder, "training", sample("resnet20"), machine)
    assert command.main(["table"]) == 0
    for words, said in (
        (["forget"], "forget needs --machine TEXT"),
        (["forget", "--before", "yesterday"], "give a date as YYYY-MM-DD"),
        (["forget", "trainig", "--before", "2026-12-01"], "unknown benchmark 'trainig'"),
        (["forget", "--machine", "a third"], "no stored row matches"),
        (["training", "--machine", "a third"], "choose what `python -m benchmarks forget` removes"),
    ):
        assert command.main(words) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert command.main(["forget", "training", "--before", "2026-12-01"]) == 0
    assert "removed training on a machine, 2 cores, 2 threads: a net called resnet20" in capsys.readouterr().err
    (entry,) = results.entries(folder, "training")
    assert results.machine_of(entry["environment"]).startswith("another")
    assert "a machine" not in (kept / "docs" / "benchmarks.md").read_text()
    assert len(list(folder.glob("*.png"))) == 2
    assert command.main(["forget", "--machine", "another"]) == 0
    assert list(folder.iterdir()) == []


def test_the_strongest_contender_is_the_one_with_the_lowest_factor() -> None:
    outcomes = {name: Outcome([{"x": x}]) for name, x in (("ours", 8.0), ("plain", 2.0), ("bf16", 5.0), ("timm", 4.0))}
    rows = group("a", "a net", "images/s", outcomes, lambda s: s["x"], more_is_better=True)
    assert page.strongest(rows)["name"] == "bf16"
    costs = group("a", "a net", "seconds", outcomes, lambda s: s["x"], more_is_better=False)
    assert page.strongest(costs)["name"] == "plain"
    assert (
        page.strongest(group("a", "a", "s", {"ours": Outcome([{"x": 1.0}])}, lambda s: 1.0, more_is_better=True))
        is None
    )


def test_a_page_that_says_anything_else_is_found(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.store(kept / "results", "training", sample(), MACHINE)
    assert command.main(["table"]) == 0
    assert command.main(["table", "--check"]) == 0
    file = kept / "results" / "training.json"
    file.write_text(file.read_text().replace("200.0", "201.0"))
    assert command.main(["table", "--check"]) == 2
    assert "run: python -m benchmarks table" in " ".join(capsys.readouterr().err.split())


def test_a_result_that_cannot_be_read_is_told_in_a_sentence(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kept / "results" / "training.json").write_text("{")
    assert command.main(["table"]) == 2
    assert "cannot be read as a result" in " ".join(capsys.readouterr().err.split())


def test_measuring_one_subject_again_leaves_the_others(tmp_path: Path) -> None:
    results.store(tmp_path, "training", sample("resnet18"), MACHINE)
    results.store(tmp_path, "training", sample("resnet20", 900.0), MACHINE)
    again = {**MACHINE, "started": "2026-12-24T13:00:00+00:00"}
    (entry,) = results.store(tmp_path, "training", sample("resnet18", 250.0), again)
    assert [found["subject"] for found in entry["groups"]] == ["resnet18", "resnet20"]
    assert [found["contenders"][0]["median"] for found in entry["groups"]] == [250.0, 900.0]
    assert [found["environment"]["started"][:10] for found in entry["groups"]] == ["2026-12-24", "2026-11-20"]
    assert set(entry["samples"]) == {"resnet18", "resnet20"}
    assert json.loads((tmp_path / "training.json").read_text()) == {"benchmark": "training", "machines": [entry]}


def test_every_subject_gets_a_picture_and_the_same_result_the_same_one(tmp_path: Path) -> None:
    entry = {"environment": MACHINE, "groups": [{**sample()["groups"][0], "environment": MACHINE}]}
    found = pictures.draw("training", entry, tmp_path)
    first = found["resnet18"].read_bytes()
    assert tuple(first[:4]) == HEADER
    pictures.draw("training", entry, tmp_path)
    assert found["resnet18"].read_bytes() == first


@pytest.mark.slow
def test_the_scaling_page_names_the_points_above_the_proportional_line(tmp_path: Path) -> None:
    result = points()
    text = scaling_page.page([result], Path("pictures"), bent=scaling.BENT)
    assert "Proportional: 16, 32, 64, 128, 256, 512. Above: 8." in text
    assert "Memory: " in text
    for line in text.splitlines():
        assert line.count("|") in {0, 6, 8}, line
    scaling.draw(result, tmp_path / "scaling.png")
    assert tuple((tmp_path / "scaling.png").read_bytes()[:4]) == HEADER


def test_a_point_that_failed_stays_on_the_page() -> None:
    result = points()
    result["curves"]["images"]["points"][-1] = {"at": "1000000", "failed": "not enough memory"}
    text = scaling_page.page([result], Path("pictures"), bent=scaling.BENT)
    assert "| 1,000,000 | not enough memory |" in text


def test_the_floor_page_has_a_line_for_every_network_and_its_share(tmp_path: Path) -> None:
    ours = {"name": "resnetlab", "values": [30.0, 50.0], **spread([30.0, 50.0])}
    alone = {"name": "its convolutions alone", "values": [80.0], **spread([80.0]), "first_against_it": 0.5}
    groups = [{"subject": name, "title": f"{name}, 32 px", "contenders": [ours, alone]} for name in ("a", "b")]
    result = {"environment": MACHINE, "groups": groups, "page": "docs/floor.md"}
    text = floor_page.page([result], Path("pictures"))
    assert "| b, 32 px | 0.50 | 40 | 30 – 50 | 80 | 80 – 80 |" in text
    assert "a machine, 2 cores, bf16, no AMX" in text
    floor_page.draw(result, tmp_path / "floor.png")
    assert tuple((tmp_path / "floor.png").read_bytes()[:4]) == HEADER
    assert "(floor.md)" in page.page({"floor": [result]}, command.BENCHMARKS, Path("results"))


def test_the_page_of_accelerate_has_a_line_for_every_network() -> None:
    loops = {accelerate.ACCELERATED: [30.0, 50.0], accelerate.BF16: [20.0, 20.0], accelerate.FP32: [10.0, 10.0]}
    rows = [{"name": name, "values": v, **spread(v), "first_against_it": 40 / v[0]} for name, v in loops.items()]
    group = {"subject": "a", "title": "torchvision a, 32 px", "contenders": rows}
    text = accelerate.write([{"environment": MACHINE, "groups": [group]}], Path("pictures"))
    assert "| a, 32 px | 10 | 20 | 40 | 30 – 50 | 2.00 | 4.00 |" in text
    assert "of 2 rounds" in text
    assert "(pictures/accelerate-a-a-machine-2-cores-2-threads.png)" in text


def test_the_stored_results_are_those_of_the_pages() -> None:
    command.write_page(check=True)


def test_every_result_has_its_section() -> None:
    floor = {"environment": MACHINE, "page": "docs/floor.md"}
    text = page.page({"training": [sample()], "floor": [floor]}, command.BENCHMARKS, Path("results"))
    assert "## training" in text
    assert "## floor" in text


def options(tmp_path: Path, **fields: Any) -> Options:
    return Options(**{"rounds": 3, "scratch": tmp_path, "say": lambda _: None, "environment": MACHINE, **fields})


def test_a_resumed_benchmark_skips_what_this_machine_and_commit_have(tmp_path: Path) -> None:
    stored = results.store(tmp_path, "training", sample("resnet18"), MACHINE)
    nets = ("resnet18", "resnet20")
    assert options(tmp_path, stored=stored).left(nets) == ["resnet18", "resnet20"]  # without --resume
    assert options(tmp_path, stored=stored, resume=True).left(nets) == ["resnet20"]
    for changed in (
        {"rounds": 4},
        {"environment": {**MACHINE, "commit": "fedcba9"}},
        {"environment": {**MACHINE, "threads": 4}},
        {"stored": ()},
    ):
        assert options(tmp_path, **{"stored": stored, "resume": True, **changed}).left(nets) == [*nets]
    asked = options(tmp_path, stored=stored, resume=True, nets=("resnet18",))
    assert training.measure(asked) == {"groups": [], "samples": {}}


def test_the_duration_is_estimated_from_stored_processes(tmp_path: Path) -> None:
    samples = {"resnetlab": [{"process_seconds": 10.0}, {"process_seconds": 20.0}], "plain script": []}
    stored = [{"samples": {"resnet18": samples}}]
    asked = options(tmp_path, only=("plain",), stored=stored)
    assert [title for title, *_ in training.plan(asked)] == ["resnetlab", "plain script", "plain script, bf16"]
    assert training.estimate("resnet18", asked) == 3 * 3 * 15.0  # the median of the known ones for the others
    assert training.estimate("resnet20", asked) == 3 * 3 * training.UNKNOWN
    fast = options(tmp_path, fast_only=True)
    assert "timm, fast" in [title for title, *_ in training.plan(fast)]
    assert "timm" not in [title for title, *_ in training.plan(fast)]


def test_bad_input_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in (
        (["trainig"], "unknown benchmark 'trainig'; did you mean 'training'?"),
        (["training", "--nets", "resnet19"], "unknown net 'resnet19'"),
        (["training", "--only", "tim"], "unknown peer 'tim'; did you mean 'timm'?"),
        (["training", "--rounds", "0"], "--rounds is 0; give a whole number of at least 1"),
        (["training", "--data", str(tmp_path)], "has no train/<class>/*"),
        (["training", "--peer-path", "airbench"], "give it as PEER=FOLDER"),
    ):
        assert command.main(words) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    from benchmarks.images import given_folder

    (tmp_path / "train").mkdir()
    with pytest.raises(BadInput, match="no train/<class>"):
        given_folder(tmp_path)
