"""The same recipe under several seeds: one run each, a summary, and going on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from resnetlab.errors import Stopped
from resnetlab.files import read_sealed
from resnetlab.runs import experiment, recipes, seeds
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.stop import StopRequest

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ("train", "--model", "tiny", "--batch-size", "256", "--precision", "fp32", "--epochs", "1")


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def untimed(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what differs from one clock to the next."""
    together = {name: value for name, value in summary["together"].items() if name != "train_seconds"}
    return summary | {"together": together, "runs": [run | {"train_seconds": 0} for run in summary["runs"]]}


def stop_in_run(number: int, events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal after so many events of one of the runs to come."""
    real_fit, runs = experiment.fit, []

    def fit_with_signal(*arguments: Any) -> Iterator[Any]:
        runs.append(arguments)
        for count, event in enumerate(real_fit(*arguments), start=1):
            if (len(runs), count) == (number, events):
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(experiment, "fit", fit_with_signal)


@pytest.mark.parametrize(
    "events", [pytest.param(3, id="within an epoch"), pytest.param(6, id="after it", marks=pytest.mark.slow)]
)
def test_a_series_that_was_stopped_equals_one_that_was_not(command: Any, tmp_path: Path, events: int) -> None:
    assert command(*TINY, "--seeds", 3, "--seed", 4, "--out", "straight")[0] == 0
    with pytest.MonkeyPatch.context() as patched:
        stop_in_run(2, events, patched)
        code, _, err = command(*TINY, "--seeds", 3, "--seed", 4, "--out", "stopped")
    assert code == 6
    assert f"seed 5: stopped by SIGTERM at step {min(events, 5)} of 5; resume with: resnetlab resume stopped" in err
    stopped = tmp_path / "stopped"
    assert [run["seed"] for run in read(stopped)["runs"]] == [4]
    done = {path: path.stat().st_mtime_ns for path in (stopped / "seed-4").rglob("*")}
    code, out, err = command("resume", "stopped")
    assert code == 0, err
    assert "seed     4" not in out
    assert "seed     6: run 3 of 3" in out
    assert {path: path.stat().st_mtime_ns for path in (stopped / "seed-4").rglob("*")} == done
    assert untimed(read(stopped)) == untimed(read(tmp_path / "straight"))
    for name in ("seed-4", "seed-5", "seed-6"):
        mine, theirs = (
            read_sealed(RunFolder(tmp_path / s / name).all_checkpoints()[0])[0] for s in ("straight", "stopped")
        )
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.slow
def test_each_seed_is_the_run_that_it_would_be_alone(command: Any, tmp_path: Path) -> None:
    assert command(*TINY, "--seeds", 2, "--out", "both")[0] == 0
    assert command(*TINY, "--seed", 1, "--out", "alone")[0] == 0
    alone, among = RunFolder.open(tmp_path / "alone"), RunFolder.open(tmp_path / "both" / "seed-1")
    assert alone.final_metrics("test") == among.final_metrics("test")
    assert alone.config == among.config


def test_the_summary_and_the_table_say_what_the_runs_scored(command: Any, tmp_path: Path) -> None:
    code, out, err = command(*TINY, "--seeds", 3)
    assert code == 0, err
    folder = tmp_path / "runs" / "quickstart-001"
    summary, runs = read(folder), [RunFolder.open(folder / f"seed-{seed}") for seed in range(3)]
    scores = [run.final_metrics("test") or {} for run in runs]
    columns = {
        "accuracy": [given["accuracy"] for given in scores],
        "macro_f1": [given["macro"]["f1"] for given in scores],
        "loss": [given["loss"] for given in scores],
        "train_seconds": [run.rows[0]["train_seconds"] for run in runs],
    }
    assert len(set(columns["loss"])) == 3
    for name, values in columns.items():
        assert [row[name] for row in summary["runs"]] == values
        together = summary["together"][name]
        assert together["mean"] == pytest.approx(np.mean(values))
        assert together["std"] == pytest.approx(np.std(values, ddof=1))
        assert (together["min"], together["max"]) == (min(values), max(values))
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        limit = 1 if name in ("accuracy", "macro_f1") else np.inf
        assert together["interval"] == pytest.approx((max(0, low), min(limit, high)))
    accuracy = summary["together"]["accuracy"]
    assert f"{accuracy['mean']:.2%} ± {accuracy['std']:.2%}" in out
    assert f"{accuracy['interval'][0]:.2%} to {accuracy['interval'][1]:.2%}" in out
    assert "3 runs, scored on the same 359 test images" in out
    code, out, _ = command("runs", folder)
    assert out.count("finished") == 3
    assert "3 runs were scored on it, 3 times in all" in out
    code, out, _ = command("runs")
    assert code == 0
    assert "series quickstart-001: `resnetlab runs runs/quickstart-001` lists its runs" in out


def test_without_a_final_test_validation_is_summed_up_and_the_test_split_left_alone(
    command: Any, tmp_path: Path
) -> None:
    code, out, _ = command(*TINY, "--seeds", 2, "--out", "sweep", "--final-test", "never")
    assert code == 0
    assert "144 val images, on which each run selected its best epoch" in out
    assert "2 runs are too few for an interval of the mean; --seeds 3 or more give one" in out
    assert read(tmp_path / "sweep")["split"] == "val"
    assert not list(tmp_path.rglob("*ledger*"))


def test_a_series_goes_on_by_the_same_command_and_may_get_more_seeds(command: Any, tmp_path: Path) -> None:
    words = (*TINY, "--out", "out", "--resume", "auto")
    assert command(*words, "--seeds", 2, "--max-minutes", 0)[0] == 6
    assert read(tmp_path / "out")["runs"] == []
    assert command(*words, "--seeds", 2)[0] == 0
    two = read(tmp_path / "out")
    assert command(*words, "--seeds", 3)[0] == 0
    three = read(tmp_path / "out")
    assert (three["seeds"], three["runs"][:2]) == ([0, 1, 2], two["runs"])
    assert "has 3 seeds; it cannot be resumed with fewer" in command.refuse(*words, "--seeds", 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed-*/**/*")}
    code, out, _ = command("resume", "out")
    assert code == 0
    assert "mean ± std" in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed-*/**/*")} == before


def test_a_series_keeps_its_settings(command: Any, tmp_path: Path) -> None:
    words = (*TINY, "--out", "out", "--seeds", 2)
    assert command(*words, "--max-minutes", 0)[0] == 6
    assert "there is a series in out" in command.refuse(*words)
    assert "--lr was 0.03, now 0.5" in command.refuse(*words, "--resume", "auto", "--lr", 0.5)
    assert "seed was 0, now 1" in command.refuse(*words, "--resume", "auto", "--seed", 1)
    assert "epochs was 1, now 2" in command.refuse("resume", "out", "--epochs", 2)
    assert "final_test was 'once', now 'never'" in command.refuse("resume", "out", "--final-test", "never")
    assert command("resume", "out", "--checkpoint.keep", 1, "--max-minutes", 0)[0] == 6
    assert read(tmp_path / "out")["config"]["checkpoint"]["keep"] == 1
    assert command("resume", "out/seed-0", "--epochs", 2, "--allow-change", "epochs", "--max-minutes", 0)[0] == 6
    assert "all runs of a series have the same settings, but epochs was 1, now 2" in command.refuse("resume", "out")


@pytest.mark.slow
def test_runs_on_other_images_are_not_summed_up(command: Any, tmp_path: Path) -> None:
    assert command(*TINY, "--out", "out", "--seeds", 2)[0] == 0
    file = tmp_path / "out" / "seed-1" / "evaluation" / "test" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split_digest": "0"}))
    assert "were scored on different test images" in command.refuse("resume", "out")
    file.write_text("{}")
    assert "metrics.json is damaged" in command.refuse("resume", "out")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"config": {}, "seeds": 3}'])
def test_a_summary_that_is_not_ours_is_refused(command: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    assert "summary.json" in command.refuse("resume", tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "1"], "--seeds is 1, but a series needs 2 seeds or more; without --seeds it is one run"),
        (["--seeds", "-3"], "--seeds is -3"),
        (["--seeds", "two"], "'two'"),
        (["--seeds", "2", "--seed", str(2**63 - 1)], "seed is"),
        (["--seeds", "2", "--resume", "auto"], "give --out FOLDER too"),
        (["--seeds", "2", "--max-minutes", "-1"], "must not be negative"),
        (["--seeds", "2", "--data", "nowhere"], "nowhere"),
        (["--seeds", "2", "--data", "nowhere", "--out", "deep/down"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    command: Any, tmp_path: Path, words: list[str], sentence: str
) -> None:
    assert sentence in command.refuse("train", *words)
    assert not list(tmp_path.iterdir())


def test_the_time_limit_is_that_of_all_runs_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def pretend(_series: Any, seed: int, stop: StopRequest, _on_event: object, *, strict: bool) -> None:
        given.append((seed, stop.reason))
        time.sleep(0.3)

    monkeypatch.setattr(seeds, "train_one", pretend)
    with pytest.raises(Stopped, match="stopped by the time limit before seed 2; resume with: resnetlab resume"):
        seeds.train_series(recipes.quickstart(), 9, tmp_path / "out", max_minutes=0.5 / 60)
    assert given == [(0, None), (1, None)]


@pytest.mark.slow
def test_a_run_that_was_deleted_is_trained_anew(command: Any, tmp_path: Path) -> None:
    assert command(*TINY, "--out", "out", "--seeds", 2)[0] == 0
    before = untimed(read(tmp_path / "out"))
    (tmp_path / "out" / "seed-1").rename(tmp_path / "away")
    assert command("resume", "out")[0] == 0
    assert untimed(read(tmp_path / "out")) == before


def test_a_series_resumes_strictly_if_asked(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*TINY, "--out", "out", "--seeds", 2, "--max-minutes", 0)[0] == 6
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    assert "threads was 1, now 7" in command.refuse("resume", "out", "--strict-resume")


def test_a_series_is_not_continued_on_other_images(command: Any, tmp_path: Path) -> None:
    """The scores of its runs could not be compared, although the test split of a folder of its own is the same."""
    for seed, (split, count) in enumerate((("train", 12), ("val", 4), ("test", 4))):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([seed, i, ord(name[0])]).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{i}.png")
    words = (*TINY, "--data", "pets", "--data.image-size", 8, "--out", "out", "--resume", "auto")
    assert command(*words, "--seeds", 2)[0] == 0
    new = tmp_path / "pets/train/cat/new.png"
    new.write_bytes((tmp_path / "pets/train/cat/1.png").read_bytes())
    refusal = command.refuse(*words, "--seeds", 3)
    assert "the images in" in refusal
    assert "are not those of" in refusal
    assert "1 image is new (train/cat/new.png)" in refusal
    assert not (tmp_path / "out/seed-2").exists()
    new.unlink()
    assert command(*words, "--seeds", 3)[0] == 0
