"""The baseline: three runs that differ in nothing but their weights and optimisers, brought to a comparison."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.errors import BadInput
from resnetlab.inference.model_file import read_model
from resnetlab.models import pretrained
from resnetlab.models.build import build_model
from resnetlab.runs import baseline, experiment
from resnetlab.runs.config import DataConfig
from resnetlab.runs.differences import differences
from resnetlab.runs.folder import SHARED_ACCESS_LOG, RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

PARTS = ["scratch", "frozen", "finetuned"]
BRIEF = ("--model", "tiny", "--steps", "4", "--batch-size", "16", "--precision", "fp32", "--device", "cpu")

KILLED = """# The command line, killed at the first checkpoint of the third part
import os, signal, sys
import torch
from resnetlab.cli import main as cli
from resnetlab.models.zoo import ARCHITECTURES, Architecture
from resnetlab.runs import experiment, writer
from resnetlab.runs import evaluation_files as record

torch.set_num_threads(1)
ARCHITECTURES["tiny"] = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
record.draw = experiment.draw_batch = experiment.draw_curves = lambda *_: None
write = writer.CheckpointWriter.write

def write_and_die(self):
    write(self)
    if self.run.path.name == "finetuned":
        os.kill(os.getpid(), signal.SIGKILL)

writer.CheckpointWriter.write = write_and_die
sys.exit(cli.main(sys.argv[1:]))
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def published(tiny_network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny network with ImageNet's stem and a thousand classes, under their digest."""
    folder = tmp_path_factory.mktemp("site")
    torch.save(build_model("tiny", 1000, stem="imagenet", seed=7).state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    return (folder / "new.pth").rename(folder / f"tiny-{digest[:8]}.pth")


@pytest.fixture
def address(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the weights are served, on this machine's loopback; and a cache that is empty."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=published.parent)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{published.name}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 small pictures."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "blue")):
        (root / name).mkdir()
        for number in range(30):
            pixels = draw.integers(0, 200, (12, 12, 3)).astype(np.uint8)
            pixels[..., 2 * channel] += 50
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that training or resuming was begun for, as it happens."""
    begun: list[str] = []
    for name, real in (("train", baseline.train), ("resume", baseline.resume)):

        def noted(*given: Any, name: str = name, real: Any = real, **named: Any) -> Any:
            begun.append(f"{name} {next(value for value in given if isinstance(value, Path)).name}")
            return real(*given, **named)

        monkeypatch.setattr(baseline, name, noted)
    return begun


@pytest.mark.slow
def test_three_runs_end_in_a_comparison(
    *, command: Any, published: Path, address: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "torchvision" for the weights, as served by ourselves."""
    monkeypatch.setattr(pretrained, "torchvision_address", lambda name: address)
    code, said, err = command("baseline", "--data", pictures, *BRIEF)
    assert code == 0, err
    out = tmp_path / "runs" / f"baseline-{pictures.name}"
    runs = {name: RunFolder(out / name) for name in PARTS}
    configs = {name: run.config for name, run in runs.items()}
    for name in PARTS:
        changed = {path for path, *_ in differences(configs["finetuned"], configs[name])}
        own = {"model.pretrained", "model.freeze"} | {path for path in changed if path.startswith("optim.")}
        assert changed <= own | {"recipe"}
    assert [configs[name].model.pretrained for name in PARTS] == [None, "torchvision", "torchvision"]
    assert [configs[name].model.freeze for name in PARTS] == [False, True, False]
    assert {(config.model.stem, config.data.image_size, config.steps) for config in configs.values()} == {
        ("imagenet", 64, 4)
    }
    assert {config.data.normalize for config in configs.values()} == {"imagenet"}
    assert len({run.read_json("split.json")["splits"]["test"]["digest"] for run in runs.values()}) == 1

    given = torch.load(published, weights_only=True)["conv1.weight"]
    kept = {name: bool(torch.equal(read_model(run.best).network.conv1.weight, given)) for name, run in runs.items()}
    assert kept == {"scratch": False, "frozen": True, "finetuned": False}

    numbers = json.loads((out / "comparison.json").read_text())
    assert {run["name"] for run in numbers["runs"]} == set(PARTS)
    for run in numbers["runs"]:
        assert run["accuracy"] == runs[run["name"]].final_metrics("test")["accuracy"]  # type: ignore[index]
        assert run["looks"] == 1
    assert len((out / SHARED_ACCESS_LOG).read_text().splitlines()) == 3
    html = (out / "comparison.html").read_text()
    for name, lr, decay in (("scratch", "0.001", "0.05"), ("frozen", "0.003", "0"), ("finetuned", "0.0003", "0.05")):
        line = f"adamw at {lr}, weight decay {decay}, one_cycle schedule"
        assert any(note.startswith(f"{name}: ") and note.endswith(line) for note in numbers["notes"])
        assert line in html
        assert line in said
    assert "all: tiny, 4 steps of batch 16, 64x64 px, imagenet normalisation, split seed 0, seed 0" in said
    assert said.rstrip().endswith("comparison.html")


@pytest.mark.slow
def test_a_stopped_baseline_goes_on_where_it_was(
    *,
    command: Any,
    published: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
) -> None:
    """Once asked to stop in the second part, once killed in the third one: the weights are the same to the bit."""
    words = ("baseline", "--data", pictures, "--weights", published, "--out", "out", *BRIEF)
    whole = command(*words[: -len(BRIEF) - 1], "whole", *BRIEF)
    assert whole[0] == 0, whole[2]
    trained.clear()

    begin = experiment.begin

    def stop_frozen(made: Any, run: RunFolder, stop: Any, on_event: Any) -> Any:
        if run.path.name == "frozen":
            stop.request("SIGTERM")
        return begin(made, run, stop, on_event)

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "begin", stop_frozen)
        code, _, err = command(*words)
    assert code == 6
    assert "stopped by SIGTERM at step 1 of 4" in err
    assert err.endswith("or repeat the command, which also trains the remaining parts\n")
    assert trained == ["train scratch", "train frozen"]

    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in RunFolder(tmp_path / "out" / "finetuned").all_checkpoints()] == ["step-00000002.ckpt"]

    code, out, err = command(*words)
    assert code == 0, err
    assert "already finished: out/scratch" in out
    assert "already finished: out/frozen" in out
    assert trained[2:] == ["resume finetuned"]
    for name in PARTS:
        digests = [RunFolder(tmp_path / at / name).final_metrics("test")["weights_digest"] for at in ("out", "whole")]  # type: ignore[index]
        assert digests[0] == digests[1], name

    (published_copy := tmp_path / published.name).write_bytes(published.read_bytes())
    (tmp_path / "out" / "comparison.html").unlink()
    trained.clear()
    assert command(*words)[0] == 0
    assert trained == []
    assert (tmp_path / "out" / "comparison.html").exists()
    assert "--pretrained was" in command.refuse(*words[:4], published_copy, *words[5:])
    assert "steps was 4, now 5" in command.refuse(*words, "--steps", "5")
    assert trained == []


def test_the_time_limit_is_for_all_parts_together(
    command: Any, published: Path, pictures: Path, tmp_path: Path
) -> None:
    words = ("baseline", "--data", pictures, "--weights", published, "--out", "out", *BRIEF)
    code, _, err = command(*words, "--max-minutes", "0")
    assert code == 6
    assert "stopped by the time limit" in err
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["scratch"]


def test_without_a_network_it_says_so_before_it_trains(
    command: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    nowhere = "http://127.0.0.1:9/tiny-0123abcd.pth"  # the discard port: nobody listens
    monkeypatch.setattr(pretrained, "torchvision_address", lambda name: nowhere)
    told = command.refuse("baseline", "--data", pictures, *BRIEF)
    assert told.startswith("there is no baseline without weights (--weights may be a file with those of tiny): ")
    assert f"cannot reach {nowhere}" in told
    assert f"put it at {tmp_path}/torch/hub/checkpoints/tiny-0123abcd.pth" in told
    assert not (tmp_path / "runs").exists()


def test_what_will_not_do_is_refused_before_anything_is_written(
    command: Any, published: Path, pictures: Path, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        return str(command.refuse("baseline", *words))

    given = ("--data", pictures, "--weights", published)
    assert "folder not found: nowhere/at/all" in refused("--data", "nowhere/at/all")
    assert "unknown data set 'digitz'" in refused("--data", "digitz")
    assert "unknown model 'resnet43'" in refused(*given, "--model", "resnet43")
    assert "do not fit this model" in refused(*given, "--model", "resnet32")
    assert "file not found: nowhere.pth" in refused(*given[:2], "--weights", "nowhere.pth", "--model", "tiny")
    assert "give epochs or steps, not both" in refused(*given, "--epochs", "1", "--steps", "1")
    assert "epochs is 0" in refused(*given, "--epochs", "0")
    assert "must not be negative" in refused(*given, "--max-minutes", "-1")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out" / "frozen").mkdir(parents=True)
    (tmp_path / "out" / "frozen" / "mine.txt").write_text("precious")
    assert "out/frozen is not empty" in refused(*given, *BRIEF, "--out", "out")
    assert "out/frozen/mine.txt is a file" in refused(*given, *BRIEF, "--out", "out/frozen/mine.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frozen"]


def test_a_file_with_weights_is_found_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, kept in (("w.pth", str(tmp_path / "w.pth")), *((name, name) for name in ("torchvision", "http://a/b"))):
        configs = baseline.configs({"data": {"name": "digits"}}, given)
        assert [configs[name].model.pretrained for name in PARTS] == [None, kept, kept]


def test_images_are_as_large_as_the_data_has_them_but_at_least_64(pictures: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    sizes = {name: baseline.image_size(DataConfig(name=str(name))) for name in ("digits", pictures, tmp_path)}
    assert sizes == {"digits": 64, pictures: 64, tmp_path: 224}
    assert baseline.image_size(DataConfig(name=str(pictures), image_size=32)) == 32
    with pytest.raises(BadInput, match="folder not found"):
        baseline.image_size(DataConfig(name=str(tmp_path / "none")))
