"""Several processes train as one does: the same batches, one record, one end, and any of them may die or hang.

The processes are forked, with the environment of torchrun; one test runs torchrun itself. All exchange by gloo.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnetlab.distributed import is_running, machine
from resnetlab.runs.folder import RunFolder

pytestmark = pytest.mark.slow

MIXED = ("--ema", "0.9", "--augment.crop", "2", "--augment.mixup", "0.2")


@pytest.fixture(scope="module")
def alone() -> Any:
    """What a process alone computes in the checks."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import group_checks
    finally:
        sys.path.pop(0)
    from resnetlab.distributed import ALONE

    return {check: getattr(group_checks, check)(ALONE) for check in ("evaluation", "norms", "accelerated")}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_compute_together_what_one_computes_alone(
    count: int, launcher: Any, alone: dict[str, Any], tmp_path: Path
) -> None:
    check = {"in_group": {"check": "everything", "into": str(tmp_path / "found")}}
    programs = launcher.run(count, "no command", each=dict.fromkeys(range(count), check))
    assert [program.code for program in programs] == [0] * count, [program.output for program in programs]
    found = [torch.load(tmp_path / f"found.{rank}", weights_only=False) for rank in range(count)]
    for rank, one in enumerate(found):
        assert one["exchange"] == {
            "total": [count, sum(range(count))],
            "mean": [pytest.approx(sum(range(count)) / count)] * 4,
            "broadcast": "of 0",
            "gather": list(range(count)) if rank == 0 else [],
            "from_main": 0,
        }
        assert one["errors"][:4] == [
            f"BadInput: {'' if rank == 1 else 'process 1: '}no such folder",
            f"DiskTrouble: {'' if rank == 0 else 'process 0: '}full on 0",
            "KeyError: 'a fault'" if rank == 1 else "RuntimeError: process 1: KeyError: 'a fault'",
            "nothing",
        ]
        assert "its images differ from those of process 0" in one["errors"][4]
        assert {size: score for size, (score, _) in one["evaluation"].items()} == {
            size: score for size, (score, _) in alone["evaluation"].items()
        }, "to the bit"
        for name, value in alone["norms"].items():
            np.testing.assert_allclose(one["norms"][name].detach(), value.detach(), rtol=1e-4, atol=2e-5, err_msg=name)
            assert torch.equal(one["norms"][name], found[0]["norms"][name]), "each process has the same bits"
        for ours, whole in zip(one["accelerated"], alone["accelerated"], strict=True):
            np.testing.assert_allclose(ours, whole, rtol=0.05, atol=0.02)
        sentence = "000.tar does not agree with its index"
        assert one["reading"] == (2, sentence if rank == 1 else f"process 1: {sentence}")
        for compress, trained in one["training"].items():
            of_first = found[0]["training"][compress]["weights"]
            assert all(map(torch.equal, trained["weights"], of_first)), "each process has the same bits"
        plain, compressed = one["training"]["none"], one["training"]["bf16"]
        assert compressed["loss"] == pytest.approx(plain["loss"], rel=0.01)
        assert not any(map(torch.equal, compressed["weights"], plain["weights"])), "gradients were rounded"
    counts = {size: matrix for size, (_, matrix) in found[0]["evaluation"].items()}
    assert counts == {size: matrix for size, (_, matrix) in alone["evaluation"].items()}
    assert all(np.sum(matrix) == size for size, matrix in counts.items())


