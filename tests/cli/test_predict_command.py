"""`resnetlab predict`: what it reads, what it prints and writes, and how it stops and continues."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.cli import prediction
from resnetlab.cli.signals import Interrupted
from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.inference.predict import BATCH, Classifier, load
from resnetlab.inference.validation import Rejection, Validation
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

CLASSES = ("cat", "dog", "=newt/1")
THRESHOLD = 0.5  # of the highest probability


def save(path: Path, seed: int = 1) -> Path:
    """Save a network that is not trained, but balanced: it predicts each class now and then."""
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), len(CLASSES), seed=seed).eval()
    with torch.no_grad():
        network.fc.weight.mul_(30)
        network.fc.bias.sub_(network(torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))).mean(0))
    preprocessing = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    validation = Validation(1.5, 100, "", (Rejection(0.1, THRESHOLD, 0.5),))
    save_model(path, network, CLASSES, preprocessing, {}, validation=validation)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load(model, "cpu")


def image(path: Path, seed: int) -> Path:
    """Write an image whose size and format depend on the seed and the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8 + seed % 3, 8 + seed % 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path, command: Any) -> list[str]:
    """Images in folders below the working directory, in natural order, of several sizes and formats."""
    names = ["photos/2.png", "photos/10.jpg", "photos/b/1.bmp", "photos/b/=2.webp"]
    for seed, name in enumerate(names):
        image(tmp_path / name, seed)
    (tmp_path / "photos" / "notes.txt").write_text("text")
    return [names[0], names[1], "photos/b/1.bmp", "photos/b/=2.webp"]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_json_has_the_classifiers_own_predictions(
    command: Any, model: Path, classifier: Classifier, photos: list[str]
) -> None:
    code, out, err = command("predict", model, "photos", "--json")
    assert code == 0, err
    assert err == "photos: skipped: 1 .txt file\n"
    found = json.loads(out)
    assert [entry["file"] for entry in found] == photos
    for entry, expected in zip(found, classifier(photos), strict=True):
        assert entry.keys() == {"file", "predicted", "probability", "top"}
        assert entry["predicted"] == expected.predicted
        assert entry["probability"] == pytest.approx(expected.probability)
        assert {row["name"]: row["probability"] for row in entry["top"]} == pytest.approx(expected.probabilities)
        assert [row["name"] for row in entry["top"]] == list(expected.probabilities)


def test_json_lines_have_the_entries_of_the_list(command: Any, model: Path, photos: list[str]) -> None:
    whole = json.loads(command("predict", model, *photos, "--json")[1])
    lines = command("predict", model, *photos, "--jsonl")[1].splitlines()
    assert [json.loads(line) for line in lines] == whole


def test_a_pipe_gets_a_line_for_each_image(
    command: Any, model: Path, classifier: Classifier, photos: list[str]
) -> None:
    _, out, _ = command("predict", model, "photos", "--top-k", 2)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == photos
    for row, expected in zip(rows, classifier(photos), strict=True):
        names, shares = zip(*list(expected.probabilities.items())[:2], strict=True)
        assert (row[1], row[3]) == names
        assert (float(row[2]), float(row[4])) == pytest.approx(shares, abs=1e-6)


