"""Trackers get the numbers of metrics.jsonl, the pictures and the model file, and no failure of theirs ends a run."""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import resnetlab
from resnetlab.errors import BadInput, Stopped
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.trackers import tracking
from resnetlab.runs.trackers.tracker import Tracker, numbers

PICTURES = {"augmented", "curves"} | {
    f"{split}/{name}" for split in ("val", "test") for name in ("confusion_matrix", "samples", "mistakes")
}
pytestmark = pytest.mark.filterwarnings("ignore")  # what the packages warn of while they are imported


def tiny(*track: str, **changes: Any) -> RunConfig:
    small = {"model": {"name": "tiny"}, "track": track, "epochs": 2}
    return recipes.quickstart().changed(small | changes)


@pytest.fixture
def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `no_pictures`, for single tests of this module: others look at the pictures."""
    for name in ("evaluation_files.draw", "experiment.draw_curves", "experiment.draw_batch"):
        monkeypatch.setattr(f"resnetlab.runs.{name}", lambda *_: None)


class MlflowStore:
    """What the store of MLflow has, in SQLite."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        self.folder = folder
        self.client.create_experiment("resnetlab", artifact_location=str(folder / "artifacts"))

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("resnetlab")
        return list(self.client.search_runs([experiment.experiment_id]))

    def history(self, name: str) -> list[tuple[int, float]]:
        (run,) = self.runs()
        return [(metric.step, metric.value) for metric in self.client.get_metric_history(run.info.run_id, name)]

    def files(self) -> set[str]:
        (run,) = self.runs()
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowStore:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return MlflowStore(tmp_path)


def require_same_numbers(store: MlflowStore, run: RunFolder) -> None:
    for name in numbers(run.rows[0]):
        assert store.history(name) == [(row["step"], pytest.approx(row[name])) for row in run.rows], name


@pytest.mark.slow
def test_mlflow_has_the_numbers_pictures_and_the_model_file(store: MlflowStore, tmp_path: Path) -> None:
    run = resnetlab.train(tiny("mlflow"), tmp_path / "run")
    require_same_numbers(store, run)
    (found,) = store.runs()
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["optim.lr"] == str(run.config.optim.lr)
    for split in ("val", "test"):
        scores = run.final_metrics(split) or {}
        assert found.data.metrics[f"final_{split}_accuracy"] == pytest.approx(scores["accuracy"])
        assert found.data.metrics[f"final_{split}_macro_f1"] == pytest.approx(scores["macro"]["f1"])
    assert store.files() >= {f"pictures/{name}.png" for name in PICTURES} | {"model/best.safetensors"}
    (path,) = store.folder.joinpath("artifacts").rglob("best.safetensors")
    assert path.read_bytes() == run.best.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("draw_nothing")