@pytest.fixture(scope="module")
def curves(launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """The epochs of the same run with 1, 2 and 4 processes, whose norms see all images."""
    ground = tmp_path_factory.mktemp("curves")
    return {count: launcher.train(count, ground / str(count), *MIXED, "--sync-bn").rows for count in (1, 2, 4)}


@pytest.mark.parametrize("count", [2, 4])
def test_with_sync_bn_the_curves_are_those_of_one_process(count: int, curves: dict[int, list[dict[str, Any]]]) -> None:
    for row, one in zip(curves[count], curves[1], strict=True):
        assert (row["step"], row["lr"]) == (one["step"], one["lr"]), "the learning rate is not changed"
        for name in ("running_loss", "train_loss", "val_loss"):
            assert row[name] == pytest.approx(one[name], rel=1e-4), name


def test_compressed_gradients_give_nearly_the_same_curves_and_resume_to_the_same_bits(
    curves: dict[int, list[dict[str, Any]]], launcher: Any, ground: Path, ask: Any
) -> None:
    words = (*MIXED, "--sync-bn", "--compress-gradients", "bf16")
    run = launcher.train(2, ground / "run", *words)
    for row, exact in zip(run.rows, curves[2], strict=True):
        assert row["running_loss"] == pytest.approx(exact["running_loss"], rel=0.02)
        assert row["running_loss"] != exact["running_loss"]
    command = ("train", "quickstart", *ask.brief, *words, "--out", ground / "stopped", "--max-minutes", "0")
    assert [program.code for program in launcher.run(2, *command)] == [6, 6]
    ask.same(launcher.train(2, ground / "stopped", *words), run)


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A number of processes, their settings, and a run of theirs that nothing disturbed."""
    words = (*MIXED, "--batch-size", "252", "--accumulate", "3", "--checkpoint.every-steps", "3")
    return request.param, words, launcher.train(request.param, tmp_path_factory.mktemp("twin") / "run", *words)


def test_the_same_number_of_processes_gives_the_same_bits(group: Any, launcher: Any, ground: Path, ask: Any) -> None:
    count, words, twin = group
    ask.same(launcher.train(count, ground / "run", *words), twin)


@pytest.mark.parametrize(
    ("phase", "call", "place"), [("train", 8, "step 8 of 15"), ("validate", 3, "step 10 of 15")], ids=["train", "val"]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_of_them_stops_all_at_the_same_step(
    *, phase: str, call: int, place: str, rank: int, group: Any, launcher: Any, ground: Path, ask: Any
) -> None:
    count, words, twin = group
    mark, folder = ground / "mark", ground / "run"
    pause = {rank: {"pause": {"where": phase, "call": call, "seconds": 60, "mark": str(mark)}}}
    command = ("train", "quickstart", *ask.brief, *words, "--out", folder)
    programs = launcher.start(count, *command, each=pause)
    ask.until(mark)
    programs[rank].send(signal.SIGTERM)
    mark.unlink()
    assert [program.wait() for program in programs] == [6] * count, [program.output for program in programs]
    assert f"stopped by SIGTERM at {place}; resume with: resnetlab resume {folder}, under" in programs[0].sentence
    assert not any(program.output for program in programs[1:])
    ask.sound(RunFolder(folder))
    ask.same(launcher.train(count, folder, *words), twin)


def test_killed_at_any_instant_they_continue_to_the_same_weights(
    group: Any, launcher: Any, ground: Path, ask: Any
) -> None:
    count, words, twin = group
    draw = random.Random(count)
    command = ("train", "quickstart", *ask.brief, *words, "--resume", "auto", "--out")
    for attempt in range(3):
        run = RunFolder(ground / f"run-{attempt}")
        programs = launcher.start(count, *command, run.path)
        victim = draw.randrange(count)
        time.sleep(draw.uniform(0.5, 3))
        programs[victim].send(signal.SIGKILL)
        codes = [program.wait() for program in programs]
        if codes[victim] == -signal.SIGKILL and 0 in codes[1:]:
            assert victim == 0, "which scores alone at the end"
        elif codes[victim] == -signal.SIGKILL:
            assert {code for rank, code in enumerate(codes) if rank != victim} <= {6}, [p.output for p in programs]
            assert sum("resnetlab: process" in program.output for program in programs) <= 1
        if run.path.exists():
            ask.sound(run)
        ask.same(launcher.train(count, run.path, *words), twin)


def test_processes_that_are_restarted_find_each_other_whatever_their_machines_count(
    launcher: Any, ground: Path, ask: Any
) -> None:
    """The machine of the killed process counts one restart more; one that takes the place of a lost one counts none."""
    words = ("train", "quickstart", *ask.brief, *MIXED, "--resume", "auto", "--out")
    twin, mark = launcher.train(2, ground / "twin", *MIXED), ground / "mark"
    pause = {1: {"pause": {"where": "train", "call": 8, "seconds": 60, "mark": str(mark)}}}
    killed = launcher.start(2, *words, ground / "run", each=pause)
    ask.until(mark)
    killed[1].send(signal.SIGKILL)
    assert [program.wait() for program in killed] == [6, -signal.SIGKILL]
    for counts in ((0, 1), (2, 0)):  # of the second, nothing is left to train
        each = {rank: {"restarts": {"count": count}} for rank, count in enumerate(counts)}
        began = time.monotonic()
        programs = launcher.start(2, *words, ground / "run", "--process-timeout", 20, each=each, again=True)
        assert [program.wait() for program in programs] == [0, 0], [program.output for program in programs]
        assert time.monotonic() - began < 20
    ask.same(RunFolder(ground / "run"), twin)


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 1)])
def test_the_error_names_a_process_that_was_killed(
    count: int, victim: int, launcher: Any, ground: Path, ask: Any
) -> None:
    mark = ground / "mark"
    pause = {victim: {"pause": {"where": "train", "call": 8, "seconds": 60, "mark": str(mark)}}}
    programs = launcher.start(count, "train", "quickstart", *ask.brief, "--out", ground / "run", each=pause)
    ask.until(mark)
    time.sleep(0.5)  # the others wait for its gradient
    programs[victim].send(signal.SIGKILL)
    codes = [program.wait() for program in programs]
    assert codes == [-signal.SIGKILL if rank == victim else 6 for rank in range(count)]
    teller = programs[1 if victim == 0 else 0]
    assert teller.sentence.startswith(f"process {victim} of {count} has ended: it was killed or crashed")
    assert "--resume auto" in teller.sentence
    assert not any("resnetlab:" in program.output for program in programs if program is not teller)


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (4, 2)])
def test_a_process_that_hangs_is_named_after_the_time_out(
    count: int, victim: int, launcher: Any, ground: Path, ask: Any
) -> None:
    mark = ground / "mark"
    pause = {victim: {"pause": {"where": "train", "call": 8, "seconds": 60, "mark": str(mark)}}}
    words = ("train", "quickstart", *ask.brief, "--out", ground / "run", "--process-timeout", "5")
    programs = launcher.start(count, *words, each=pause)
    ask.until(mark)
    programs[victim].send(signal.SIGSTOP)
    others = [program for rank, program in enumerate(programs) if rank != victim]
    assert [program.wait() for program in others] == [6] * (count - 1)
    programs[victim].send(signal.SIGKILL)
    programs[victim].wait()
    told = [program for program in others if program.output.count("resnetlab: ")]
    assert len(told) == 1
    assert told[0].sentence.startswith(f"process {victim} of {count} does not answer (time-out: 5 s): it hangs")


def test_a_full_disk_of_the_first_ends_all_with_exit_code_4(launcher: Any, ground: Path, ask: Any) -> None:
    folder = ground / "run"
    fail = {0: {"refuse": {"folder": str(folder), "code": "ENOSPC", "first": 60}}}
    words = ("train", "quickstart", *ask.brief, "--out", folder, "--checkpoint.every-steps", 2)
    programs = launcher.run(3, *words, "--batch-size", 255, each=fail)
    assert [program.code for program in programs] == [4, 4, 4], [program.output for program in programs]
    assert "No space left on device" in programs[0].sentence
    assert "the last checkpoint is" in programs[0].sentence
    ask.sound(RunFolder(folder))


def test_another_number_of_processes_resumes_and_says_what_is_lost(
    launcher: Any, ground: Path, ask: Any, machine: Any
) -> None:
    words = ("train", "quickstart", *ask.brief, "--batch-size", "252", "--out", ground / "run", "--max-minutes", "0")
    assert [program.code for program in launcher.run(2, *words)] == [6, 6]
    strict = launcher.run(3, "resume", ground / "run", "--strict-resume")
    assert [program.code for program in strict] == [2, 2, 2]
    assert "processes was 2, now 3" in strict[0].sentence
    first = launcher.run(3, "resume", ground / "run", "--max-minutes", "0")
    assert [program.code for program in first] == [6, 6, 6], [program.output for program in first]
    assert "processes was 2, now 3: from here on not exact to the bit" in first[0].output
    assert "each process normalises its own images" in first[0].output
    last = machine.run("resume", ground / "run")
    assert last.code == 0, last.output
    assert "processes was 3, now 1: from here on not exact to the bit" in last.output
    assert len(RunFolder(ground / "run").rows) == 3


def test_the_first_plans_minutes_for_all_and_a_repeat_has_the_same_bits(launcher: Any, ground: Path, ask: Any) -> None:
    """They measure together; each finds another time, and that of the first counts."""
    words = ("train", "quickstart", "--model", "tiny", "--batch-size", 256, "--precision", "fp32", "--device", "cpu")
    each = {rank: {"step_takes": {"seconds": seconds}} for rank, seconds in enumerate((20, 1))}
    programs = launcher.run(2, *words, "--minutes", 3, "--out", ground / "planned", each=each)
    assert [program.code for program in programs] == [0, 0], [program.output for program in programs]
    run = RunFolder(ground / "planned")
    steps = run.read_json("config.json")["steps"]
    assert 1 <= steps < 9, "3 minutes are shorter than 9 steps of 20 s"
    assert f"length: {steps} steps" in programs[0].output
    assert programs[1].output == ""
    again = launcher.run(2, *words, "--steps", steps, "--out", ground / "again")
    assert [program.code for program in again] == [0, 0], [program.output for program in again]
    ask.same(RunFolder(ground / "again"), run)
    short = launcher.run(2, *words, "--minutes", 0.05, "--out", ground / "short")
    assert [program.code for program in short] == [2, 2], [program.output for program in short]
    assert "minutes is 0.05, but" in short[0].sentence
    assert short[1].output == ""
    assert not (ground / "short").exists()


def test_a_batch_that_cannot_be_divided_is_refused_by_all(launcher: Any, ground: Path, ask: Any) -> None:
    folder = ground / "run"
    words = ("train", "quickstart", *ask.brief, "--out", folder, "--batch-size")
    uneven, small = launcher.run(3, *words, 100), launcher.run(4, *words, 6)
    assert [program.code for program in uneven + small] == [2] * 7
    assert "--batch-size is 100, which 3 processes cannot divide evenly" in uneven[0].sentence
    assert "choose a batch_size of 99 or 102" in uneven[0].sentence
    assert "--batch-size is 6, too few for 4 processes, each of which needs 2 images" in small[0].sentence
    assert not any(program.output for program in (*uneven[1:], *small[1:]))
    assert not folder.exists()


def test_different_settings_are_refused(launcher: Any, ground: Path, ask: Any) -> None:
    """As on a second machine, where somebody has started another command."""
    other = {1: {"other_words": {"words": ["train", "quickstart", *ask.brief, "--lr", "0.2"]}}}
    programs = launcher.run(2, "train", "quickstart", *ask.brief, "--out", ground / "run", each=other)
    assert [program.code for program in programs] == [2, 2], [program.output for program in programs]
    assert "process 1: its settings differ from those of process 0" in programs[0].sentence


@pytest.mark.parametrize("others", [("--minutes", "3"), ("--augment.policy", "auto", "--augment.flip")])
def test_settings_of_what_comes_before_training_are_compared_first(
    others: tuple[str, ...], launcher: Any, ground: Path, ask: Any
) -> None:
    """Probes and measured steps exchange values, too; a process without them would exchange others in their place."""
    words = ["train", "quickstart", *ask.brief[:2], *ask.brief[4:], "--steps", "400"]
    changed = [*words[: -2 if others[0] == "--minutes" else None], *others, "--out", str(ground / "run")]
    each = {1: {"other_words": {"words": [*changed, "--process-timeout", "20"]}}}
    programs = launcher.run(2, *words, "--out", ground / "run", "--process-timeout", 20, each=each)
    assert [program.code for program in programs] == [2, 2], [program.output for program in programs]
    assert "process 1: its settings differ from those of process 0" in programs[0].sentence


def test_a_process_that_waits_for_the_others_to_come_names_them_and_can_be_stopped(
    launcher: Any, ground: Path, ask: Any
) -> None:
    words = ("train", "quickstart", *ask.brief, "--out", ground / "run", "--process-timeout")
    (early,) = launcher.start(3, *words, 2, ranks=[1])
    assert early.wait() == 6, early.output
    assert "process 1 of 3 could not connect to the others" in early.output
    assert "within 2 s: process 0 and 2 did not come" in early.output
    (waiting,) = launcher.start(3, *words, 60, ranks=[1])
    launcher.store.wait(["here/1"], timedelta(seconds=20))
    time.sleep(0.1)
    waiting.send(signal.SIGTERM)
    began = time.monotonic()
    assert waiting.wait() == 6, waiting.output
    assert time.monotonic() - began < 10


@pytest.fixture
def hosts() -> Iterator[list[dict[str, Any]]]:
    """Two network namespaces with a cable between them, as two hosts."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces need `ip` (iproute2) and root")
    names = [f"resnetlab-{os.getpid()}-{end}" for end in "ab"]
    ends = [f"rl{os.getpid() % 10**7}{end}" for end in "ab"]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            subprocess.run(["ip", "link", "set", end, "netns", name], check=True)
            for words in (["addr", "add", f"10.77.0.{number}/24", "dev", end], ["link", "set", end, "up"]):
                subprocess.run(["ip", "-n", name, *words], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield [
            {"namespace": name, "interface": end, "address": "10.77.0.1", "port": 29500}
            for name, end in zip(names, ends, strict=True)
        ]
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces cannot be made here")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_cut_between_two_hosts_ends_both_within_the_time_out(
    hosts: list[dict[str, Any]], launcher: Any, ground: Path, ask: Any
) -> None:
    mark = ground / "mark"
    each: dict[int, dict[str, Any]] = {rank: {"on_host": host} for rank, host in enumerate(hosts)}
    each[1]["pause"] = {"where": "train", "call": 8, "seconds": 60, "mark": str(mark)}
    words = ("train", "quickstart", *ask.brief, "--out", ground / "run", "--process-timeout", "5")
    programs = launcher.start(2, *words, each=each)
    ask.until(mark)
    subprocess.run(["ip", "-n", hosts[1]["namespace"], "link", "set", hosts[1]["interface"], "down"], check=True)
    mark.unlink()
    began = time.monotonic()
    assert [program.wait() for program in programs] == [6, 6], [program.output for program in programs]
    assert time.monotonic() - began < 60
    for rank, program in enumerate(programs):
        sentence = f"process {1 - rank} of 2 does not answer (time-out: 5 s): it hangs, was killed or"
        assert program.sentence.startswith(sentence)
    ask.sound(RunFolder(ground / "run"))


