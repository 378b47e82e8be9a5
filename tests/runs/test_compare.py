"""Comparing runs on disk: the numbers are those of the runs, and what cannot be compared is refused with the reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetlab.errors import BadInput, Damaged
from resnetlab.runs import experiment, recipes
from resnetlab.runs.compare import compare, distinct_names, summarize
from resnetlab.runs.folder import SHARED_ACCESS_LOG, RunFolder
from resnetlab.runs.seeds import train_series

pytestmark = pytest.mark.usefixtures("no_pictures")

PARAMETERS, MACS = 1_334, 34_640  # of the tiny network for one channel, 8x8 px and ten classes


def train(folder: Path, **changes: Any) -> RunFolder:
    base = {"model": {"name": "tiny"}, "batch_size": 64, "precision": "fp32"}
    return experiment.train(recipes.quickstart().changed(base | changes), folder)


@pytest.fixture(scope="module")
def trained(tiny_network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run, a bad one, and one on other splits."""
    root = tmp_path_factory.mktemp("runs")
    train(root / "good", epochs=6)
    train(root / "bad", steps=2)
    train(root / "other", steps=2, data={"split_seed": 1})
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_a_good_run_is_told_from_a_bad_one_and_all_numbers_are_theirs(trained: Path) -> None:
    comparison = compare([trained / "bad", trained / "good"])
    assert [c.name for c in comparison.runs] == ["good", "bad"]
    for compared in comparison.runs:
        run = RunFolder(trained / compared.name)
        final, rows = run.final_metrics("test"), run.rows
        assert final is not None
        assert compared.accuracy == final["accuracy"] == compared.correct.mean()
        assert compared.accuracy_interval == final["intervals"]["accuracy"]
        assert compared.macro_f1_interval == final["intervals"]["macro_f1"]
        assert (compared.macro_f1, compared.loss) == (final["macro"]["f1"], final["loss"])
        assert compared.ece == final["calibration"]["ece"]
        assert (compared.parameters, compared.macs) == (PARAMETERS, MACS)
        assert compared.epochs == len(rows)
        assert compared.train_seconds == pytest.approx(sum(row["train_seconds"] for row in rows))
        low, high = (f(row["images_per_second"] for row in rows) for f in (min, max))
        assert low <= compared.images_per_second <= high
        assert compared.test_set_uses == 1
    assert comparison.runs_on_split == 2  # the third was scored on other images
    (pair,) = comparison.pairs
    assert pair.significant
    assert pair.difference == pytest.approx(comparison.runs[0].accuracy - comparison.runs[1].accuracy)


def test_predictions_are_paired_by_image_and_not_by_line(runs: Path) -> None:
    before = compare([runs / "good", runs / "bad"])
    file = runs / "bad" / "evaluation" / "test" / "predictions.csv"
    header, *lines = file.read_text().splitlines(keepends=True)
    np.random.default_rng(0).shuffle(lines)
    file.write_text(header + "".join(lines))
    assert compare([runs / "good", runs / "bad"]).to_json() == before.to_json()


def test_the_same_run_twice_is_not_significant(trained: Path) -> None:
    comparison = compare([trained / "good", trained / "good"])
    assert [c.name for c in comparison.runs] == ["good", "good (2)"]
    assert [pair.verdict for pair in comparison.pairs] == ["not significant"]
    assert comparison.notes == ("good and good (2) have the same weights",)


def test_runs_scored_on_different_splits_are_refused_and_named(trained: Path) -> None:
    with pytest.raises(BadInput) as refused:
        compare([trained / "good", trained / "other", trained / "bad"])
    told = str(refused.value)
    assert told.startswith("these runs were scored on different test splits and cannot be compared (")
    assert f"{trained / 'good'}, {trained / 'bad'}: 359 images of digits, " in told
    assert f"; {trained / 'other'}: 359 images of digits, " in told


def test_validation_can_be_compared_and_does_not_use_the_test_set(trained: Path) -> None:
    comparison = compare([trained / "good", trained / "bad"], "val")
    assert (comparison.split, comparison.images, comparison.runs_on_split) == ("val", 144, 0)


