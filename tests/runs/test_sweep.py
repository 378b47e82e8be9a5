"""A sweep runs each trial once, whatever interrupts it, and leaves the test split closed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnetlab
from resnetlab.errors import BadInput, DiskTrouble, NonFinite, Stopped
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.stop import StopRequest
from resnetlab.runs.sweeps import sweep as sweeps
from resnetlab.runs.sweeps.study import Lock
from resnetlab.runs.sweeps.sweep import Sweep, sweep

optuna = pytest.importorskip("optuna")
pytestmark = [pytest.mark.usefixtures("no_pictures"), pytest.mark.filterwarnings("ignore")]
SPACE = {"optim.lr": {"low": 0.001, "high": 1.0, "log": True}, "optim.name": ["sgd", "adamw"]}


def tiny(**changes: Any) -> RunConfig:
    return recipes.quickstart().changed({"model": {"name": "tiny"}, "epochs": 2, **changes})


def run(folder: Path, trials: int = 3, space: Any = SPACE, **options: Any) -> Sweep:
    config = options.pop("config", tiny())
    return sweep(config, space, trials, folder, **{"pruner": "none"} | options)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, with_tiny_network: str) -> Sweep:
    return run(tmp_path_factory.mktemp("sweep") / "done")


def test_trials_are_runs_that_the_best_is_chosen_from_on_validation(done: Sweep) -> None:
    assert [(trial.number, trial.state, trial.epochs) for trial in done.trials] == [
        (k, "complete", 2) for k in range(3)
    ]
    for trial in done.trials:
        found = RunFolder.open(done.folder / f"trial-{trial.number:04d}")
        assert found.config == done.config_of(trial).changed({"final_test": "never"})
        assert trial.score == (found.final_metrics("val") or {})["accuracy"]
        assert found.final_metrics("test") is None
        assert not (found.path / "evaluation" / "ledger.jsonl").exists()
    assert done.best == max(done.trials, key=lambda trial: (trial.score, -trial.number))


def test_the_best_settings_are_a_file_for_train(done: Sweep, command: Any) -> None:
    code, said, _ = command("train", "--config", done.folder / "best.json", "--print-config")
    assert code == 0
    assert done.best is not None
    assert json.loads(said) == done.config_of(done.best).to_json()
    assert json.loads(said)["final_test"] == "once"


@pytest.mark.slow
def test_the_same_call_gives_the_same_values(done: Sweep, tmp_path: Path) -> None:
    again = run(tmp_path / "again", 2)
    assert [trial.values for trial in again.trials] == [trial.values for trial in done.trials[:2]]
    assert len({str(trial.values) for trial in done.trials}) == 3


def test_a_repeated_call_trains_nothing_and_a_larger_number_the_rest(done: Sweep, monkeypatch: Any) -> None:
    trained: list[Path] = []
    monkeypatch.setattr(
        sweeps, "train", lambda config, path, **_: (trained.append(path), resnetlab.train(config, path))
    )
    assert run(done.folder).trials == done.trials
    assert not trained
    assert len(run(done.folder, 4).trials) == 4
    assert [path.name for path in trained] == ["trial-0003"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"config": {"seed": 5}}, "seed was 0, now 5"),
        ({"space": {"optim.lr": [0.1]}}, "the search space was"),
        ({"pruner": "median"}, "the pruner was 'none', now 'median'"),
        ({"study": "another"}, "the name of the study was 'done', now 'another'"),
    ],
)
def test_another_sweep_is_refused_in_its_folder(done: Sweep, options: dict[str, Any], sentence: str) -> None:
    options = options | ({"config": tiny(**options["config"])} if "config" in options else {})
    with pytest.raises(BadInput, match=sentence):
        run(done.folder, **options)


def test_a_study_belongs_to_one_folder(done: Sweep, tmp_path: Path) -> None:
    storage = f"sqlite:///{done.folder / 'study.db'}"
    with pytest.raises(BadInput, match="has a study 'done' that does not belong to"):
        run(tmp_path / "elsewhere", storage=storage, study="done")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_stopped_sweep_goes_on_in_the_same_trial(kind: str, tmp_path: Path) -> None:
    storage = {"sqlite": f"sqlite:///{tmp_path / 'x.db'}", "journal": str(tmp_path / "x.journal")}[kind]
    stop, so_far = StopRequest(), list[Sweep]()

    def after_an_epoch(event: Any) -> None:
        if getattr(event, "epoch", None) == 1 and hasattr(event, "val"):
            stop.request("the test")

    with pytest.raises(Stopped, match=r"trial 0: stopped by the test at step .*; repeat the command"):
        run(tmp_path / "sweep", 2, storage=storage, stop=stop, on_event=after_an_epoch, on_stop=so_far.append)
    assert [trial.state for trial in so_far[0].trials] == ["waiting"]
    found = run(tmp_path / "sweep", 2, storage=storage)
    assert [(trial.number, trial.state, trial.epochs) for trial in found.trials] == [
        (0, "complete", 2),
        (1, "complete", 2),
    ]
    sessions = RunFolder.open(tmp_path / "sweep" / "trial-0000").sessions
    assert [session["from_step"] > 0 for session in sessions] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_trial_whose_process_died_is_continued_under_its_number(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    storage = {"sqlite": f"sqlite:///{tmp_path / 'x.db'}", "journal": str(tmp_path / "x.journal")}[kind]
    die_in_training(monkeypatch, epoch=1)
    with pytest.raises(Dead):
        run(tmp_path / "sweep", 2, storage=storage)
    assert states(tmp_path / "sweep", storage) == ["RUNNING"], "nobody was there to change it"
    found = run(tmp_path / "sweep", 2, storage=storage)
    assert [(trial.number, trial.state, trial.epochs) for trial in found.trials] == [
        (0, "complete", 2),
        (1, "complete", 2),
    ]
    assert len(RunFolder.open(tmp_path / "sweep" / "trial-0000").sessions) == 2


@pytest.mark.slow
def test_a_trial_that_kills_its_process_three_times_has_failed(tmp_path: Path, monkeypatch: Any) -> None:
    die_in_training(monkeypatch, epoch=1, number=0, times=3)
    for _ in range(3):
        with pytest.raises(Dead):
            run(tmp_path / "sweep", 2, config=tiny(epochs=5))
    found = run(tmp_path / "sweep", 2, config=tiny(epochs=5))
    assert [(trial.state, trial.why) for trial in found.trials] == [
        ("failed", "its process was killed 3 times"),
        ("complete", ""),
    ]


class Dead(BaseException):
    """The end of a process, as far as it can be had in this one: the lock is released, nothing else is done."""


def die_in_training(monkeypatch: Any, epoch: int, number: int = 0, times: int = 1) -> None:
    left, original = [times], sweeps.Worker.train

    def train(worker: Any, trial: Any, values: Any) -> float:
        def on_event(event: Any) -> None:
            if trial.number == number and hasattr(event, "val") and event.epoch >= epoch and left[0]:
                left[0] -= 1
                raise Dead

        worker.on_event = on_event
        return original(worker, trial, values)

    monkeypatch.setattr(sweeps.Worker, "train", train)


def states(folder: Path, storage: str) -> list[str]:
    from resnetlab.runs.sweeps.study import open_storage

    study = optuna.load_study(study_name=folder.name, storage=open_storage(storage, folder))
    return [trial.state.name for trial in study.trials]


@pytest.mark.slow
def test_trials_that_others_work_on_are_waited_for(done: Sweep, monkeypatch: Any, tmp_path: Path) -> None:
    """Another process holds trial 0; this one runs trial 1, waits, and takes trial 0 when that process is gone."""
    die_in_training(monkeypatch, epoch=1)
    with pytest.raises(Dead):
        run(tmp_path / "sweep", 2)
    other = Lock(tmp_path / "sweep" / ".locks" / "trial-0000")
    assert other.take(wait=False)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            other.release()

    monkeypatch.setattr(sweeps.time, "sleep", nap)
    found = run(tmp_path / "sweep", 2)
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    assert len(naps) == 3


def test_poor_trials_are_pruned_at_the_end_of_an_epoch(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("optuna.pruners.MedianPruner.prune", lambda self, study, trial: trial.number == 1)
    found = run(tmp_path / "sweep", 3, pruner="median", config=tiny(epochs=3))
    assert [(trial.state, trial.epochs) for trial in found.trials] == [("complete", 3), ("pruned", 1), ("complete", 3)]
    assert RunFolder.open(tmp_path / "sweep" / "trial-0001").final_metrics("val") is None


@pytest.mark.slow
def test_hyperband_decides_after_epochs_1_3_and_9(tmp_path: Path, monkeypatch: Any) -> None:
    decided: list[int] = []

    def prune(pruner: Any, study: Any, trial: Any) -> bool:
        keys = [key for key in trial.system_attrs if key.startswith("completed_rung_")]
        verdict = bool(original(pruner, study, trial))
        (now,) = [other for other in study.get_trials(deepcopy=False) if other.number == trial.number]
        if len([key for key in now.system_attrs if key.startswith("completed_rung_")]) > len(keys):
            decided.append(trial.last_step)
        return verdict

    original = optuna.pruners.SuccessiveHalvingPruner.prune
    monkeypatch.setattr("optuna.pruners.SuccessiveHalvingPruner.prune", prune)
    run(tmp_path / "sweep", 4, pruner="hyperband", config=tiny(epochs=9))
    assert decided
    assert set(decided) <= {1, 3, 9}


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_both_pruners_work(pruner: Any, tmp_path: Path) -> None:
    found = run(tmp_path / "sweep", 8, pruner=pruner, config=tiny(epochs=4, best_by="loss"))
    assert all(trial.state in ("complete", "pruned") for trial in found.trials)
    assert found.best is not None
    assert found.best.score == min(trial.score for trial in found.finished)


def test_the_chosen_trial_is_scored_on_the_test_split_once(tmp_path: Path) -> None:
    found = run(tmp_path / "sweep", 2, final=True)
    assert found.best is not None
    log = (tmp_path / "sweep" / "test-ledger.jsonl").read_text()
    assert len(log.splitlines()) == 1
    assert f"trial-{found.best.number:04d}" in log
    assert found.test_scores == found.run(found.best).final_metrics("test")
    assert run(tmp_path / "sweep", 2, final=True).test_scores == found.test_scores
    assert (tmp_path / "sweep" / "test-ledger.jsonl").read_text() == log


@pytest.mark.slow
def test_the_test_split_is_not_used_for_a_second_trial(tmp_path: Path, monkeypatch: Any) -> None:
    found = run(tmp_path / "sweep", 2)
    worse = found.finished[1]
    resnetlab.evaluate(found.run(worse).path, split="test")
    with pytest.raises(BadInput, match=f"the test split was used for trial {worse.number}") as refused:
        run(tmp_path / "sweep", 2, final=True)
    assert "--split test" not in str(refused.value)


@pytest.mark.slow
def test_settings_that_do_not_go_together_are_a_failed_trial(tmp_path: Path) -> None:
    found = run(tmp_path / "sweep", 4, {"accumulate": [1, 128]})
    assert {trial.state for trial in found.trials} == {"complete", "failed"}
    assert all("accumulate is 128" in trial.why for trial in found.trials if trial.state == "failed")


def test_a_diverged_trial_is_pruned(tmp_path: Path, monkeypatch: Any) -> None:
    def train(config: Any, path: Path, **options: Any) -> Any:
        if path.name == "trial-0001":
            raise NonFinite("the loss is NaN in step 3; lower the rate")
        return resnetlab.train(config, path, **options)

    monkeypatch.setattr(sweeps, "train", train)
    found = run(tmp_path / "sweep", 2)
    assert [(trial.state, trial.why) for trial in found.trials] == [
        ("complete", ""),
        ("pruned", "the loss is NaN in step 3"),
    ]


def test_what_is_no_fault_of_a_trial_costs_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="too small for fast_resnet8"):
        run(tmp_path / "sweep", 3, config=tiny(model={"name": "fast_resnet8"}))
    assert states(tmp_path / "sweep", f"sqlite:///{tmp_path / 'sweep' / 'study.db'}") == ["WAITING"]


@pytest.mark.parametrize("where", ["resnetlab.runs.sweeps.study.write_json", "optuna.Study.set_user_attr"])
def test_a_process_that_dies_while_it_begins_a_sweep_leaves_one_that_can_begin(
    where: str, tmp_path: Path, monkeypatch: Any
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(where, die)
        with pytest.raises(Dead):
            run(tmp_path / "sweep", 1)
    assert [trial.state for trial in run(tmp_path / "sweep", 1).trials] == ["complete"]


def test_a_full_disk_is_no_fault_of_a_trial(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise DiskTrouble("could not write checkpoints: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "train", full)
        for _ in range(3):
            with pytest.raises(DiskTrouble, match="No space left"):
                run(tmp_path / "sweep", 1)
    assert [trial.state for trial in run(tmp_path / "sweep", 1).trials] == ["complete"]


def test_an_undefined_score_is_a_failed_trial(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweeps, "score_of", lambda *_: math.nan)
    assert run(tmp_path / "sweep", 1).trials[0].why == "its accuracy is undefined"


def test_a_damaged_storage_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no data base")
    with pytest.raises(BadInput, match="could not open the storage of the sweep: file is not a database"):
        run(tmp_path / "sweep", storage=f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(BadInput, match=r"the journal is .*, but must be a file in an existing folder"):
        run(tmp_path / "sweep", storage=str(tmp_path / "none" / "x.journal"))


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.take(wait=False)
    assert not other.take(wait=False)
    one.release()
    assert other.take(wait=True)
    other.release()
    with pytest.raises(DiskTrouble, match="could not lock"):
        Lock(tmp_path / "none" / "lock").take(wait=False)


def test_no_trial_is_trained_on_other_images_than_those_before_it(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng([label, i]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    config = tiny(data={"name": str(tmp_path / "pets"), "image_size": 8}, batch_size=16)
    assert len(run(tmp_path / "sweep", 1, config=config).trials) == 1
    shutil.copy(tmp_path / "pets/cat/1.png", tmp_path / "pets/cat/new.png")
    with pytest.raises(BadInput, match=r"are not those of .*trial-0000: 1 image is new \(cat/new\.png\)"):
        run(tmp_path / "sweep", 2, config=config)
    (tmp_path / "pets/cat/new.png").unlink()
    assert [trial.state for trial in run(tmp_path / "sweep", 2, config=config).trials] == ["complete", "complete"]
