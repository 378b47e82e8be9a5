"""Asked to stop, a run writes a checkpoint within one step and says how to go on, in every phase (promise 5)."""

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

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
WHERE = {  # phase: (the call at which the run waits, the step of the checkpoint)
    "train": (7, "step 7 of 15"),
    "validate": (4, "step 10 of 15"),
    "score": (2, "while scoring"),
}


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        pytest.param(phase, number, id=f"{phase}-{number.name}", marks=() if brief else pytest.mark.slow)
        for row, phase in enumerate(WHERE)
        for column, number in enumerate(SIGNALS)
        for brief in [row == column == 0]
    ],
)
def test_a_signal_stops_a_run_that_then_goes_on_as_if_nothing_had_been(
    *, phase: str, number: signal.Signals, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run, mark = RunFolder(ground / "run"), ground / "mark"
    call, told = WHERE[phase]
    pause = {"where": phase, "call": call, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, pause=pause)
    ask.until(mark)
    program.send(number)
    mark.unlink()
    assert program.wait() == 6, program.output
    assert program.sentence.startswith(f"stopped by {number.name} ")
    assert told in program.sentence
    assert program.sentence.endswith(f"; resume with: resnetlab resume {run.path}")
    ask.sound(run)
    ask.clean(run)
    assert run.final_metrics("test") is None
    ask.same(machine.resume(run.path), undisturbed)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_loading_leaves_nothing_behind(
    number: signal.Signals, machine: Any, ground: Path, ask: Any
) -> None:
    run, mark = RunFolder(ground / "run"), ground / "mark"
    pause = {"where": "load", "call": 1, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, pause=pause)
    ask.until(mark)
    program.send(number)
    assert program.wait() == 6, program.output
    assert program.sentence
    assert not run.path.exists()


@pytest.mark.parametrize(
    "first", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_a_second_ctrl_c_leaves_at_once(
    first: signal.Signals, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run, mark = RunFolder(ground / "run"), ground / "mark"
    pause = {"where": "train", "call": 7, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, pause=pause)
    ask.until(mark)
    program.send(first)
    time.sleep(0.4)
    program.send(signal.SIGINT)
    began = time.monotonic()
    assert program.wait() == 6, program.output
    assert time.monotonic() - began < 15
    assert program.sentence == "interrupted"
    ask.sound(run)
    ask.same(machine.resume(run.path), undisturbed)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_a_signal_that_arrives_twice_is_one_request(
    number: signal.Signals, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    """`timeout` signals its child and then the whole group; `uv run` passes on what the terminal has sent already."""
    run, mark = RunFolder(ground / "run"), ground / "mark"
    pause = {"where": "train", "call": 7, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, pause=pause)
    ask.until(mark)
    program.send(number)
    time.sleep(0.02)
    program.send(number)
    mark.unlink()
    assert program.wait() == 6, program.output
    assert f"stopped by {number.name} at step 7 of 15; resume with" in program.sentence
    ask.same(machine.resume(run.path), undisturbed)


@pytest.mark.parametrize("times", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_signal_at_any_instant_is_an_exit_code_and_a_sentence(
    times: int, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    began = time.monotonic()
    machine.train(ground / "whole")
    whole = time.monotonic() - began
    instants = random.Random(times)
    for attempt in range(times):
        run = RunFolder(ground / f"run-{attempt}")
        command = ("train", "quickstart", *ask.brief, "--out", run.path, "--resume", "auto")
        program = machine.start(*command)
        time.sleep(whole * instants.uniform(0.1, 1))
        program.send(instants.choice(SIGNALS))
        code = program.wait()
        assert code in (0, 6), program.output
        if code == 6:
            assert program.sentence
            if not run.path.exists():
                continue
            assert "resume with: resnetlab resume" in program.sentence
        ask.sound(run)
        program = machine.run("resume", run.path)
        assert program.code == 0, program.output
        ask.same(run, undisturbed)


def test_a_time_limit_stops_like_a_signal_and_every_start_gets_further(
    machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run = RunFolder(ground / "run")
    command = ("train", "quickstart", *ask.brief, "--out", run.path, "--resume", "auto", "--max-minutes", 0)
    for step in (1, 2, 3):
        program = machine.run(*command)
        assert program.code == 6, program.output
        assert program.sentence == (
            f"stopped by the time limit at step {step} of 15; resume with: resnetlab resume {run.path}"
        )
    ask.same(machine.resume(run.path), undisturbed)


def until_it_listens(process: int) -> None:
    """Wait until a program has its own handler of the signal for which it installs one last."""
    end = time.monotonic() + 60
    while True:
        status = Path(f"/proc/{process}/status").read_text()
        caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
        if caught >> (SIGNALS[-1] - 1) & 1:
            return
        assert time.monotonic() < end, "the program does not listen"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the handlers of a process are read from /proc")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_to_the_real_program_from_its_first_second_on(
    number: signal.Signals, tmp_path: Path, ask: Any
) -> None:
    """Imports included: from when the program listens, there is no traceback and no other exit code."""
    command = [sys.executable, "-m", "resnetlab", "train", "--model", "resnet20", "--epochs", "30", "--device", "cpu"]
    for tenth in range(0, 54, 6):
        out = tmp_path / str(tenth)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        words = [*command, "--out", str(out)]
        with subprocess.Popen(words, stdout=-3, stderr=-1, text=True, env=environment) as program:
            until_it_listens(program.pid)
            time.sleep(tenth / 10)
            program.send_signal(number)
            _, said = program.communicate(timeout=60)
        assert program.returncode == 6, (tenth, program.returncode, said)
        assert said.count("\n") == 1, said
        if out.exists():
            assert said.endswith(f"resume with: resnetlab resume {out}\n")
            ask.sound(RunFolder(out))