def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(store: MlflowStore, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        resnetlab.train(tiny("mlflow"), tmp_path / "run", on_event=stop_after(1))
    assert [run.info.status for run in store.runs()] == ["KILLED"]
    resnetlab.resume(tmp_path / "run")
    require_same_numbers(store, RunFolder(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("draw_nothing")
def test_epochs_that_mlflow_has_not_got_are_sent_by_the_next_session(store: MlflowStore, tmp_path: Path) -> None:
    resnetlab.train(tiny(), tmp_path / "run")
    resnetlab.resume(tmp_path / "run", changes={"track": ["mlflow"], "epochs": 3})
    require_same_numbers(store, RunFolder(tmp_path / "run"))


def stop_after(epoch: int) -> Any:
    def on_event(event: Any) -> None:
        if getattr(event, "val", None) is not None and event.epoch == epoch:
            raise Stopped("stopped by the test")

    return on_event


@pytest.mark.slow
def test_wandb_offline_has_the_numbers_pictures_and_the_model_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    run = resnetlab.train(tiny("wandb"), tmp_path / "run")
    wandb.teardown()  # as at the end of the process; until then, the end of the file is in the memory of W&B's own one
    records = list(wandb_records(run.path))
    history = [
        {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    epochs = [one for one in history if "epoch" in one]
    assert len(epochs) == len(run.rows) == 2
    for one, row in zip(epochs, run.rows, strict=True):
        assert int(one["_step"]) == row["step"]
        for name, value in numbers(row).items():
            assert float(one[name]) == pytest.approx(value), name
    found = {name.partition("pictures/")[2] for one in history for name in one if "pictures/" in name}
    assert {name.partition(".")[0] for name in found} >= PICTURES
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert [(entry.path, entry.size) for entry in artifact.manifest.contents] == [
        ("best.safetensors", run.best.stat().st_size)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("draw_nothing")
def test_each_session_offline_has_all_epochs_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one may have been killed, and its file then lacks the last ones."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(Stopped):
        resnetlab.train(tiny("wandb", epochs=3), tmp_path / "run", on_event=stop_after(1))
    wandb.teardown()
    (first,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    first.unlink()
    run = resnetlab.resume(tmp_path / "run")
    wandb.teardown()
    found = [
        {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        for record in wandb_records(run.path)
        if record.WhichOneof("record_type") == "history"
    ]
    assert [int(one["_step"]) for one in found if "epoch" in one] == [row["step"] for row in run.rows]
    assert len(run.rows) == 3


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records in the file that `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    content, place, parts = path.read_bytes(), 7, b""  # after its own header, the log format of LevelDB
    while place < len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768  # no header begins at the end of a block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.mark.usefixtures("draw_nothing")
def test_tensorboard_is_a_tracker(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = resnetlab.train(tiny("tensorboard"), tmp_path / "run")
    events = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/val")] == [row["step"] for row in run.rows]
    assert len(events.Scalars("final/test_accuracy")) == 1


class Faulty:
    """A tracker one of whose methods fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.called: list[str] = []

    def opened(self, run: Any) -> Tracker:
        self.call("open")
        return self

    def call(self, name: str) -> None:
        self.called.append(name)
        if name == self.name:
            raise OSError(28, "No space left on device")

    def epoch(self, row: Mapping[str, Any]) -> None:
        self.call("epoch")

    def picture(self, name: str, file: Path) -> None:
        self.call("picture")

    def scores(self, scores: Mapping[str, float]) -> None:
        self.call("scores")

    def model(self, file: Path) -> None:
        self.call("model")

    def close(self, ending: str) -> None:
        self.call("close")


@pytest.mark.usefixtures("draw_nothing")
@pytest.mark.parametrize("name", ["open", "epoch", "picture", "scores", "model", "close"])
def test_a_tracker_that_fails_is_one_sentence_and_the_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, sound = Faulty(name), Faulty("none")
    monkeypatch.setattr(tracking, "OPENERS", {"mlflow": faulty.opened, "wandb": sound.opened})
    monkeypatch.setattr("resnetlab.runs.experiment.draw_curves", lambda _, run, __: (run.path / "a.png").touch())
    run = resnetlab.train(tiny("mlflow", "wandb"), tmp_path / "run")
    assert run.is_scored
    assert faulty.called[: faulty.called.index(name)].count("epoch") == {"open": 0, "epoch": 0}.get(name, 2)
    assert faulty.called[faulty.called.index(name) + 1 :] in ([], ["close"]), "nothing is called after the error"
    assert sound.called == ["open", "epoch", "epoch", "scores", "picture", "model", "close"]
    (sentence,) = [line for line in run.log.read_text().splitlines() if "mlflow" in line]
    assert sentence == (
        "warning  mlflow does not track this run any more: OSError: [Errno 28] No space left on device; the run goes "
        "on, and its folder has everything"
    )


@pytest.mark.usefixtures("draw_nothing")
@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard.writer"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_without_the_package_the_sentence_has_the_command(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    run = resnetlab.train(tiny(name), tmp_path / "run")
    assert run.is_scored
    (sentence,) = [line for line in run.log.read_text().splitlines() if "warning" in line]
    assert f"pip install 'resnetlab[{name}]'; the run goes on" in sentence


@pytest.mark.usefixtures("draw_nothing")
def test_a_server_that_does_not_answer_delays_the_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    class Silent(Faulty):
        def epoch(self, row: Mapping[str, Any]) -> None:
            answer.wait()

    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    monkeypatch.setattr(tracking, "OPENERS", dict.fromkeys(tracking.OPENERS, Silent("none").opened))
    run = resnetlab.train(tiny("mlflow"), tmp_path / "run")
    answer.set()
    assert run.is_scored
    assert "warning  mlflow has not answered for 0.05 seconds" in run.log.read_text()


@pytest.mark.usefixtures("draw_nothing")
def test_a_server_that_is_down_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the port to discard what is sent
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = resnetlab.train(tiny("mlflow"), tmp_path / "run")
    assert run.is_scored
    assert "warning  mlflow does not track this run any more" in run.log.read_text()


@pytest.mark.usefixtures("draw_nothing")
def test_wandb_without_a_key_does_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = resnetlab.train(tiny("wandb"), tmp_path / "run")
    assert "there is no API key: run `wandb login` first, or set WANDB_MODE=offline" in run.log.read_text()


def test_threads_end_when_a_run_stops(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    threads = threading.active_count()
    with pytest.raises(Stopped):
        resnetlab.train(tiny("tensorboard"), tmp_path / "run", max_minutes=0)
    assert threading.active_count() == threads


def test_the_setting_of_older_runs_is_read() -> None:
    config = RunConfig(epochs=1).to_json()
    assert RunConfig.model_validate(config | {"tensorboard": True}).track == ("tensorboard",)
    assert RunConfig.model_validate(config | {"tensorboard": False}).track == ()


def test_an_unknown_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="track"):
        tiny("tensorbord")


def test_a_tracker_that_is_given_twice_is_opened_once(tmp_path: Path) -> None:
    run = tracking.TrackedRun(tmp_path, tiny())
    assert len(tracking.Tracking.of(["wandb", "wandb"], run, Any).channels) == 1


def test_a_trackers_own_copies_of_the_pictures_are_not_sent(tmp_path: Path) -> None:
    """W&B keeps those of the session before in the folder of the run, which was extended then."""
    for name in ("curves.png", "wandb/run-1/files/media/images/curves_0.png", "evaluation/val/samples.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tracked = tracking.Tracking.of(["wandb"], tracking.TrackedRun(tmp_path, tiny()), Any)
    tracked.results(tmp_path, {}, tmp_path / "best.safetensors")
    sent, faulty = [], Faulty("none")
    faulty.picture = lambda name, file: sent.append(name)  # type: ignore[method-assign, assignment]
    while not tracked.channels[0].calls.empty():
        call = tracked.channels[0].calls.get()
        assert call is not None
        call(faulty)
    assert sent == ["curves", "val/samples"]