def test_a_run_without_scores_is_told_what_to_run(runs: Path) -> None:
    shutil.rmtree(runs / "bad" / "evaluation" / "test")
    with pytest.raises(BadInput) as refused:
        compare([runs / "good", runs / "bad"], "test")
    bad = runs / "bad"
    assert str(refused.value) == (
        f"{bad} has not been scored on its test split; compare the validation scores (`split='val'`)"
    )


def test_without_test_scores_of_all_runs_validation_is_compared_with_a_note(runs: Path) -> None:
    shutil.rmtree(runs / "bad" / "evaluation" / "test")
    found = compare([runs / "good", runs / "bad"])
    assert (found.split, found.images, found.runs_on_split) == ("val", 144, 0)
    assert found.notes[0].startswith("not all of these runs were scored on the test split, so the validation split")
    shutil.rmtree(runs / "bad" / "evaluation" / "val")
    with pytest.raises(BadInput, match=r"run: `resnetlab\.evaluate\('.*bad', split='val'\)`"):
        compare([runs / "good", runs / "bad"])


def test_the_settings_that_differ_are_those_of_the_configs(trained: Path) -> None:
    found = compare([trained / "bad", trained / "good"])
    assert found.names == ["good", "bad"]
    assert found.settings == {"epochs": [6, None], "steps": [None, 2]}
    assert found.to_json()["settings"]["epochs"] == {"good": 6, "bad": None}
    assert compare([trained / "good", trained / "good"]).settings == {}


def test_runs_and_series_are_summarised_by_mean_and_interval_over_seeds(tmp_path: Path, trained: Path) -> None:
    config = RunFolder(trained / "bad").config
    series = train_series(config.changed({"optim": {"lr": 0.01}}), 2, tmp_path / "seeds")
    table = summarize([tmp_path / "seeds", trained / "good"])
    assert table.names == ["good", "seeds"]
    assert table.settings == {"epochs": [6, None], "steps": [None, 2], "optim.lr": [0.03, 0.01]}
    one, several = table.rows
    together = series.summary()["together"]
    for score in ("accuracy", "macro_f1", "loss", "train_seconds"):
        assert asdict(several.repeats(score)) == together[score], score
    scores = RunFolder(trained / "good").final_metrics("test")
    assert scores is not None
    alone = one.repeats("accuracy")
    assert alone is not None
    assert (alone.mean, alone.std, list(alone.interval or ())) == (
        scores["accuracy"],
        None,
        scores["intervals"]["accuracy"],
    )


def test_scores_of_other_weights_than_the_run_has_now_are_refused(runs: Path) -> None:
    shutil.copy(runs / "other" / "best.safetensors", runs / "bad")
    with pytest.raises(BadInput, match="was scored with other weights than it has now; compare the validation scores"):
        compare([runs / "good", runs / "bad"])


def test_without_its_weights_a_run_is_compared_all_the_same(runs: Path) -> None:
    (runs / "bad" / "best.safetensors").unlink()
    (runs / "bad" / "environment.json").unlink()
    _, bad = compare([runs / "good", runs / "bad"]).runs
    assert (bad.parameters, bad.macs, bad.machine) == (None, None, None)


def test_the_machines_of_all_sessions_that_trained_are_named(runs: Path) -> None:
    bad = RunFolder(runs / "bad")
    machine = {"device_name": "first", "precision": "fp32"}
    bad.write("environment.json", machine)
    bad.add_session({**machine, "device_name": "second", "from_step": 1})
    bad.add_session({**machine, "device_name": "finished here", "from_step": bad.rows[-1]["step"]})
    assert compare([runs / "good", bad]).runs[1].machine == "first, fp32; then second, fp32"


def change_line(text: str) -> str:
    """One prediction more that is right, or fewer."""
    lines = text.splitlines(keepends=True)
    name, true, predicted, rest = lines[7].split(",", 3)
    other = str((int(true) + 1) % 10) if predicted == true else true
    return "".join([*lines[:7], f"{name},{true},{other},{rest}", *lines[8:]])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:2000],
        lambda text: text.replace(",3,", ",three,"),
        lambda text: text.replace("digits/", "other/", 1),
        lambda text: "\x00" + text,
        lambda text: text.replace("\n", ',"\n'),
        lambda text: "\n".join(text.splitlines()[:-1]),
        lambda text: text + text.splitlines()[-1],
        change_line,
    ],
)
def test_predictions_that_are_not_those_of_the_scores_are_refused(runs: Path, damage: Any) -> None:
    file = runs / "bad" / "evaluation" / "test" / "predictions.csv"
    file.write_text(damage(file.read_text()))
    with pytest.raises(Damaged, match=r"predictions.csv is damaged: .*; restore it from a copy"):
        compare([runs / "good", runs / "bad"])