TORCHRUN = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1")

INSTANTS = {
    "start of rank 0": ("start", (1, 1), 0, 0),
    "loading": ("load", (1, 1), 1, 1),
    "first step": ("train", (1, 1), 0, 0),
    "first epoch": ("train", (2, 5), 1, 1),
    "middle of an epoch": ("train", (7, 9), 0, 0),
    "last epoch": ("train", (11, 15), 1, 1),
    "checkpoint, rank 0": ("save", (8, 40), 0, 0),
    "checkpoint, rank 1": ("save", (8, 40), 0, 1),
    "validation": ("validate", (1, 6), 1, 1),
    "final scores": ("score", (1, 2), 0, 0),
    "end of rank 1": ("leave", (1, 1), 1, 1),
}
"""Calls to draw from, of a function in a rank, and the rank that is killed a little after it."""


@pytest.fixture(scope="module", params=["in memory", "shards"])
def restarted(
    request: pytest.FixtureRequest, launcher: Any, machine: Any, pictures: Path, tmp_path_factory: Any
) -> tuple[tuple[object, ...], RunFolder]:
    """Settings, and a run of two processes with them that nothing disturbed."""
    ground = tmp_path_factory.mktemp("restarted")
    words: tuple[object, ...] = MIXED
    if request.param == "shards":
        packed = machine.run("pack", pictures, "--out", ground / "shards", "--images-per-shard", "20")
        assert packed.code == 0, packed.output
        words = ("--data", ground / "shards", "--data.shuffle-window", "30", "--data.store", "stream")
        words = (*words, "--batch-size", "24")
    words = (*words, "--checkpoint.every-steps", "2")
    return words, launcher.train(2, ground / "twin", *words)


