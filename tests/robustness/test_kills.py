"""Kill it any time: going on gives the same weights, bit for bit, and each epoch is recorded once (promise 1)."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resnetlab.runs.folder import RunFolder

# One line each; what a later kind of training brings joins by adding its line. Pictures that are not held in memory
# are decoded by two other processes. Each run has its own cache folder, so that kills also come while it is filled.
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "ema": ("--ema", "0.9"),
    "cutout-crop-flip": ("--augment.cutout", "3", "--augment.crop", "2", "--augment.flip"),
    "mixup": ("--augment.mixup", "0.4", "--augment.flip"),
    "mixup-cutmix": ("--augment.mixup", "0.2", "--augment.cutmix", "1", "--checkpoint.every-steps", "1"),
    "cutmix": ("--augment.cutmix", "1", "--augment.crop", "2"),
    "trivial": ("--augment.policy", "trivial", "--augment.crop", "2"),
    "folder-rand-mixed": ("--data", "PICTURES", "--batch-size", "32", "--augment.policy", "rand",
                          "--augment.mixup", "0.2", "--augment.cutmix", "1"),
    "sampler": ("--data.balance", "sampler", "--augment.crop", "2", "--augment.mixup", "0.2"),
    "weights": ("--data.balance", "weights", "--augment.cutmix", "1"),
    "accumulate": ("--accumulate", "3", "--batch-size", "200"),
    "adamw-plateau": ("--optim.name", "adamw", "--lr", "1e-3",
                      "--schedule.name", "plateau", "--schedule.patience", "0"),
    "every-steps": ("--checkpoint.every-steps", "2", "--checkpoint.keep", "1"),
    "folder": ("--data", "PICTURES", "--batch-size", "32", "--augment.resized-crop", "0.5"),
    "folder-cached": ("--data", "PICTURES", "--batch-size", "32", "--data.store", "cache", "--augment.mixup", "0.2"),
    "folder-streamed": ("--data", "PICTURES", "--batch-size", "32", "--data.store", "stream", "--augment.cutmix", "1"),
    "folder-cached-all": ("--data", "PICTURES", "--batch-size", "32", "--data.store", "cache", "--augment.policy",
                          "trivial", "--augment.mixup", "0.2", "--augment.cutmix", "1"),
    "folder-streamed-all": ("--data", "PICTURES", "--batch-size", "32", "--data.store", "stream", "--augment.policy",
                            "trivial", "--augment.mixup", "0.2", "--augment.cutmix", "1"),
    "bf16": ("--precision", "bf16", "--clip-norm", "0.5", "--label-smoothing", "0.1"),
    "everything-bf16": ("--precision", "bf16", "--ema", "0.9", "--accumulate", "3", "--augment.cutout", "3",
                        "--optim.name", "adamw", "--lr", "1e-3", "--checkpoint.every-steps", "1"),
    "folder-everything": ("--data", "PICTURES", "--batch-size", "32", "--ema", "0.5", "--augment.cutout", "4",
                          "--accumulate", "3", "--checkpoint.every-steps", "2", "--best-by", "loss"),
}  # fmt: skip
QUICK = ("every-steps", "folder-everything")


@pytest.mark.parametrize(
    ("configuration", "kills"),
    [
        pytest.param(
            name, kills, id=f"{name}-{kills}", marks=[] if kills == 1 and name in QUICK else [pytest.mark.slow]
        )
        for name in CONFIGURATIONS
        for kills in (1, 5)
    ],
)
def test_a_run_killed_at_any_instant_equals_the_uninterrupted_one(
    *, configuration: str, kills: int, machine: Any, pictures: Path, ground: Path, ask: Any
) -> None:
    words = [str(pictures) if word == "PICTURES" else word for word in CONFIGURATIONS[configuration]]
    began = time.monotonic()
    twin = machine.train(ground / "twin", *words, decoding={"processes": 2, "cache": str(ground / "cache")})
    whole = time.monotonic() - began
    instants = random.Random(f"{configuration} {kills}")
    attempt = 0
    while kills:
        attempt += 1
        run, remaining = RunFolder(ground / f"run-{attempt}"), True
        command = ("train", "quickstart", *ask.brief, *words, "--out", run.path, "--resume", "auto")
        own = {"processes": 2, "cache": str(ground / f"cache-{attempt}")}
        while kills and remaining:
            program = machine.start(*command, decoding=own)
            time.sleep(whole * instants.uniform(0.15, 1))
            program.send(signal.SIGKILL)
            remaining = program.wait() == -signal.SIGKILL
            whole *= 1 if remaining else 0.6  # it was done already: the twin's first run took longer than they do
            assert remaining or program.code == 0, program.output
            kills -= remaining
            ask.sound(run)
        if remaining:
            program = machine.run(*command, decoding=own)
            assert program.code == 0, program.output
        ask.same(run, twin)


STEP_BY_STEP = ("--ema", "0.9", "--checkpoint.every-steps", "2")


@pytest.mark.parametrize(
    "mode", [pytest.param("before", marks=pytest.mark.slow), "torn", pytest.param("unsynced", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("share", [pytest.param(32, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_ckpt_chaos_finds_nothing_in_our_writer(mode: str, share: int, machine: Any, ground: Path, ask: Any) -> None:
    """An outside judge: it counts what happens to files, and ends the process before, or in the middle of, one."""
    pytest.importorskip("ckpt_chaos", reason="pip install ckpt-chaos, or the extra [dev]")
    words = ("train", "quickstart", *ask.brief, *STEP_BY_STEP, "--epochs", "2", "--resume", "auto", "--out")
    twin, log = RunFolder(ground / "twin"), ground / "events"
    assert machine.run(*words, twin.path, judged={"watch": str(twin.path), "log": str(log)}).code == 0
    events = [line.split("\t") for line in log.read_text().splitlines()]
    assert len(events) > 50
    # Torn is half of a file. An append to metrics.jsonl leaves all that was there: test_history.py tears its last line.
    points = [
        int(number)
        for number, _, name, tearable in events
        if mode != "torn" or (tearable == "1" and name != "metrics.jsonl")
    ]
    for point in points[random.Random(mode).randrange(share) :: share]:
        run = RunFolder(ground / str(point))
        situation = {"watch": str(run.path), "log": str(log), "crash_at": point, "mode": mode}
        program = machine.run(*words, run.path, judged=situation)
        assert program.code == 137, program.output
        ask.sound(run)
        program = machine.run(*words, run.path)
        assert program.code == 0, (events[point - 1], program.output)
        ask.same(run, twin)


@pytest.mark.slow
def test_a_real_run_killed_three_times_equals_its_twin(cifar10_jpeg: Path, tmp_path: Path, ask: Any) -> None:
    """ResNet-18 on 5,000 CIFAR-10 images, as a program of its own; the kills come in the middle of an epoch."""
    small = tmp_path / "cifar"
    for folder in (cifar10_jpeg / "train").iterdir():
        (small / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:500]:
            (small / folder.name / file.name).symlink_to(file.resolve())
    words = ("cifar10-resnet18", "--data", str(small), "--epochs", "2", "--checkpoint.every-steps", "4")
    program = [sys.executable, "-m", "resnetlab"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    twin, run = RunFolder(tmp_path / "twin"), RunFolder(tmp_path / "run")
    quiet: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL}
    subprocess.run([*program, "train", *words, "--out", str(twin.path)], check=True, **quiet)
    instants, seen = random.Random(0), []
    command = [*program, "train", *words, "--out", str(run.path), "--resume", "auto"]
    for step in (6, 18, 38):  # 27 steps an epoch
        with subprocess.Popen(command, **quiet) as process:
            while not run.all_checkpoints() or newest(run) < step:
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(instants.uniform(0, 4))
            process.kill()
        seen.append(newest(run))
        ask.sound(run)
    assert seen[0] < 27 < seen[-1] < 54
    subprocess.run([*program, "resume", str(run.path)], check=True, **quiet)
    ask.same(run, twin)


def newest(run: RunFolder) -> int:
    found = re.search(r"\d+", run.all_checkpoints()[0].name)
    assert found
    return int(found.group())