@pytest.mark.parametrize("change", [{"accuracy": "high"}, {"per_class": None}, {"split_digest": 3}, {"macro": []}])
def test_scores_that_we_did_not_write_are_refused(runs: Path, change: dict[str, Any]) -> None:
    file = runs / "bad" / "evaluation" / "test" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(Damaged, match=r"metrics\.json is damaged"):
        compare([runs / "good", runs / "bad"])


def test_runs_scored_before_there_were_intervals_are_compared(runs: Path) -> None:
    file = runs / "bad" / "evaluation" / "test" / "metrics.json"
    older = json.loads(file.read_text())
    expected = older["intervals"]["accuracy"]
    for name in ("intervals", "calibration", "tta"):
        del older[name]
    file.write_text(json.dumps(older))
    _, bad = compare([runs / "good", runs / "bad"]).runs
    assert (bad.accuracy_interval, bad.ece) == (expected, None)


def test_augmented_scores_are_not_compared_with_plain_ones(runs: Path) -> None:
    file = runs / "bad" / "evaluation" / "test" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tta": "flip"}))
    with pytest.raises(BadInput, match="test-time augmentation flip"):
        compare([runs / "good", runs / "bad"])


def test_a_damaged_access_log_is_noted(runs: Path) -> None:
    with (runs / SHARED_ACCESS_LOG).open("a") as file:
        file.write("{\n")
    comparison = compare([runs / "good", runs / "bad"])
    assert comparison.notes == (f"line 4 of the access log {runs / SHARED_ACCESS_LOG} is damaged and was skipped",)


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "a", tmp_path / "y" / "a", tmp_path / "y" / "b", tmp_path / "y" / "b"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    assert distinct_names([RunFolder(folder) for folder in folders]) == [str(folders[0]), str(folders[1]), "b", "b (2)"]


def test_the_command_prints_tables_and_writes_a_page(trained: Path, tmp_path: Path, command: Any) -> None:
    code, out, err = command("compare", trained / "bad", trained / "good", "--out", "page")
    assert code == 0, err
    assert "2 runs on the 359 images of the test split of digits" in out
    assert out.index("good") < out.index("bad")
    assert "worse" in out
    assert "test set use: 2 runs were scored on this test set; good 1 time, bad 1 time" in out
    assert "the page is page/comparison.html" in out
    assert {file.name for file in (tmp_path / "page").iterdir()} == {"comparison.html", "comparison.json", "curves.png"}
    html = (tmp_path / "page" / "comparison.html").read_text()
    assert html.count("<img ") == 1
    for name in ("good", "bad"):
        final = RunFolder(trained / name).final_metrics("test")
        assert final is not None
        assert f"{final['accuracy']:.2%}" in html
        assert f"{final['accuracy']:.2%}" in out


def test_the_command_prints_json(trained: Path, tmp_path: Path, command: Any) -> None:
    code, out, err = command("compare", trained / "good", trained / "good", "--json", "--out", "page")
    assert code == 0, err
    said = json.loads(out)
    assert said["pairs"][0]["distinguishable"] is False
    assert said == json.loads((tmp_path / "page" / "comparison.json").read_text())
    code, out, err = command("compare", trained / "good", trained / "good")
    assert "not significant" in out


def test_the_command_refuses_in_a_sentence(trained: Path, command: Any) -> None:
    assert "needs a list of two runs or more" in command.refuse("compare", trained / "good")
    assert "different test splits" in command.refuse("compare", trained / "good", trained / "other")
    assert "is not a run folder" in command.refuse("compare", trained / "good", trained)
    assert "folder not found" in command.refuse("compare", "nowhere", trained / "good")
    assert "unknown --split 'train'" in command.refuse("compare", "a", "b", "--split", "train")