@pytest.mark.parametrize("instant", INSTANTS)
def test_torchrun_restarts_a_process_killed_at_any_instant_to_the_same_weights(
    instant: str, restarted: tuple[tuple[object, ...], RunFolder], launcher: Any, ground: Path, ask: Any
) -> None:
    """torchrun forks its processes here, which saves their imports. Each of them decodes shards in two others."""
    words, twin = restarted
    where, calls, at, victim = INSTANTS[instant]
    draw = random.Random(f"{instant} {len(words)}")
    call, seconds = draw.randint(*calls), 0 if where == "leave" else draw.uniform(0, 0.03)
    kill = {"where": where, "call": call, "seconds": seconds, "at": at, "victim": victim, "note": str(ground / "note")}
    command = ("train", "quickstart", *ask.brief, *words, "--resume", "auto", "--out", ground / "run")
    program = launcher.machine.start(*command, torchrun=TORCHRUN, kill=kill, decoding={"processes": 2})
    assert program.wait() == 0, program.output
    assert (ground / "note.1.0").exists(), "it was restarted"
    ask.same(RunFolder(ground / "run"), twin)
    for decoder in (ground / "note.killed").read_text().split():
        assert not is_running(f"{decoder} {machine()}".encode())


@pytest.fixture(scope="module")
def resnet20(launcher: Any, tmp_path_factory: Any) -> tuple[list[str], RunFolder]:
    """The words of a training that every installation knows, and its run by two processes that nothing disturbed."""
    words = ["train", "quickstart", "--model", "resnet20", "--epochs", "2", "--precision", "fp32", "--device", "cpu"]
    words += ["--checkpoint.every-steps", "4"]
    folder = tmp_path_factory.mktemp("resnet20") / "twin"
    programs = launcher.run(2, *words, "--out", folder)
    assert [program.code for program in programs] == [0, 0], [program.output for program in programs]
    return words, RunFolder(folder)


