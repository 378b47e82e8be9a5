"""A report says what the run's files say, to the last digit, and what they do not say it does not make up."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resnetlab.data.digests import names_digest
from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.evaluation.intervals import wilson
from resnetlab.report.render import Picture, rounded
from resnetlab.report.write import write_report
from resnetlab.runs.folder import RunFolder

HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "&amp;\x1b[2J\n猫"]
HUNDRED = [f"class number {index}" for index in range(100)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any, make_run: Callable[..., RunFolder]) -> RunFolder:
    """A finished run with both splits, one of them with test-time augmentation too."""
    return make_run(tmp_path_factory.mktemp("runs") / "a run", splits=("val", "test", "val-flip"))


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these tests need."""
    from resnetlab.report import figures

    for name, value in vars(figures).items():
        if getattr(value, "__module__", "").startswith("resnetlab.plots.") and name != "percent":
            monkeypatch.setattr(figures, name, lambda *_, **__: None)
    monkeypatch.setattr(
        figures, "picture", lambda _, text, **options: Picture("data:image/png;base64,", 8, 8, text, **options)
    )
    monkeypatch.setattr(figures, "plane", lambda features: features[:, :2])


@pytest.fixture(scope="module")
def page(finished: RunFolder, read_page: Any) -> Any:
    return read_page(write_report(finished.path))


def numbers(page: Any) -> dict[str, list[Any]]:
    """The numbers on a page by where they say they come from."""
    found: dict[str, list[Any]] = {}
    for tag in page.all("data"):
        found.setdefault(tag.attributes.get("data-from") or "", []).append(tag)
    return found


def stored(run: RunFolder, source: str) -> Any:
    """The number at such a place in the run's files."""
    first, *path = source.split("/")
    if first == "epochs":
        (value,) = (row[path[1]] for row in run.rows if row["epoch"] == int(path[0]))
        return value
    value = json.loads((run.path / "evaluation" / first / "metrics.json").read_text())
    for step in path:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


# numbers


def test_every_number_is_the_one_in_the_files_to_the_last_digit(finished: RunFolder, page: Any) -> None:
    found = numbers(page)
    intervals = found.pop("")  # computed here, see below
    assert len(found) > 100
    for source, tags in found.items():
        for tag in tags:
            expected = stored(finished, source)
            assert tag.attributes["value"] == tag.attributes["title"] == json.dumps(expected), source
            shapes = {rounded(expected, style) for style in ("percent", "plain", "count", "short")}
            assert tag.text in shapes | {shape.removesuffix(" %") for shape in shapes}, source
    assert len(intervals) == 2 * 3, "only the interval of each class's recall is computed here"


def test_the_headline_is_there_with_its_intervals(page: Any) -> None:
    headline = numbers(page.find("scores"))
    for source in ("accuracy", "macro/f1", "loss", "calibration/ece", "calibration/after/ece"):
        assert f"test/{source}" in headline
    for source in ("accuracy/0", "accuracy/1", "macro_f1/0", "macro_f1/1"):
        assert f"test/intervals/{source}" in headline
    assert {source.split("/")[0] for source in headline} == {"val", "test", "val-flip"}
    assert "validation split, test-time augmentation: flip" in page.text or "test-time augmentation: flip" in page.text


def test_every_class_has_a_row_with_its_numbers_and_the_interval_of_its_recall(finished: RunFolder, page: Any) -> None:
    table = page.find("classes").all("table")[0]
    _, *rows = table.all("tr")
    scores = finished.final_metrics("test")
    assert scores is not None
    for place, (row, expected) in enumerate(zip(rows, scores["per_class"], strict=True)):
        assert row.all("th")[0].text == expected["name"]
        found = numbers(row)
        names = ("support", "precision", "recall", "f1", "roc_auc")
        assert {f"test/per_class/{place}/{name}" for name in names} == found.keys() - {""}
        low, high = (float(tag.attributes["value"]) for tag in found[""])
        hits = round(expected["recall"] * expected["support"])
        assert (low, high) == tuple(map(float, wilson(hits, expected["support"])))


