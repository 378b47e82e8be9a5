"""The command line: its commands, its error messages and exit codes, and its output."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.cli import main as cli
from resnetlab.cli.main import COMMANDS, USAGE, place_matplotlib_files
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import read_model
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runs import experiment, recipes
from resnetlab.runs.folder import RunFolder

TINY = ("--model", "tiny", "--batch-size", "256", "--precision", "fp32", "--epochs", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run on digits."""
    config = recipes.quickstart().changed({"model": {"name": "tiny"}, "epochs": 1, "batch_size": 256})
    return experiment.train(config, tmp_path_factory.mktemp("runs") / "digits")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["serve", "model"], "file not found: model"),
        (["train", "quickstrat"], "unknown recipe 'quickstrat'; did you mean 'quickstart'?"),
        (["train", "--model", "resnet43"], "unknown model 'resnet43'; did you mean 'resnet44'?"),
        (["train", "--data", "digitz"], "unknown data set 'digitz'; did you mean 'digits'?"),
        (["train", "--data", "digitz"], "or give the path of a folder of images"),
        (["train", "--data", "./nowhere"], "folder not found: nowhere"),
        (["train", "--modle", "resnet18"], "unknown option '--modle'; did you mean --model?"),
        (["train", "quickstart", "extra"], "unknown argument 'extra'"),
        (["train", "--lr", "-1"], "--lr is -1, but must be greater than 0"),
        (["train", "--lr", "fast"], "--lr is 'fast', but must be a number"),
        (["train", "--seed", "0.5"], "seed is '0.5', but must be a whole number"),
        (["train", "--lr"], "--lr/--optim.lr: expected one argument"),
        (["train", "--optim.name", "sdg"], "unknown --optim.name 'sdg'; did you mean 'sgd'? Choose from sgd, adam"),
        (["train", "--epochs", "0"], "epochs is 0, but must be greater than or equal to 1"),
        (["train", "--epochs", "2", "--steps", "3"], "give epochs or steps, not both"),
        (["train", "--device", "cuda"], "device 'cuda' is not available on this machine"),
        (["train", "--precision", "fp16"], "precision 'fp16' is not available on the CPU"),
        (["train", "--config", "nowhere.toml"], "could not read config file nowhere.toml"),
        (["train", "--config"], "--config: expected one argument"),
        (["train", "--resume", "auto"], "give --out FOLDER too"),
        (["train", "--freeze"], "must come from --pretrained"),
        (["train", "--pretrained", "nowhere.pth"], "nowhere.pth"),
        (["train", "--augment.crop", "9", "--augment.crop-padding", "reflect"], "smaller than the image, 8 px"),
        (["resume"], "RUN is missing: folder of a run"),
        (["resume", "nowhere"], "folder not found: nowhere; give the folder or the name of a run in runs"),
        (["resume", "hf:me/pets"], "hf:me/pets is a model on the Hub, but a run is needed"),
        (["resume", "."], "is not a run folder"),
        (
            ["evaluate", "nowhere"],
            "file not found: nowhere; give a model file, a run folder or the name of a run in runs",
        ),
        (["evaluate", "."], "is a folder without best.safetensors; give"),
        (["evaluate", "nowhere", "--split", "train"], "unknown --split 'train'. Choose from val, test"),
        (["evaluate", "nowhere", "--tta", "flipp"], "unknown --tta 'flipp'; did you mean 'flip'?"),
        (["train", "--data", ""], "--data is empty"),
        (["train", "--out="], "--out is empty"),
        (["compare"], "needs a list of two runs or more"),
        (["compare", "nowhere", "elsewhere"], "folder not found: nowhere"),
        (["report", "nowhere"], "folder not found: nowhere"),
        (["label-issues", "nowhere"], "folder not found: nowhere"),
        (["report", "nowhere", "--out", "best.safetensors"], "must be an .html file in an existing folder"),
        (["runs", "nowhere"], "nowhere is not a folder"),
        (["runs", "."], "there are no runs"),
        (["models", "resnet43"], "unknown model 'resnet43'"),
        (["models", "resnet18", "--image-size", "0"], "image size 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_one_sentence_and_no_files(
    command: Any, tmp_path: Path, words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cuda" in words:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert sentence in command.refuse(*words)
    assert not list(tmp_path.iterdir())


def make_folder(root: Path, images: dict[str, int]) -> Path:
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(root / name / f"{number}.png")
    return root


def test_folders_that_cannot_be_trained_on_are_explained(command: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert "no classes" in command.refuse("train", "--data", data)
    make_folder(data, {"cat": 9})
    assert "one class" in command.refuse("train", "--data", data)
    make_folder(data, {"dog": 0})
    assert "'dog'" in command.refuse("train", "--data", data)
    make_folder(data, {"dog/more": 1})
    assert "'dog'" in command.refuse("train", "--data", data)
    make_folder(data, {"dog/most": 9})
    (data / "cat" / "text.jpg").write_text("this is no picture")
    assert "text.jpg" in command.refuse("train", "--data", data)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_out_must_be_new_or_empty(command: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    assert "out is not empty; give a new or empty folder" in command.refuse("train", "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert "is a file" in command.refuse("train", "--out", out / "mine.txt")


def test_a_run_its_table_and_its_scores(command: Any, tmp_path: Path) -> None:
    code, out, _ = command("train", *TINY)
    assert code == 0
    assert "epoch 1/1" in out
    assert "the run is in runs/quickstart-001" in out
    shutil.copytree("runs/quickstart-001", "runs/quickstart-002")
    code, out, _ = command("runs")
    assert code == 0
    assert "quickstart-001" in out
    assert "quickstart-002" in out
    assert out.count("finished") == 2
    assert "359 images of digits: 1 run was scored on it, 1 time in all" in out


def test_runs_are_listed_best_first_and_unreadable_ones_below(command: Any, run: RunFolder, tmp_path: Path) -> None:
    """By validation accuracy, among equals by its loss; a run that has no epoch yet comes last."""
    scores = {"low": (0.3, 1.0), "best": (0.9, 0.5), "equal": (0.9, 0.7), "none": None, "foreign": None}
    for name, score in scores.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes((run.path / "config.json").read_bytes())
        if score:
            row = run.rows[0] | {"val_accuracy": score[0], "val_loss": score[1]}
            (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "runs" / "foreign" / "metrics.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    code, out, _ = command("runs")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "tiny" in line] == ["best", "equal", "low", "none"]
    *_, broken, foreign = out.splitlines()
    assert broken.startswith("not listed: ")
    assert "broken/config.json" in broken
    assert foreign.startswith("not listed: ")
    assert "foreign/metrics.jsonl: line 1 is not the record of an epoch" in foreign


def test_every_command_finds_a_run_by_its_name(
    command: Any, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetlab.report.write.build", lambda _: "")
    shutil.copytree(run.path, tmp_path / "runs" / "digits-001")
    for words, found in (
        (("evaluate", "digits-001"), "accuracy"),
        (("resume", "digits-001"), ""),
        (("report", "digits-001"), "the page is runs/digits-001/report.html"),
        (("info", "digits-001"), "tiny"),
        (("models", "digits-001"), "tiny"),
        (("card", "digits-001"), "the card is runs/digits-001/card/README.md"),
    ):
        code, out, err = command(*words)
        assert code == 0, err
        assert found in out
    for words in (("resume",), ("report",), ("compare", "digits-001"), ("evaluate",)):
        assert "did you mean 'digits-001'?" in command.refuse(*words, "digits-01")


def test_evaluate_prints_accuracy_with_its_interval_and_the_test_set_uses(command: Any, run: RunFolder) -> None:
    final = run.final_metrics("test")
    assert final is not None
    low, high = final["intervals"]["accuracy"]
    said = f"test  accuracy {final['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), loss {final['loss']:.4f}"
    assert said in run.log.read_text()
    code, out, _ = command("evaluate", run.path, "--split", "test")
    assert code == 0
    assert said in out
    assert f"calibration error {final['calibration']['ece']:.2%}" in out
    assert re.search(r"test set used \d+ times by this model; \d runs? w\w+ scored on it\n", out)
    assert "test set used" not in command("evaluate", run.path)[1]


@pytest.mark.usefixtures("no_pictures")
def test_evaluate_tells_what_balancing_did_to_each_class(command: Any, run: RunFolder, tmp_path: Path) -> None:
    assert "  training images" not in command("evaluate", run.path)[1]
    data = make_folder(tmp_path / "data", {"cat": 30, "dog": 10})
    words = ("--data", data, *TINY, "--data.image-size", 8, "--final-test", "never")
    for balance, heading in (("sampler", "each drawn, times an epoch"), ("weights", "weight in the loss")):
        assert command("train", *words, "--data.balance", balance, "--out", balance)[0] == 0
        code, out, err = command("evaluate", balance)
        assert code == 0, err
        lines = out.splitlines()
        head, *rows = lines[next(place for place, line in enumerate(lines) if "precision" in line) :]
        assert re.search(rf"training images +{heading}", head)
        counts = {row.split()[0]: row.split()[-2:] for row in rows if row.startswith((" cat", " dog", "cat", "dog"))}
        total = sum(int(count) for count, _ in counts.values())
        assert {name: float(factor) for name, (_, factor) in counts.items()} == pytest.approx(
            {name: total / 2 / int(count) for name, (count, _) in counts.items()}, abs=0.005
        )
    assert "weight in the loss" in command("evaluate", "weights/best.safetensors", "--data", data)[1]


def test_test_time_augmentation_is_named_in_the_output(command: Any, run: RunFolder) -> None:
    code, out, _ = command("evaluate", run.path, "--tta", "flip", "--out", "scores")
    assert code == 0
    assert out.count("test-time augmentation: flip") == 1
    code, out, _ = command("evaluate", run.path, "--tta", "flip", "--out", "scores", "--json")
    assert json.loads(out)["tta"] == "flip"


def test_evaluate_prints_the_numbers_of_metrics_json(command: Any, run: RunFolder) -> None:
    code, out, _ = command("evaluate", run.path, "--split", "test", "--json")
    assert code == 0
    assert json.loads(out) == run.final_metrics("test")
    code, out, _ = command("evaluate", run.path)
    assert code == 0
    assert "weighted mean" in out
    assert f"{run.final_metrics('val')['accuracy']:.2%}" in out


def test_a_model_file_is_evaluated_on_named_data(command: Any, run: RunFolder, tmp_path: Path) -> None:
    assert "has no data to be scored on; add --data" in command.refuse("evaluate", run.best)
    code, out, _ = command("evaluate", run.best, "--data", "digits", "--split", "test", "--json", "--out", "scores")
    assert code == 0
    ours, theirs = json.loads(out), run.final_metrics("test")
    assert ours == theirs
    assert (tmp_path / "scores" / "confusion_matrix.csv").exists()


def test_data_with_other_classes_is_refused_with_the_difference(command: Any, run: RunFolder, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"cat": 9, "dog": 9, "1": 9})
    sentence = command.refuse("evaluate", run.best, "--data", data)
    assert "18 images of classes that the model does not have: cat, dog; it has 0, 1, 2 and 7 more" in sentence


def test_a_checkpoint_of_another_network_is_refused(command: Any, run: RunFolder, tmp_path: Path) -> None:
    assert command("train", *TINY, "--out", "mine", "--model", "plain20", "--max-minutes", "0")[0] == 6
    mine = RunFolder.open(tmp_path / "mine").all_checkpoints()[0]
    mine.write_bytes(run.all_checkpoints()[0].read_bytes())
    assert "holds another network than this run trains" in command.refuse("resume", "mine")


def test_a_damaged_or_foreign_model_file_is_refused(command: Any, run: RunFolder, tmp_path: Path) -> None:
    content = bytearray(run.best.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    assert "is damaged" in command.refuse("evaluate", "damaged.safetensors", "--data", "digits")
    (tmp_path / "foreign.safetensors").write_bytes(b"not a model at all")
    assert "is not a file that resnetlab wrote" in command.refuse("evaluate", "foreign.safetensors", "--data", "digits")
    tensors, facts = read_sealed(run.best)
    write_sealed(tmp_path / "newer.safetensors", tensors, facts | {"format_version": 99})
    assert "has model format 99" in command.refuse("evaluate", "newer.safetensors", "--data", "digits")
    assert read_model(run.best).classes == tuple("0123456789")


def test_the_time_limit_stops_with_code_6_and_the_named_command_goes_on(command: Any, tmp_path: Path) -> None:
    code, _, err = command("train", *TINY, "--out", "run", "--max-minutes", "0")
    assert code == 6
    assert "resume with: resnetlab resume run" in err
    assert command("train", *TINY, "--out", "run", "--resume", "auto")[0] == 0
    assert RunFolder.open(tmp_path / "run").is_scored
    assert "seed was 0, now 1; undo the change" in command.refuse(
        "train", *TINY, "--out", "run", "--resume", "auto", "--seed", 1
    )
    assert command("resume", "run", "--epochs", 2)[0] == 0
    assert len(RunFolder.open(tmp_path / "run").rows) == 2


def test_a_changed_setting_is_refused_unless_it_is_allowed_or_harmless(command: Any, tmp_path: Path) -> None:
    assert command("train", *TINY, "--out", "run", "--max-minutes", 0)[0] == 6
    refused = command.refuse("resume", "run", "--lr", 0.01, "--seed", 3)
    assert "--lr was 0.03, now 0.01; --seed was 0, now 3" in refused
    assert refused.endswith("add --allow-change optim.lr seed")
    code, out, err = command(
        "resume", "run", "--lr", 0.01, "--checkpoint.keep", 1, "--allow-change", "optim.lr", "--max-minutes", 0
    )
    assert code == 6, err
    assert "note     --lr was 0.03, now 0.01" in out
    assert "note     --checkpoint.keep was 2, now 1" in out
    assert RunFolder.open(tmp_path / "run").config.optim.lr == 0.01


def test_a_resume_that_is_not_exact_is_announced_or_refused(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("train", *TINY, "--out", "run", "--max-minutes", 0)[0] == 6
    assert command("resume", "run", "--strict-resume", "--max-minutes", 0)[0] == 6
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    refused = command.refuse("resume", "run", "--strict-resume")
    assert "would no longer be exact: threads was 1, now 7" in refused
    code, out, _ = command("resume", "run", "--max-minutes", 0)
    assert code == 6
    assert "threads was 1, now 7: from here on not exact to the bit" in out


def print_config(command: Any, *words: object) -> dict[str, Any]:
    code, out, err = command("train", *words, "--print-config")
    assert code == 0, err
    return dict(json.loads(out))


def test_options_override_the_config_file_which_overrides_the_recipe(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("seed = 3\nbatch_size = 32\n[optim]\nlr = 1e-3\n")
    config = print_config(command, "cifar10-resnet18", "--config", "mine.toml", "--batch-size", 16)
    assert (config["seed"], config["batch_size"], config["optim"]["lr"]) == (3, 16, 1e-3)
    assert config["label_smoothing"] == 0.1  # still the recipe's
    (tmp_path / "whole.json").write_text(json.dumps(config))
    assert print_config(command, "--config", "whole.json") == config
    (tmp_path / "wrong.toml").write_text("[optim]\nlearning_rate = 1\n")
    assert "unknown setting optim.learning_rate" in command.refuse("train", "--config", "wrong.toml")
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json is not valid" in command.refuse("train", "--config", "broken.json")


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "quickstart"),
        (["--data", "digits"], "quickstart"),
        (["--data", "cifar10"], "cifar10-resnet18"),
        (["--data=cifar100"], "cifar10-resnet18"),
        (["--data", "pictures"], "folder"),
        (["finetune", "--data", "pictures"], "finetune"),
    ],
)
def test_without_a_recipe_the_data_determine_it(command: Any, words: list[str], recipe: str) -> None:
    assert print_config(command, *words)["recipe"] == recipe


def test_a_length_given_as_a_flag_replaces_the_recipes(command: Any) -> None:
    config = print_config(command, "paper-resnet20", "--epochs", "3")
    assert (config["epochs"], config["steps"]) == (3, None)
    config = print_config(command, "quickstart", "--steps", "7")
    assert (config["epochs"], config["steps"]) == (None, 7)


def test_short_names_of_settings(command: Any) -> None:
    config = print_config(command, "--lr", "0.5", "--model", "resnet34", "--stem", "imagenet", "--data", "x")
    assert config["optim"]["lr"] == 0.5
    assert config["model"]["name"] == "resnet34"
    assert config["model"]["stem"] == "imagenet"
    assert config["data"]["name"] == "x"


def test_models_prints_the_zoo_and_one_network_stage_by_stage(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has two networks here, because all take seconds; tests/models/test_summary.py covers the others."""
    with monkeypatch.context() as patch:
        zoo = {name: ARCHITECTURES[name] for name in ("resnet20", "resnet34")}
        patch.setattr("resnetlab.models.summary.ARCHITECTURES", zoo)
        code, out, _ = command("models")
    assert code == 0
    assert "resnet34" in out
    assert "3,663.76 M" in out
    code, out, _ = command("models", "resnet34", "--image-size", 32, "--stem", "imagenet")
    assert code == 0
    assert "512×1×1" in out
    assert "1×1" in out.split("note:")[1]
    code, out, _ = command("models", "resnet34", "--image-size", 32)
    assert "512×4×4" in out
    assert "note:" not in out


def test_the_overview_lists_every_command() -> None:
    listed = [line.split()[0] for line in USAGE.splitlines() if line.startswith("  ") and line[2].isalpha()]
    assert listed[: len(COMMANDS)] == list(COMMANDS)


def test_an_unexpected_error_is_an_internal_error(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(experiment, "train", fail)
    code, _, err = command("train")
    assert code == 1
    assert err == "resnetlab: internal error: RuntimeError: surprise (--debug shows where)\n"
    with pytest.raises(RuntimeError):
        command("train", "--debug")


def test_names_cannot_steer_the_terminal(command: Any, tmp_path: Path) -> None:
    hostile = tmp_path / "data\x1b[2J"
    make_folder(hostile, {"[red]cat[/red]": 9})
    assert "\x1b" not in command.refuse("train", "--data", hostile)


def test_python_m_resnetlab_is_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnetlab", "train", "--lr", "0"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "20"},
    )
    assert done.returncode == 2
    assert done.stderr == "resnetlab: --lr is 0, but must be greater than 0\n"


@pytest.mark.parametrize(
    ("words", "redirection", "code", "error"),
    [
        ("--version", ">&-", 0, ""),
        ("train --help", "<&- >&-", 0, ""),
        ("train --print-config", ">/dev/full", 4, "resnetlab: No space left on device\n"),
        ("train --lr 0", ">&-", 2, "resnetlab: --lr is 0, but must be greater than 0\n"),
        ("train --lr 0", "2>&-", 2, ""),
    ],
)
def test_closed_or_full_streams(  # noqa: PLR0917 - four of them are the case
    words: str, redirection: str, code: int, error: str, tmp_path: Path, as_nobody: list[str]
) -> None:
    """As a user without a name and home where that can be, with a locale and a terminal of the simplest kind."""
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = subprocess.run(
        ["sh", "-c", f"exec {' '.join(as_nobody)} {sys.executable} -m resnetlab {words} {redirection}"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "LC_ALL": "C",
            "TERM": "dumb",
            "COLUMNS": "1",
        },
    )
    assert (done.returncode, done.stderr) == (code, error)


def test_standard_streams_that_are_closed_are_replaced(tmp_path: Path) -> None:
    """A file that is opened later does not become the stdout of a library below."""
    code = (
        "import os, sys; from resnetlab.cli.main import replace_closed_streams; replace_closed_streams()\n"
        "print('nowhere'); file = open('file', 'w'); os.write(1, b'nowhere'); sys.exit(file.fileno() < 3)"
    )
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code], check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("width", [1, 30, 500])
def test_tables_are_never_cut_whatever_the_terminal(command: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, _ = command("models", "resnet20")
    assert code == 0
    assert "…" not in out
    assert "203,520" in out


def said_at_exit(expression: str) -> str:
    """Return the value of an expression as text, after the command has ended in another process."""
    code = (
        "import gc, signal, sys; from resnetlab.cli import main as cli; sys.argv = ['resnetlab', '--version']\n"
        f"try: cli.entry_point()\nexcept SystemExit: print({expression})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_the_exit_of_the_interpreter_looks_for_no_garbage() -> None:
    """Among the objects of torch that takes a second."""
    tracked, frozen = map(int, said_at_exit("len(gc.get_objects()), gc.get_freeze_count()").split())
    assert frozen > 100 * tracked


def test_a_signal_after_the_end_of_the_command_is_ignored() -> None:
    signals = "(signal.SIGINT, signal.SIGTERM)"
    assert said_at_exit(f"[signal.getsignal(n) is signal.SIG_IGN for n in {signals}]") == "[True, True]"


@pytest.mark.parametrize(("done", "code"), [(True, 0), (False, 6)])
def test_a_signal_at_the_end_of_the_command(
    done: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `main` has returned all is done and told; before that, it is an interruption with a sentence."""
    calls = []

    def interrupt_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt("stopped by SIGTERM")

    def interrupted_main(_: Any) -> int:
        raise KeyboardInterrupt("stopped by SIGTERM")

    monkeypatch.setattr(cli, "main", (lambda _: 0) if done else interrupted_main)
    monkeypatch.setattr(cli, "ignore_signals", interrupt_once if done else lambda: None)
    monkeypatch.setattr(cli, "leave_on_signals", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    loggers = [logging.getLogger(name) for name in ("resnetlab", "resnetlab.kernels")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    with pytest.raises(SystemExit) as leaving:
        cli.entry_point()
    assert leaving.value.code == code
    assert [(logger.level, logger.handlers) for logger in loggers] == before
    assert capsys.readouterr().err == ("" if done else "resnetlab: stopped by SIGTERM\n")


@pytest.mark.parametrize("home", ["writable", "a file"])
def test_matplotlib_gets_our_cache_folder_if_it_cannot_write_its_own(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place_matplotlib_files()
    ours = str(tmp_path / "cache" / "resnetlab" / "matplotlib")
    assert os.environ["MPLCONFIGDIR"] == ("" if home == "writable" else ours)
