"""Whole runs, on digits and on small folders: exact, resumable, complete."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import load, load_model
from resnetlab.errors import BadInput, Damaged, NonFinite, NoSoundCheckpoint, Stopped
from resnetlab.evaluation.metrics import Score
from resnetlab.files import read_sealed
from resnetlab.plots import batch as batch_plot
from resnetlab.plots import style
from resnetlab.runs import experiment, recipes, resume
from resnetlab.runs.build import Experiment
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import COLUMNS
from resnetlab.runs.stop import StopRequest
from resnetlab.training.loss import WeightedCrossEntropy
from resnetlab.training.selection import best_epoch


def tiny(**changes: Any) -> RunConfig:
    """A fraction of a second on digits: a thin network for a few steps."""
    base = {"model": {"name": "tiny"}, "epochs": 2, "batch_size": 256, "precision": "fp32"}
    return recipes.quickstart().changed(base | changes)


def train(config: RunConfig, folder: Path) -> RunFolder:
    return experiment.train(config, folder)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint: network, average, optimiser."""
    return read_sealed(run.all_checkpoints()[0])[0]


def assert_same_bits(one: RunFolder, other: RunFolder) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(autouse=True)
def without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs; tests that look for the pictures are marked."""
    if "pictures" not in request.keywords:
        monkeypatch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
        monkeypatch.setattr(experiment, "draw_curves", lambda *_: None)
        monkeypatch.setattr(experiment, "draw_batch", lambda *_: None)


class StopAfter:
    """A stop request that comes after so many looks at it: one a step, one an epoch."""

    def __init__(self, events: int) -> None:
        self.events = events

    @property
    def reason(self) -> str | None:
        self.events -= 1
        return "the test" if self.events < 0 else None


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def arrange(events: int) -> None:
        stop = StopAfter(events)
        monkeypatch.setattr(StopRequest, "reason", property(lambda _self: stop.reason))

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_same_seed_same_bits(precision: str, tmp_path: Path) -> None:
    one, other = (
        train(tiny(precision=precision, model={"name": "resnet20"}, epochs=1), tmp_path / name) for name in "ab"
    )
    assert_same_bits(one, other)
    assert load(one.path).model.weights_digest == load(other.path).model.weights_digest


def test_another_seed_is_another_run_on_the_same_splits(tmp_path: Path) -> None:
    one, other = (train(tiny(seed=seed, epochs=1), tmp_path / str(seed)) for seed in (0, 1))
    assert not torch.equal(weights(one)["model.fc.weight"], weights(other)["model.fc.weight"])
    assert one.read_json("split.json") == other.read_json("split.json")
    assert (one.path / "split.json").read_bytes() == (other.path / "split.json").read_bytes()


@pytest.fixture(scope="module")
def straight_through(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], RunFolder]:
    """Trains a config without interruption, once for all tests."""
    runs: dict[str, RunFolder] = {}

    def run_of(config: RunConfig) -> RunFolder:
        key = config.model_dump_json()
        if key not in runs:
            runs[key] = train(config, tmp_path_factory.mktemp("straight") / "run")
        return runs[key]

    return run_of


@pytest.mark.parametrize("events", [5, 8, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 6, 11))])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "ema": 0.9, "augment": {"crop": 1, "cutout": 3, "flip": True}},
        {"optim": {"name": "adamw", "lr": 1e-3}, "accumulate": 3, "schedule": {"name": "plateau", "patience": 0}},
    ],
    ids=["plain", "bf16-ema-cutout", "adamw-accumulate-plateau"],
)
def test_stop_and_resume_equals_straight_through(
    changes: dict[str, Any], events: int, tmp_path: Path, stop_after: Any, straight_through: Any
) -> None:
    config = tiny(**changes)  # 5 steps and a report an epoch
    straight = straight_through(config)
    stop_after(events)
    with pytest.raises(Stopped, match=r"stopped by the test at step \d+ of 10; resume with: `resnetlab.resume\("):
        train(config, tmp_path / "stopped")
    stop_after(1000)
    resumed = resume.resume(tmp_path / "stopped")
    assert_same_bits(straight, resumed)
    for key in ("epoch", "step", "val_loss", "running_loss", "train_accuracy"):
        assert [row[key] for row in resumed.rows] == [row[key] for row in straight.rows]
    assert straight.final_metrics("test") == resumed.final_metrics("test")


def test_a_stop_request_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    stop, events = StopRequest(), []

    def request(event: Any) -> None:
        events.append(event)
        if len(events) == 3:
            stop.request("the test")
            stop.request("another reason")

    with pytest.raises(Stopped, match="stopped by the test at step 3"):
        experiment.train(tiny(), tmp_path / "run", stop=stop, on_event=request)
    assert RunFolder(tmp_path / "run").all_checkpoints()[0].name == "step-00000003.ckpt"


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight_through: Any
) -> None:
    straight = straight_through(tiny())

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("resnetlab.runs.writer.CheckpointWriter.keep_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), tmp_path / "killed")
    assert_same_bits(straight, resume.resume(tmp_path / "killed"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, stop_after: Any, straight_through: Any
) -> None:
    straight = straight_through(tiny())
    stop_after(8)
    with pytest.raises(Stopped):
        train(tiny(), tmp_path / "run")
    stop_after(1000)
    run = RunFolder(tmp_path / "run")
    newest, _ = run.all_checkpoints()
    damage(newest)
    resumed = resume.resume(run.path)
    assert f"{newest.name} is damaged" in (run.path / "log.txt").read_text()
    assert_same_bits(straight, resumed)


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    for path in run.all_checkpoints():
        damage(path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path != run.log}
    with pytest.raises(NoSoundCheckpoint, match=r"none of the checkpoints .* is sound"):
        resume.resume(run.path)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path != run.log} == before


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_checkpoints_within_an_epoch(tmp_path: Path) -> None:
    run = train(tiny(checkpoint={"every_steps": 2, "keep": 99}), tmp_path / "run")
    assert sorted(int(path.stem[5:]) for path in run.all_checkpoints()) == [2, 4, 5, 6, 8, 10]


@pytest.mark.pictures
def test_a_run_folder_holds_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are made, but not rendered: test_evaluation_files.py opens such files."""
    monkeypatch.setattr(style, "save", lambda _figure, path: path.touch())
    run = train(tiny(epochs=3), tmp_path / "run")
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert names == {
        ".lock",
        "config.json",
        "environment.json",
        "split.json",
        "log.txt",
        "metrics.jsonl",
        "metrics.csv",
        "augmented.png",
        "curves.png",
        "best.safetensors",
        "checkpoints/step-00000010.ckpt",
        "checkpoints/step-00000015.ckpt",
        "evaluation/ledger.jsonl",
        "evaluation/val/report_samples.safetensors",
        *(
            f"evaluation/{split}/{name}"
            for split in ("val", "test")
            for name in (
                "metrics.json",
                "per_class.csv",
                "predictions.csv",
                "confusion_matrix.csv",
                "confusion_matrix.png",
                "classes.png",
                "calibration.png",
                "risk_coverage.png",
                "samples.png",
                "mistakes.png",
            )
        ),
    }
    with (run.path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(COLUMNS)
    assert [int(row["epoch"]) for row in table] == [1, 2, 3]
    assert RunConfig.model_validate(run.read_json("config.json")) == tiny(epochs=3)
    assert run.read_json("environment.json")["precision"] == "fp32"
    log = (run.path / "log.txt").read_text()
    assert "epoch 3/3" in log
    assert "test  accuracy" in log
    scores = [Score(row["val_loss"], row["val_accuracy"], row["val_macro_f1"]) for row in run.rows]
    model = load(run.path).model
    assert model.provenance["epoch"] == best_epoch(scores, "accuracy") + 1
    final = run.final_metrics("test")
    assert final is not None
    assert final["weights_digest"] == model.weights_digest
    assert final["split_digest"] == run.read_json("split.json")["splits"]["test"]["digest"]


def test_final_test_never_leaves_the_test_split_alone(tmp_path: Path) -> None:
    run = train(tiny(epochs=1, final_test="never"), tmp_path / "run")
    assert run.final_metrics("val") is not None
    assert run.final_metrics("test") is None


def test_resuming_a_finished_run_completes_its_evaluation_and_trains_no_further(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    before, scores = weights(run), run.final_metrics("test")
    (run.evaluation("test") / "metrics.json").unlink()
    again = resume.resume(run.path)
    assert again.final_metrics("test") == scores
    assert all(torch.equal(value, weights(again)[name]) for name, value in before.items())


def test_a_finished_run_is_extended_and_its_past_stays_what_it_was(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    past = run.rows
    longer = resume.resume(run.path, changes={"epochs": 4})
    assert longer.rows[:2] == past
    assert [row["epoch"] for row in longer.rows] == [1, 2, 3, 4]
    assert longer.rows[2]["lr"] < 0.005  # a cosine from a tenth of the peak
    assert longer.extended_at == (10,)
    assert "extended_at" not in longer.read_json("config.json")
    assert read_sealed(longer.all_checkpoints()[0])[1]["extended_at"] == [10]
    final = longer.final_metrics("test")
    assert final is not None
    assert final["weights_digest"] == load(longer.path).model.weights_digest
    with pytest.raises(BadInput, match="already trained 20 steps"):
        resume.resume(run.path, changes={"epochs": 3})


def test_every_session_of_a_run_stays_on_record(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    (first,) = run.sessions
    resume.resume(run.path)
    resume.resume(run.path, changes={"epochs": 3, "optim": {"lr": 0.01}}, allowed=["optim.lr"])
    before, finished, longer = run.sessions
    assert before == first
    assert [session["from_step"] for session in run.sessions] == [0, 10, 10]
    assert (finished["changed"], longer["changed"]) == ({}, {"optim.lr": [0.03, 0.01], "epochs": [2, 3]})
    assert all(session["started"] >= first["started"] and session["precision"] == "fp32" for session in run.sessions)


def test_the_record_of_an_older_version_is_its_first_session(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    old = {"device_name": "an older machine", "precision": "fp32", "command": ["resnetlab", "train"]}
    run.write("environment.json", old)
    assert run.sessions == [old]
    resume.resume(run.path)
    assert run.sessions[0] == old
    assert len(run.sessions) == 2
    assert run.read_json("environment.json")["command"] == old["command"]


def test_a_damaged_record_of_sessions_is_refused_and_not_replaced(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    for content in ("{", "[]", '{"resumed": 3}', '{"resumed": [3]}', '{"from_step": "x"}'):
        (run.path / "environment.json").write_text(content)
        with pytest.raises(BadInput, match="move that file away"):
            resume.resume(run.path)
        assert (run.path / "environment.json").read_text() == content
    (run.path / "environment.json").unlink()
    resume.resume(run.path)
    assert [session["from_step"] for session in run.sessions] == [10]


def test_settings_without_effect_are_named_in_the_log(tmp_path: Path) -> None:
    optim = {"name": "adam", "momentum": 0.5, "lr": 0.01}
    run = train(tiny(epochs=None, steps=3, optim=optim, schedule={"warmup_steps": 3}, sync_bn=True), tmp_path / "run")
    log = run.log.read_text()
    assert "warning  optim.momentum has no effect: optim.name is adam, and it is for sgd, muon\n" in log
    assert "warning  schedule.warmup_steps is 3, but the run has 3 steps: its rate never is 0.01\n" in log
    assert "warning  sync_bn has no effect: there is one process; start several with torchrun\n" in log
    assert "optim.nesterov has" not in log  # the recipe's value, which nobody chose


def test_another_length_of_an_unfinished_run_must_be_allowed(tmp_path: Path, stop_after: Any) -> None:
    stop_after(3)
    with pytest.raises(Stopped):
        train(tiny(), tmp_path / "run")
    stop_after(1000)
    with pytest.raises(BadInput, match=r"add `allowed=\['epochs'\]`"):
        resume.resume(tmp_path / "run", changes={"epochs": 3})
    run = resume.resume(tmp_path / "run", changes={"epochs": 3}, allowed=["epochs"])
    assert len(run.rows) == 3


def test_epochs_that_are_missing_from_the_record_are_named(tmp_path: Path, stop_after: Any) -> None:
    run = train(tiny(), tmp_path / "run")
    file = run.path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    resume.resume(run.path, changes={"epochs": 3})
    assert "metrics.jsonl has 1 of 2 epochs" in run.log.read_text()


def test_training_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    run = train(tiny(epochs=20, patience=1, optim={"lr": 1e-9}, schedule={"name": "constant"}), tmp_path / "run")
    assert 2 <= len(run.rows) < 20
    with pytest.raises(BadInput, match="stopped early"):
        resume.resume(run.path, changes={"epochs": 30})


def test_a_loss_that_is_no_number_ends_the_run_before_a_checkpoint_holds_it(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"in epoch 1 .*a smaller `lr`.*images: digits/.*there is no checkpoint yet"):
        train(tiny(optim={"name": "sgd", "lr": 1e30}, schedule={"name": "constant"}), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred pictures of odd sizes and modes: bright discs and dark bars, one folder a class."""
    root = tmp_path_factory.mktemp("shapes")
    draw = np.random.default_rng(0)
    for name in ("bars", "discs", "noise"):
        (root / name).mkdir()
        for number in range(40):
            height, width = draw.integers(20, 60, 2)
            pixels = draw.integers(0, 90, (height, width, 3)).astype(np.uint8)
            y, x = np.ogrid[:height, :width]
            if name == "discs":
                pixels[(y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2] += 150
            elif name == "bars":
                pixels[:, width // 3 : width // 2] += 150
            mode = ("RGB", "L", "RGBA", "CMYK")[number % 4]
            Image.fromarray(pixels).convert(mode).save(root / name / f"{number}.{'tif' if mode == 'CMYK' else 'png'}")
    return root


def test_a_folder_of_odd_images_trains_without_another_flag(shapes: Path, tmp_path: Path, command: Any) -> None:
    code, out, err = command("train", "--data", shapes, "--epochs", 2, "--model", "resnet20")
    assert code == 0, err
    run = RunFolder.open(tmp_path / "runs" / "folder-001")
    assert run.config.data.name == str(shapes)
    assert load(run.path).classes == ("bars", "discs", "noise")
    assert load(run.path)(shapes / "discs" / "1.png").predicted in ("bars", "discs", "noise")
    assert "32x32 px" in out


def test_a_run_notices_that_its_images_have_changed(shapes: Path, tmp_path: Path, stop_after: Any) -> None:
    config = recipes.folder().changed({"data": {"name": str(shapes)}, "model": {"name": "resnet20"}, "epochs": 1})
    stop_after(0)
    with pytest.raises(Stopped):
        train(config, tmp_path / "run")
    stop_after(1000)
    extra = shapes / "bars" / "extra.png"
    (shapes / "bars" / "0.png").rename(extra)
    try:
        with pytest.raises(BadInput, match=r"1 image is under another name \(bars/0.png, now bars/extra.png\)"):
            resume.resume(tmp_path / "run")
    finally:
        extra.rename(shapes / "bars" / "0.png")
    (tmp_path / "run" / "split.json").write_text("[]")
    with pytest.raises(Damaged, match=r"run/split\.json is not the record of a run's images"):
        resume.resume(tmp_path / "run")


@pytest.mark.parametrize(("size", "seen"), [(None, [4, 6, 8]), (12, [6, 9, 12]), (5, [2, 4, 5])])
def test_images_grow_to_the_full_size_whatever_that_is(size: int | None, seen: list[int]) -> None:
    config = tiny(epochs=3, augment={"sizes": (0.5, 0.75, 1)}, data={"image_size": size})
    batches = Experiment.of(config).batches
    assert [next(batches.train.epoch(epoch)).images.shape[-1] for epoch in range(3)] == seen
    assert next(iter(batches.val)).images.shape[-1] == seen[-1]


def test_a_size_is_a_share_and_no_number_of_pixels(command: Any) -> None:
    code, _, err = command("train", "quickstart", "--augment.sizes", "24", "32")
    assert code == 2
    assert "augment.sizes" in err
    assert "less than or equal to 1" in err


def test_freezing_trains_the_head_alone(tmp_path: Path) -> None:
    first = train(tiny(epochs=1), tmp_path / "first")
    weights_file = tmp_path / "weights.pth"
    torch.save(load_model(first.path).state_dict(), weights_file)
    settings = {"model": {"name": "tiny", "pretrained": str(weights_file), "freeze": True}}
    second = train(tiny(epochs=1, **settings), tmp_path / "second")
    before, after = load_model(first.path).state_dict(), load_model(second.path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    run = train(tiny(epochs=1), tmp_path / "run")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for path in [*run.path.rglob("*.json"), run.path / "metrics.jsonl"]:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)


def test_the_log_says_that_muon_decays_no_kernels(tmp_path: Path) -> None:
    changes = {"model": {"name": "tiny"}, "steps": 1, "final_test": "never"}
    optim = {"name": "muon", "lr": 0.01, "weight_decay": 0.1}
    run = train(recipes.quickstart().changed(changes | {"optim": optim}), tmp_path / "run")
    assert run.log.read_text().count("warning  weight decay is not applied to convolution kernels") == 1


@pytest.mark.pictures
def test_the_first_batch_is_drawn_as_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only once: a resumed run does not draw it again."""
    drawn = []
    monkeypatch.setattr(batch_plot, "batch", lambda *values, **words: drawn.append((values, words)))
    monkeypatch.setattr(style, "save", lambda _figure, path: path.touch())
    monkeypatch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
    run = train(tiny(epochs=1, augment={"mixup": 1.0, "crop": 0}), tmp_path / "run")
    assert (run.path / "augmented.png").exists()
    resume.resume(run.path, changes={"epochs": 2})
    (((images, shares), words),) = drawn
    first = next(iter(Experiment.of(run.config).batches.train.epoch(0)))
    assert first.shares is not None
    assert np.array_equal(shares, first.shares[:32])
    preprocessing = load(run.path).model.preprocessing
    assert np.array_equal(images, preprocessing.denormalize(first.images[:32]))
    assert (words["total"], words["subtitle"]) == (len(first.labels), "mixed in pairs by MixUp (alpha 1)")
    log = (run.path / "log.txt").read_text()
    assert "images   mixed in pairs by MixUp (alpha 1) (the running accuracy counts a prediction by" in log


MIXED = {"policy": "trivial", "mixup": 0.2, "cutmix": 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"augment": MIXED}, id="trivial-mixed"),
        pytest.param({"augment": {"policy": "rand", "flip": True}, "data": {"balance": "weights"}}, id="rand-weights"),
        pytest.param({"augment": {"mixup": 0.4}, "data": {"balance": "sampler"}}, id="mixup-sampler"),
    ],
)
def test_a_run_stopped_within_an_epoch_has_the_bits_of_one_that_was_not(
    changes: dict[str, Any], tmp_path: Path, stop_after: Any
) -> None:
    straight = train(tiny(**changes), tmp_path / "straight")
    stop_after(7)
    with pytest.raises(Stopped):
        train(tiny(**changes), tmp_path / "stopped")
    stop_after(1000)
    resumed = resume.resume(tmp_path / "stopped")
    assert_same_bits(straight, resumed)
    plain = train(tiny(), tmp_path / "plain")
    assert not all(torch.equal(value, weights(plain)[name]) for name, value in weights(straight).items())


def test_the_effect_of_balancing_is_told_for_the_smallest_and_the_largest_class(tmp_path: Path) -> None:
    for balance, words in (("sampler", "an image is drawn, on average, by its class"), ("weights", "an image counts")):
        run = train(tiny(epochs=1, data={"balance": balance}, final_test="never"), tmp_path / balance)
        log = (run.path / "log.txt").read_text()
        assert f"note     data.balance {balance}: {words}" in log
        assert "times an epoch" in log or balance == "weights"


def test_a_longer_run_keeps_the_weights_of_its_classes(tmp_path: Path) -> None:
    run = train(tiny(epochs=1, data={"balance": "weights"}, final_test="never"), tmp_path / "run")
    experiment_of = Experiment.of(run.config)
    longer = resume.with_length(experiment_of, run.config.changed({"epochs": 3}), {"epochs"})
    assert longer.plan.steps == 3 * experiment_of.plan.steps
    assert longer.plan.loss_fn is experiment_of.plan.loss_fn
    assert isinstance(longer.plan.loss_fn, WeightedCrossEntropy)