@pytest.mark.usefixtures("no_drawing")
def test_undefined_numbers_are_dashes(tmp_path: Path, make_run: Any, read_page: Any) -> None:
    run = make_run(tmp_path / "run", splits=("val",))
    metrics = run.final_metrics("val")
    metrics["per_class"][0] |= {"precision": None, "recall": None, "f1": None, "roc_auc": None}
    metrics["mcc"], metrics["macro"]["f1"], metrics["intervals"]["macro_f1"] = None, None, None
    run.write("evaluation/val/metrics.json", metrics)
    page = read_page(write_report(run.path))
    row = page.find("classes").all("tr")[1]
    assert row.text.count("–") == 5
    tile = next(tag for tag in page.find("scores").all("div") if tag.text.startswith("Macro-F1"))
    assert tile.text == "Macro-F1–", "and no interval"


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("balance", "heading"), [("sampler", "each drawn, times an epoch"), ("weights", "weight in the loss")]
)
def test_what_balancing_did_is_told_for_each_class(
    balance: str, heading: str, tmp_path: Path, make_run: Any, read_page: Any
) -> None:
    run = make_run(tmp_path / "run", splits=("val",), data={"balance": balance})
    classes = [row["name"] for row in run.final_metrics("val")["per_class"]]
    labels = {"train": [0, 0, 0, 1], "val": [], "test": []}
    splits = {
        split: {"names": (names := list("abcd")[: len(found)]), "labels": found, "digest": names_digest(names, found)}
        for split, found in labels.items()
    }
    run.write("split.json", {"classes": classes, "splits": splits})
    first, *rows = read_page(write_report(run.path)).find("classes").all("table")[0].all("tr")
    assert [tag.text for tag in first.all("th")][-2:] == ["training images", heading]
    assert [[tag.attributes["value"] for tag in row.all("data")[-2:]] for row in rows[:2]] == [
        ["3", "0.6666666865348816"],
        ["1", "2.0"],
    ]
    (run.path / "split.json").unlink()
    first, *_ = read_page(write_report(run.path)).find("classes").all("table")[0].all("tr")
    assert heading not in first.text


# what is there


def test_a_finished_run_has_all_sections_and_nothing_is_missing(page: Any) -> None:
    sections = [tag.attributes["id"] for tag in page.all("section")]
    assert sections == ["scores", "learning", "classes", "calibration", "images", "inside", "reproduce"]
    links = [tag.attributes["href"] for tag in page.all("nav")[0].all("a")]
    assert links == [f"#{anchor}" for anchor in sections]
    assert not page.all("aside")
    assert len(page.all("figure")) == 11