def test_a_terminal_gets_a_table(command: Any, model: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # without colours
    _, out, _ = command("predict", model, "photos", "--top-k", 1)
    heading, _, *rows = [line.split() for line in out.splitlines() if line.strip()]
    assert heading == ["file", "predicted", "probability"]
    assert [row[0] for row in rows] == photos


def test_a_csv_file_has_the_columns_of_predictions_csv(
    command: Any, model: Path, classifier: Classifier, photos: list[str], tmp_path: Path
) -> None:
    code, out, err = command("predict", model, "photos", "--csv", "out.csv")
    assert (code, out) == (0, "")
    assert "4 predictions written to out.csv" in err
    header, *rows = table(tmp_path / "out.csv")
    assert header == ["file", "predicted", "probability"]
    assert [row[0] for row in rows] == photos
    answers = classifier(photos)
    escaped = {"=newt/1": "'=newt/1"}  # as no formula in a spreadsheet
    assert [row[1] for row in rows] == [escaped.get(p.predicted, p.predicted) for p in answers]
    assert [float(row[2]) for row in rows] == pytest.approx([p.probability for p in answers])


def test_a_csv_file_has_further_columns_on_request(
    command: Any, model: Path, photos: list[str], tmp_path: Path
) -> None:
    command("predict", model, "photos", "--csv", "every.csv", "--all-probabilities", "--reject", 0.1)
    header, *rows = table(tmp_path / "every.csv")
    assert header == ["file", "predicted", "probability", "rejected", "cat", "dog", "'=newt/1"]
    for row in rows:
        assert sum(map(float, row[4:])) == pytest.approx(1)
        assert max(row[4:], key=float) == row[2]
        assert row[3] == ("true" if float(row[2]) < THRESHOLD else "false")
    command("predict", model, "photos", "--csv", "top.csv", "--top-k", 2)
    assert table(tmp_path / "top.csv")[0] == ["file", "predicted", "probability", "predicted_2", "probability_2"]


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_is_refused_with_what_is_allowed(command: Any, model: Path, photos: list[str], k: int) -> None:
    sentence = command.refuse("predict", model, "photos", "--top-k", k)
    assert sentence == f"--top-k is {k}, but must be 1 to 3, the number of the model's classes"


def test_all_probabilities_lists_every_class(command: Any, model: Path, photos: list[str]) -> None:
    found = json.loads(command("predict", model, photos[0], "--json", "--all-probabilities")[1])
    assert len(found[0]["top"]) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--json", "--jsonl"], "--json and --jsonl exclude each other"),
        (["--json", "--csv", "a.csv"], "--json and --csv exclude each other"),
        (["--all-probabilities", "--top-k", 2], "omit --top-k"),
        (["--resume"], "--resume needs --csv"),
        (["--copy"], "--copy needs --sort-into"),
        (["--link", "--copy", "--sort-into", "sorted"], "--link and --copy exclude each other"),
        (["-0"], "-0 needs -"),
        (["-", "-"], "- is given twice"),
        (["--csv", "a.txt"], "must be a .csv file"),
        (["--csv", "nowhere/a.csv"], "in an existing folder"),
        (["--save-figure", "a.txt"], "must be a .png, .svg or .pdf file"),
        (["--reject", 0.3], "choose from 0.1"),
        (["--bad-images", "skipp"], "did you mean 'skip'?"),
        (["--sort-into", "photos"], "lies in photos"),
        (["--sort-into", "photos/sorted"], "lies in photos"),
        (["--save-figure", "photos/sheet.png"], "lies in photos"),
        (["nowhere.png"], "file or folder not found: nowhere.png"),
        (["photos/*.gif"], "no image matches photos/*.gif"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    command: Any, model: Path, photos: list[str], words: list[str], sentence: str
) -> None:
    assert sentence in command.refuse("predict", model, "photos", *words)
    assert [path.name for path in Path().iterdir()] == ["photos"]  # nothing is left behind


def test_a_figure_does_not_replace_an_image(command: Any, model: Path, photos: list[str]) -> None:
    assert "is one of the images" in command.refuse("predict", model, photos[0], "--save-figure", photos[0])


def test_a_model_without_thresholds_rejects_nothing(command: Any, photos: list[str], tmp_path: Path) -> None:
    network = build_model(Architecture("basic", (1, 1), width=4, stem="cifar"), 2).eval()
    preprocessing = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_model(tmp_path / "plain.safetensors", network, ("a", "b"), preprocessing, {})
    assert "no rejection thresholds" in command.refuse("predict", "plain.safetensors", "photos", "--reject", 0.1)


def test_rejected_images_are_none_of_these(
    command: Any, model: Path, classifier: Classifier, photos: list[str]
) -> None:
    expected = classifier(photos, reject=0.1)
    assert {prediction.rejected for prediction in expected} == {True, False}
    found = json.loads(command("predict", model, *photos, "--json", "--reject", 0.1)[1])
    assert [entry["rejected"] for entry in found] == [prediction.rejected for prediction in expected]
    _, out, err = command("predict", model, *photos, "--top-k", 1, "--reject", 0.1)
    for line, answer in zip(out.splitlines(), expected, strict=True):
        _, name, *rest = line.split("\t")
        assert name == ("none of these" if answer.rejected else answer.predicted)
        assert rest[1:2] == ([answer.predicted] if answer.rejected else [])
    assert f"{sum(p.rejected for p in expected)} of 4 images rejected at a risk of 0.1" in err


def test_rejected_images_are_told_from_those_of_a_class_called_none_of_these(
    command: Any, classifier: Classifier, photos: list[str], tmp_path: Path
) -> None:
    model = classifier.model
    names = ("none of these", *CLASSES[1:])
    save_model(tmp_path / "a.safetensors", model.network, names, model.preprocessing, {}, validation=model.validation)
    expected = load(tmp_path / "a.safetensors")(photos, reject=0.1)
    _, out, _ = command("predict", "a.safetensors", *photos, "--top-k", 1, "--reject", 0.1)
    answers = [line.split("\t")[1] for line in out.splitlines()]
    assert answers == ["none of these (rejected)" if one.rejected else one.predicted for one in expected]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_on_stdin_names_images_and_folders(
    command: Any, model: Path, photos: list[str], stdin: Callable[[bytes], None], separator: bytes
) -> None:
    stdin(separator.join(name.encode() for name in ("photos/b", photos[0], "")))
    _, out, err = command("predict", model, "-", *(["-0"] if separator == b"\0" else []))
    assert [line.split("\t")[0] for line in out.splitlines()] == [*photos[2:], photos[0]], err


def test_an_empty_list_is_a_sentence(command: Any, model: Path, stdin: Callable[[bytes], None]) -> None:
    stdin(b"\n")
    assert "the list on stdin is empty" in command.refuse("predict", model, "-")


@pytest.fixture
def bad(photos: list[str], tmp_path: Path) -> list[str]:
    """Files that are no images, by name, between those that are."""
    (tmp_path / "photos" / "3.png").write_bytes(b"text")
    (tmp_path / "photos" / "4.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "photos" / "5.png")
    (tmp_path / "photos" / "6.png").write_bytes(b"")
    return [f"photos/{number}.png" for number in (3, 4, 5, 6)]


def test_a_bad_image_stops_with_its_name_after_those_before_it(command: Any, model: Path, bad: list[str]) -> None:
    code, out, err = command("predict", model, "photos")
    assert code == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == ["photos/2.png"]
    assert "photos/3.png is not an image" in err
    assert "--bad-images skip" in err
    code, out, _ = command("predict", model, "photos", "--json")
    assert (code, len(json.loads(out))) == (2, 1)  # a list that has begun is ended


def test_bad_images_are_skipped_and_named(command: Any, model: Path, photos: list[str], bad: list[str]) -> None:
    code, out, err = command("predict", model, "photos", "--bad-images", "skip")
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (0, photos)
    for name, reason in zip(bad, ("not an image", "a link to a file that", "a pipe", "empty file"), strict=True):
        assert any(name in line and reason in line for line in err.splitlines()), name
    assert "4 files could not be read, and were skipped" in err
    found = json.loads(command("predict", model, "photos", "--bad-images", "skip", "--json")[1])
    assert [entry["file"] for entry in found if "error" in entry] == bad
    assert len(found) == 8


def test_images_that_lose_their_contrast_are_named(
    command: Any, model: Path, photos: list[str], tmp_path: Path
) -> None:
    """A training notes them, too: values of 12 bits in a file of 16 bits are almost black for a model of 8 bits."""
    values = np.random.default_rng(0).integers(0, 4096, (9, 9)).astype(np.uint16)
    Image.fromarray(values).save("photos/deep.png")
    code, _, err = command("predict", model, "photos", "--jsonl")
    assert code == 0
    assert "1 image has more than 8 bits, but the training images had 8" in err
    assert "the first: photos/deep.png" in err
    assert "more than 8 bits" not in command("predict", model, *photos)[2]
    colours = np.random.default_rng(0).integers(0, 4096, (9, 9, 3)).astype(">u2")
    Path("photos/colours.ppm").write_bytes(b"P6 9 9 65535\n" + colours.tobytes())
    assert "2 images have more than 8 bits" in command("predict", model, "photos", "--jsonl")[2]
    Path("photos/colours.ppm").unlink()
    loaded = read_model(model)
    seen = replace(loaded.preprocessing, range=(0, 255))
    save_model(tmp_path / "of_9.safetensors", loaded.network, loaded.classes, seen, {})
    assert "are black or white; the first: photos/deep.png" in command("predict", "of_9.safetensors", "photos")[2]


def test_only_bad_images_are_an_error(command: Any, model: Path, bad: list[str]) -> None:
    sentence = command("predict", model, *bad, "nowhere.png", "--bad-images", "skip")
    assert sentence[0] == 2
    assert "none of the 5 images could be read" in sentence[2]


def test_bad_images_are_tried_again_when_a_table_is_resumed(command: Any, model: Path, bad: list[str]) -> None:
    words = ("predict", model, "photos", "--bad-images", "skip", "--csv", "out.csv", "--resume")
    assert command(*words)[0] == 0
    image(Path(bad[0]), 3)
    assert "1 prediction written to out.csv" in command(*words)[2]
    code, _, err = command(*words)
    assert code == 0
    assert "0 predictions written to out.csv" in err
    assert "3 files could not be read, and were skipped" in err


class Interruption:
    """Sends the signal's exception after some batches, as a handler would while a batch is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
        self.batches, self.plain = batches, prediction.predict_files
        self.patch = monkeypatch
        monkeypatch.setattr(prediction, "predict_files", self)

    def __call__(self, *given: Any) -> Any:
        for number, batch in enumerate(self.plain(*given)):
            if number == self.batches:
                raise Interrupted("stopped by SIGINT")
            yield batch

    def end(self) -> None:
        self.patch.setattr(prediction, "predict_files", self.plain)


@pytest.fixture
def many(tmp_path: Path, command: Any) -> Path:
    """A folder with more images than two batches have."""
    for seed in range(2 * BATCH + 3):
        image(tmp_path / "many" / f"{seed}.png", seed)
    return tmp_path / "many"


def test_an_interrupted_table_is_valid_and_continues_to_the_same_content(
    command: Any, model: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("predict", model, "many", "--csv", "whole.csv")
    interruption = Interruption(monkeypatch, 1)
    words = ("predict", model, "many", "--csv", "out.csv", "--sort-into", "sorted", "--resume")
    code, _, err = command(*words)
    assert code == 6
    assert f"stopped by SIGINT after {BATCH} of {2 * BATCH + 3} images; the same command with --resume" in err
    assert len(table(tmp_path / "out.csv")) == 1 + BATCH
    interruption.end()
    code, _, err = command(*words)
    assert code == 0, err
    assert f"{BATCH + 3} predictions written to out.csv" in err
    found, whole = table(tmp_path / "out.csv"), table(tmp_path / "whole.csv")
    assert [row[:2] for row in found] == [row[:2] for row in whole]
    assert [float(row[2]) for row in found[1:]] == pytest.approx([float(row[2]) for row in whole[1:]])
    assert len(list((tmp_path / "sorted").glob("*/*.png"))) == 2 * BATCH + 3
    code, _, err = command(*words)
    assert (code, table(tmp_path / "out.csv")) == (0, found)
    assert "0 predictions written to out.csv" in err


@pytest.mark.usefixtures("many", "photos")
def test_the_number_of_images_of_a_list_counts_those_in_its_folders(
    command: Any, model: Path, stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    Interruption(monkeypatch, 2)
    stdin(b"photos/2.png\n\n\r\nmany\nphotos")  # with empty lines, and without a line feed at the end
    code, _, err = command("predict", model, "-", "--csv", "out.csv")
    assert code == 6
    assert f"stopped by SIGINT after {2 * BATCH} of {1 + 2 * BATCH + 3 + 4} images;" in err


def test_an_interrupted_list_is_valid(command: Any, model: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interruption(monkeypatch, 1)
    code, out, err = command("predict", model, "many", "--json")
    assert (code, len(json.loads(out))) == (6, BATCH)
    assert "--resume" not in err


def test_a_table_is_not_replaced(command: Any, model: Path, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    assert "out.csv exists; add --resume" in command.refuse("predict", model, "photos", "--csv", "out.csv")
    assert "out.csv cannot be continued" in command.refuse("predict", model, "photos", "--csv", "out.csv", "--resume")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_a_table_of_another_model_or_other_options_is_refused(
    command: Any, model: Path, photos: list[str], tmp_path: Path
) -> None:
    words = ("photos", "--csv", "out.csv", "--resume")
    command("predict", model, *words)
    before = (tmp_path / "out.csv").read_bytes()
    other = save(tmp_path / "other.safetensors", seed=2)
    assert "another model (the weights differ)" in command.refuse("predict", other, *words)
    assert "the columns differ" in command.refuse("predict", model, *words, "--top-k", 2)
    assert "sorted into another folder" in command.refuse("predict", model, *words, "--sort-into", "sorted")
    assert not (tmp_path / "sorted").exists()
    assert "another rejection threshold" in command.refuse("predict", model, *words, "--reject", 0.1)
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_contact_sheet_is_drawn(command: Any, model: Path, photos: list[str], tmp_path: Path) -> None:
    code, _, err = command("predict", model, "photos", "--save-figure", "sheet.png")
    assert code == 0
    assert "the figure is sheet.png (all images)" in err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_process_leaves_whole_lines_and_its_table_continues(
    command: Any, model: Path, many: Path, tmp_path: Path, number: signal.Signals
) -> None:
    names = [f"many/{seed}.png" for seed in range(2 * BATCH + 3)]
    words = [sys.executable, "-m", "resnetlab", "predict", str(model), "-", "--csv", "out.csv"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write("".join(f"{name}\n" for name in names))
        process.stdin.flush()
        until(lambda: (tmp_path / "out.csv").exists() and len(table(tmp_path / "out.csv")) > 1)
        process.send_signal(number)  # it waits for further names now
        said = process.stderr.read()
        assert process.wait(30) == (-9 if number == signal.SIGKILL else 6), said
    assert number == signal.SIGKILL or f"stopped by {number.name} after {BATCH} images; the same command" in said
    assert len(table(tmp_path / "out.csv")) == 1 + BATCH
    code, _, err = command("predict", model, "many", "--csv", "out.csv", "--resume")
    assert code == 0, err
    assert [row[0] for row in table(tmp_path / "out.csv")[1:]] == names


def until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals on this system")
def test_progress_is_on_stderr_and_only_on_a_terminal(model: Path, many: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "resnetlab", "predict", str(model), "many", "--jsonl"]
    plain = subprocess.run(words, capture_output=True, check=True)
    assert plain.stderr == b""
    terminal, end = os.openpty()
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(words, stdout=out, stderr=end):
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(terminal, 65536):
                shown += part
    os.close(terminal)
    assert (tmp_path / "out").read_bytes() == plain.stdout
    assert b"predicting" in shown
    assert f"/{2 * BATCH + 3}".encode() in shown
    assert b"images/s" in shown