def test_two_hosts_train_together_through_the_rendezvous_of_torchrun(
    hosts: list[dict[str, Any]], resnet20: tuple[list[str], RunFolder], ground: Path, ask: Any
) -> None:
    """One torchrun on each host, as on the page; the first has the store of the rendezvous (c10d)."""
    if shutil.which("nsenter") is None:
        pytest.skip("starting torchrun in a network namespace needs `nsenter` (util-linux)")
    words, twin = resnet20
    started: list[subprocess.Popen[str]] = []
    try:
        for number, host in enumerate(hosts, 1):
            options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "hosts"]
            options += ["--rdzv-endpoint", f"{host['address']}:{host['port']}", "--local-addr", f"10.77.0.{number}"]
            options += ["--rdzv-conf", f"is_host={'true' if number == 1 else 'false'}"]  # both have the same host name
            command = ["nsenter", f"--net=/run/netns/{host['namespace']}", sys.executable, "-m"]
            command += ["torch.distributed.run", *options, "-m", "resnetlab", *words, "--out", str(ground / "run")]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": host["interface"]}
            started.append(subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=environment))
        outputs = [torchrun.communicate(timeout=110)[0] for torchrun in started]
    finally:
        for torchrun in started:
            torchrun.terminate()  # with its workers
            torchrun.communicate()
    assert [torchrun.returncode for torchrun in started] == [0, 0], outputs
    ask.same(RunFolder(ground / "run"), twin)


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts_a_killed_process_to_the_same_weights(
    rank: int, resnet20: tuple[list[str], RunFolder], ground: Path, ask: Any
) -> None:
    """torchrun itself, as it is started by a shell; a process is killed after the first checkpoint."""
    words, twin = resnet20
    run = RunFolder(ground / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "2", "-m", "resnetlab", *words, "--resume", "auto", "--out", str(run.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=environment) as torchrun:
        try:
            end = time.monotonic() + 100
            while not run.checkpoints.exists() or not run.all_checkpoints():
                assert torchrun.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            workers = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
            ranks = {worker: Path(f"/proc/{worker}/environ").read_bytes() for worker in workers}
            os.kill(
                int(next(worker for worker, found in ranks.items() if f"\0RANK={rank}\0".encode() in found)),
                signal.SIGKILL,
            )
            output, _ = torchrun.communicate(timeout=200)
        finally:
            torchrun.terminate()  # with its workers; leaving the block waits for it
    assert torchrun.returncode == 0, output
    assert re.search(rf"process {rank} of 2 has ended|closing signal SIGTERM", output), output
    assert len(run.sessions) == 2, "it was restarted once"
    ask.same(run, twin)