def test_mistakes_and_samples_are_those_of_validation(finished: RunFolder, page: Any) -> None:
    mistakes, samples = page.find("images").all("ul")
    with (finished.evaluation("val") / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = {row["file"] for row in rows if row["true"] != row["predicted"]}
    files = [tag.text for item in mistakes.all("li") for tag in item.all("span")]
    assert len(files) == min(18, len(wrong))
    assert set(files) <= wrong
    losses = [float(re.search(r"loss ([\d.]+)", item.text)[1]) for item in mistakes.all("li")]  # type: ignore[index]
    assert losses == sorted(losses, reverse=True)
    assert len(samples.all("li")) == 18
    assert all(tag.text.startswith(("✓", "✗")) for tag in page.find("images").all("li"))


def test_both_counts_of_the_access_log_are_shown(page: Any) -> None:
    assert page.find("access-log").text == "Test set used 1 time by this model; 1 run was scored on it."


def test_the_command_the_machine_the_config_and_the_digests_are_there(finished: RunFolder, page: Any) -> None:
    assert page.find("command").text == "resnetlab train quickstart --data /nowhere/pets --model resnet20 --epochs 3"
    origin = page.find("reproduce")
    assert "a <machine>" in origin.text
    assert "torch 2.10" in origin.text
    assert json.loads(origin.all("pre")[1].text) == finished.config.to_json()
    titles = {tag.attributes.get("title") for tag in origin.all("code")}
    scores = finished.final_metrics("test")
    assert scores is not None
    assert {scores["weights_digest"], scores["split_digest"]} <= titles


@pytest.mark.usefixtures("no_drawing")
def test_every_session_has_a_row_and_settings_changed_on_the_way_are_named(
    tmp_path: Path, make_run: Any, read_page: Any
) -> None:
    run = make_run(tmp_path / "run")
    later = {"command": ["resnetlab", "resume", "<run>"], "started": "2026-01-02", "from_step": 9, "torch": "2.11"}
    changed = {"changed": {"optim.lr": [0.03, 0.01], "epochs": [1, 3], "checkpoint.keep": [2, 1]}}
    run.add_session(later | changed)
    run.write("extensions.json", {"extended_at": [9]})
    origin = read_page(write_report(run.path)).find("reproduce")
    first, second = origin.all("tbody")[0].all("tr")
    assert [cell.text for cell in first.all("td")] == ["0", "x", "–", "a <machine>", "–"]
    assert "resnetlab resume <run>" in second.text
    assert "optim.lr from 0.03 to 0.01" in second.text
    assert "which this command does not repeat: optim.lr from 0.03 to 0.01." in origin.text


# the page itself


def test_a_page_holds_all_it_needs(finished: RunFolder, page: Any) -> None:
    for tag in page.every():
        for name, value in tag.attributes.items():
            if name in ("src", "href", "data", "action", "poster", "srcset"):
                assert str(value).startswith(("data:", "#")), (tag.name, name, str(value)[:80])
    source = (finished.path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert "url(" not in source
    policy = next(tag for tag in page.all("meta") if tag.attributes.get("http-equiv"))
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")


def test_pictures_have_the_right_type_a_size_and_a_description(page: Any) -> None:
    beginnings = {"svg+xml": b"<?xml", "png": b"\x89PNG", "jpeg": b"\xff\xd8"}
    for image in page.all("img"):
        kind, content = re.match(r"data:image/([a-z+]+);base64,(.*)", image.attributes["src"]).groups()  # type: ignore[union-attr]
        assert base64.b64decode(content).startswith(beginnings[kind])
        assert len(image.attributes["alt"]) > 5
        assert int(image.attributes["width"]) > 0
        assert int(image.attributes["height"]) > 0


def test_tables_and_headings_are_accessible_to_screen_readers(page: Any) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    for table in page.all("table"):
        assert len(table.all("caption")) == 1
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))
        widths = {len(row.all("th")) + len(row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1
    identities = [tag.attributes["id"] for tag in page.every() if "id" in tag.attributes]
    assert len(identities) == len(set(identities))
    levels = [int(tag.name[1]) for tag in page.every() if re.fullmatch("h[1-6]", tag.name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.usefixtures("no_drawing")
def test_names_are_nothing_but_text(tmp_path: Path, make_run: Any, read_page: Any) -> None:
    changes = {"data": {"name": "/no/<svg onload=alert(1)>"}, "recipe": "<i>"}
    run = make_run(tmp_path / "<b>run&", classes=HOSTILE, **changes)
    page = read_page(write_report(run.path))  # raises where a tag is not closed
    assert len(page.all("script")) == 1
    assert not page.all("svg") + page.all("i") + page.all("b")
    allowed = {"src", "alt", "class", "width", "height"}
    assert all(tag.attributes.keys() <= allowed for tag in page.all("img"))
    shown_names = [row.all("th")[0].text for row in page.find("classes").all("table")[0].all("tr")[1:]]
    assert shown_names == [*HOSTILE[:2], r"&amp;\x1b[2J\n猫"]
    assert page.all("h1")[0].text == "resnet20 on <svg onload=alert(1)>"
    assert "\x1b" not in page.text


@pytest.mark.slow
def test_a_hundred_classes_and_one_epoch_stay_below_two_megabytes(
    tmp_path: Path, make_run: Any, read_page: Any
) -> None:
    run = make_run(tmp_path / "run", classes=HUNDRED, epochs=1, images=3000)
    path = write_report(run.path)
    assert path.stat().st_size < 2_000_000
    page = read_page(path)
    table = page.find("classes").all("table")[0]
    assert [row.all("th")[0].text for row in table.all("tr")[1:]] == HUNDRED
    assert "1 epoch, seed 0" in page.text
    assert len(page.find("learning").all("tr")) == 2


# what is not there


def missing(page: Any) -> str:
    """The page's list of what is missing."""
    return " ".join(tag.text for tag in page.all("aside"))


@pytest.mark.usefixtures("no_drawing")
def test_a_run_without_test_scores_is_reported_on_validation(tmp_path: Path, make_run: Any, read_page: Any) -> None:
    run = make_run(tmp_path / "run", splits=("val",), final_test="never")
    page = read_page(write_report(run.path))
    assert "The test split has not been scored (final_test is never)" in missing(page)
    assert {source.split("/")[0] for source in numbers(page.find("scores"))} == {"val"}
    assert "The run is finished." in page.text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("epochs", [0, 2])
def test_the_report_of_an_unfinished_run_lists_what_is_missing(
    epochs: int, tmp_path: Path, make_run: Any, read_page: Any
) -> None:
    run = make_run(tmp_path / "run", epochs=epochs, splits=())
    page = read_page(write_report(run.path))
    assert f"resnetlab resume {run.path}" in missing(page)
    sections = {tag.attributes["id"] for tag in page.all("section")}
    assert sections == {"scores", "reproduce"} | ({"learning", "inside"} if epochs else set())
    assert "No scores yet." in page.text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("metrics.jsonl", "could not read"),
        ("environment.json", "Could not read"),
        ("best.safetensors", "or it is damaged"),
        ("evaluation/test/metrics.json", "metrics.json is damaged"),
        ("evaluation/val/report_samples.safetensors", "or it is damaged"),
        ("evaluation/test/predictions.csv", "The table of predictions of the test split is missing or damaged"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(
    file: str, sentence: str, tmp_path: Path, make_run: Any, read_page: Any
) -> None:
    run = make_run(tmp_path / "run")
    (run.path / file).write_bytes(b'{"accuracy": [\n')
    page = read_page(write_report(run.path))
    assert sentence.lower() in missing(page).lower()
    assert page.find("reproduce")


ODD = [None, 3, "x", [], {}, [1, 2], {"ece": "x", "bins": [{"low": "y"}], "after": 1}]
NAMES = ("calibration", "intervals", "macro", "top_k_accuracy", "per_class", "split_digest")


@pytest.mark.usefixtures("no_drawing")
def test_a_foreign_metrics_file_does_not_break_the_report(tmp_path: Path, make_run: Any, read_page: Any) -> None:
    run = make_run(tmp_path / "run", splits=("val",))
    metrics = run.final_metrics("val")
    for name in NAMES:
        for value in ODD:
            run.write("evaluation/val/metrics.json", metrics | {name: value})
            assert read_page(write_report(run.path)).find("reproduce"), (name, value)


@pytest.mark.usefixtures("no_drawing")
def test_tables_of_other_scores_are_not_used(tmp_path: Path, make_run: Any, read_page: Any) -> None:
    run = make_run(tmp_path / "run", splits=("val",))
    metrics = run.final_metrics("val")
    metrics["accuracy"] = 0.123
    metrics["weights_digest"] = "0" * 64
    run.write("evaluation/val/metrics.json", metrics)
    page = read_page(write_report(run.path))
    assert "The table of predictions of the validation split is missing or damaged." in missing(page)
    assert "Other weights than best.safetensors scored the validation split." in missing(page)
    sections = {tag.attributes["id"] for tag in page.all("section")}
    assert "images" not in sections, "the kept images belong to other weights"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a run folder"):
        write_report(tmp_path)
    with pytest.raises(BadInput, match="folder not found"):
        write_report(tmp_path / "nothing")


@pytest.mark.usefixtures("no_drawing")
def test_a_page_is_written_whole_or_not_at_all_and_where_it_is_asked_for(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    out.write_text("the old page")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskTrouble, match=r"could not write .*page\.html"):
            write_report(finished.path, out)
    assert out.read_text() == "the old page"
    assert write_report(finished.path, out) == out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.usefixtures("no_drawing")
def test_the_command_prints_the_path_of_the_page(finished: RunFolder, command: Any, tmp_path: Path) -> None:
    code, out, err = command("report", finished.path, "--out", tmp_path / "page.html")
    assert (code, out, err) == (0, f"the page is {tmp_path / 'page.html'}\n", "")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "is not a run folder" in command.refuse("report", tmp_path)
    assert "RUN is missing" in command.refuse("report") or "run" in command.refuse("report").lower()


@pytest.mark.slow
def test_a_trained_run_has_a_complete_report_without_another_use_of_the_test_split(
    command: Any, read_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits, from training to the page; what the page shows comes from what scoring left behind."""
    monkeypatch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
    flags = ("--model", "resnet20", "--steps", 2, "--precision", "fp32", "--out", "run")
    assert command("train", "quickstart", *flags)[0] == 0
    run = RunFolder(Path("run"))
    ledger = (run.path / "evaluation" / "ledger.jsonl").read_bytes()
    assert (run.evaluation("val") / "report_samples.safetensors").exists()
    assert not (run.evaluation("test") / "report_samples.safetensors").exists(), "the test split is for numbers"
    monkeypatch.setattr("resnetlab.runs.build.open_data", pytest.fail)
    assert command("report", "run")[0] == 0
    page = read_page(run.path / "report.html")
    assert not page.all("aside"), "nothing is missing"
    assert (run.path / "evaluation" / "ledger.jsonl").read_bytes() == ledger
    shown_command = page.find("command").text
    assert shown_command == "resnetlab train quickstart --model resnet20 --precision fp32 --steps 2"
    for source, tags in numbers(page).items():
        assert not source or {tag.attributes["value"] for tag in tags} == {json.dumps(stored(run, source))}


def full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("page")
@pytest.mark.slow
def test_the_same_run_gives_the_same_page(finished: RunFolder, tmp_path: Path) -> None:
    again = write_report(finished.path, tmp_path / "again.html")
    assert again.read_bytes() == (finished.path / "report.html").read_bytes()
