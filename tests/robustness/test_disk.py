"""A disk that is full, over quota, read-only or gone: what was saved stays, and no word claims more (promise 4).

Torn off at any call, a run either goes on as if nothing had been, or ends with exit code 4 and a sentence.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnetlab.runs.folder import RunFolder

SENTENCE = re.compile(
    r"could not write (?P<path>/\S+): .+? \([\d,]+ bytes needed, [\d,]+ free\); "
    r"(the last checkpoint is (?P<last>/\S+)|there is no checkpoint yet)"
)


def newest_step(run: RunFolder) -> int:
    return int(run.all_checkpoints()[0].stem.removeprefix("step-"))


def require_told(program: Any, run: RunFolder) -> None:
    """Exit code 4, and the sentence: what could not be written, why, the room, and what there is still."""
    assert program.code == 4, program.output
    told = SENTENCE.fullmatch(program.sentence)
    assert told, program.sentence
    assert told["path"].startswith(str(run.path))
    checkpoints = run.all_checkpoints()
    assert told["last"] == (str(checkpoints[0]) if checkpoints else None)
    assert "the run is in" not in program.output


OTHERS = [pytest.param(code, marks=pytest.mark.slow) for code in ("EIO", "EDQUOT", "EROFS", "ESTALE")]


@pytest.mark.parametrize("code", ["ENOSPC", *OTHERS])
def test_three_refusals_in_a_row_end_the_run_and_the_checkpoint_before_them_stays(
    code: str, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    """Everything that writes fails from the second epoch on."""
    run = RunFolder(ground / "run")
    command = ("train", "quickstart", *ask.brief, "--out", run.path, "--epochs", 3, "--checkpoint.every-steps", 2)
    fail = {"folder": str(run.path), "code": code, "first": 60}
    program = machine.run(*command, refuse=fail)
    require_told(program, run)
    assert os.strerror(getattr(__import__("errno"), code)) in program.sentence
    warnings = [line for line in program.output.splitlines() if "nothing was saved" in line]
    assert [re.findall(r"attempt \d of 3", line) for line in warnings] == [["attempt 1 of 3"], ["attempt 2 of 3"]]
    ask.sound(run)
    assert 2 <= newest_step(run) < 15
    ask.same(machine.resume(run.path), undisturbed)


@pytest.fixture(scope="module")
def calls(machine: Any, ask: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every call of a brief run that changes something on the disk: "write /…/run/best.safetensors"."""
    folder = tmp_path_factory.mktemp("calls")
    fail = {"folder": str(folder / "run"), "code": "EIO", "first": 10**9, "log": str(folder / "log")}
    program = machine.run("train", "quickstart", *ask.brief, *TWO, "--out", folder / "run", refuse=fail)
    assert program.code == 0, program.output
    found = (folder / "log").read_text().splitlines()
    assert {kind for kind, _ in map(str.split, found)} == {"open", "write", "fsync", "rename", "unlink", "mkdir"}
    return found


TWO = ("--epochs", "2", "--checkpoint.every-steps", "3")


@pytest.fixture(scope="module")
def twin(machine: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """What none of the refusals below may change."""
    run: RunFolder = machine.train(tmp_path_factory.mktemp("twin") / "run", *TWO)
    return run


CODES = ["ENOSPC", "EIO", "EDQUOT"]
SHARES = [pytest.param([90, 90, 90], id="some"), pytest.param([1, 3, 3], id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("code", [CODES[0], *(pytest.param(code, marks=pytest.mark.slow) for code in CODES[1:])])
@pytest.mark.parametrize("shares", SHARES)
def test_a_call_that_fails_once_changes_nothing_in_the_end(
    *, code: str, shares: list[int], machine: Any, ground: Path, ask: Any, calls: list[str], twin: RunFolder
) -> None:
    """A full disk at every call; the other two errors, which take the same way through the code, at every third."""
    ends: Counter[int] = Counter()
    share = shares[CODES.index(code)]
    for number in range(1 + CODES.index(code) * share // len(CODES), len(calls) + 1, share):
        run = RunFolder(ground / str(number))
        fail = {"folder": str(run.path), "code": code, "first": number, "last": number}
        program = machine.run("train", "quickstart", *ask.brief, *TWO, "--out", run.path, refuse=fail)
        what = (number, calls[number - 1], program.output)
        assert program.code in (0, 4), what
        ends[program.code] += 1
        if program.code == 4:
            assert program.sentence.startswith("could not "), what
            ask.sound(run)
            again = ("train", "quickstart", *ask.brief, *TWO, "--out", run.path, "--resume", "auto")
            assert machine.run(*again).code == 0, what
        ask.same(run, twin)
        shutil.rmtree(run.path)
    assert ends[0] > 0  # most refusals are waited out


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        pytest.param(kind, times, marks=[] if (kind, times) == ("write", 1) else pytest.mark.slow)
        for kind in ("write", "fsync", "rename", "open")
        for times in (1, 2)
    ],
)
def test_a_disk_that_is_full_for_a_while_costs_no_epoch_and_no_best_model(
    *, kind: str, times: int, machine: Any, ground: Path, ask: Any, calls: list[str], twin: RunFolder
) -> None:
    """The best model of the first epoch is refused, its epoch's record then, and all of it is made up for."""
    kinds = [line for line in calls if line.startswith(kind)]
    first = 1 + next(number for number, line in enumerate(kinds) if "best.safetensors" in line)
    run = RunFolder(ground / "run")
    fail = {"folder": str(run.path), "code": "ENOSPC", "first": first, "last": first + times - 1, "kinds": [kind]}
    program = machine.run("train", "quickstart", *ask.brief, *TWO, "--out", run.path, refuse=fail)
    assert program.code == 0, program.output
    assert "nothing was saved" in program.output
    ask.same(run, twin)


@pytest.mark.slow
def test_a_file_size_limit_is_a_refusal_like_another(
    machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run = RunFolder(ground / "run")
    command = ("train", "quickstart", *ask.brief, "--out", run.path, "--checkpoint.every-steps", 2)
    program = machine.run(*command, file_size_limit={"size": 4096, "after": 20})
    require_told(program, run)
    assert "File too large" in program.sentence
    ask.sound(run)
    ask.same(machine.resume(run.path), undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"needs the right to mount a file system: {mount.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


MIDDLE = ("--model", "middle")  # checkpoints of 611 kB, models of 307 kB: three and one are one too many for 2 MB


@pytest.fixture(scope="module")
def middle(machine: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run: RunFolder = machine.train(tmp_path_factory.mktemp("middle") / "run", *MIDDLE)
    return run


def test_a_disk_too_small_for_the_run_keeps_what_fitted(
    machine: Any, small_disk: Path, ask: Any, middle: RunFolder
) -> None:
    run = RunFolder(small_disk / "run")
    command = ("train", "quickstart", *ask.brief, *MIDDLE, "--out", run.path, "--checkpoint.every-steps", 2)
    program = machine.run(*command)
    require_told(program, run)
    assert "No space left on device" in program.sentence
    ask.sound(run)
    ask.clean(run)
    full = machine.run("resume", run.path)
    assert full.code == 4, full.output
    assert SENTENCE.fullmatch(full.sentence)
    ask.sound(run)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    ask.same(machine.resume(run.path), middle)


@pytest.mark.slow
def test_a_disk_without_a_single_free_byte_is_told_of_before_anything_is_lost(
    machine: Any, small_disk: Path, ask: Any, undisturbed: RunFolder
) -> None:
    """Neither the lock nor the log can be written then, nor the output where it goes to the same disk."""
    run, output = RunFolder(small_disk / "run"), small_disk / "output"
    output.touch()
    fill = f"cat /dev/zero > {small_disk}/filler 2> /dev/null; test -s {small_disk}/filler"
    program = machine.run(
        "train", "quickstart", *ask.brief, "--out", run.path, "--checkpoint.every-steps", 2, stdout=str(output),
        shell_before_epoch={"epoch": 2, "command": fill},
    )  # fmt: skip
    require_told(program, run)
    ask.sound(run)
    before = run.all_checkpoints()
    full = machine.run("resume", run.path)
    assert full.code == 4, full.output
    assert full.sentence.startswith(f"could not write {run.path}")
    assert run.all_checkpoints() == before
    (small_disk / "filler").unlink()
    ask.same(machine.resume(run.path), undisturbed)


def test_output_that_cannot_be_written_does_not_end_a_run(machine: Any, ground: Path, ask: Any) -> None:
    run = RunFolder(ground / "run")
    program = machine.run("train", "quickstart", *ask.brief, "--out", run.path, stdout="/dev/full")
    assert program.code == 0, program.output
    assert "epoch 3/3" in run.log.read_text()


@pytest.mark.slow
def test_a_closed_stdout_does_not_end_a_run(machine: Any, ground: Path, ask: Any) -> None:
    run = RunFolder(ground / "run")
    program = machine.run("train", "quickstart", *ask.brief, "--out", run.path, closed_stdout={})
    assert program.code == 0, program.output
    assert program.output == ""
    assert run.final_metrics("test") is not None


@pytest.mark.slow
def test_a_reader_that_has_gone_does_not_end_a_run(machine: Any, ground: Path, ask: Any) -> None:
    """As with `resnetlab train | head -1`, or when the window is closed in which `tee` was running."""
    run, pipe = RunFolder(ground / "run"), ground / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    mark = ground / "mark"
    pause = {"where": "load", "call": 1, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, stdout=str(pipe), pause=pause)
    ask.until(mark)
    os.close(reader)
    mark.unlink()
    assert program.wait() == 0, program.output
    assert "epoch 3/3" in run.log.read_text()


@pytest.mark.slow
def test_a_run_on_a_disk_that_has_become_read_only_stays_as_it_was(
    machine: Any, small_disk: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run = RunFolder(small_disk / "run")
    command = ("train", "quickstart", *ask.brief, "--out", run.path)
    assert machine.run(*command, "--max-minutes", 0).code == 6
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused = machine.run("resume", run.path)
    assert refused.code == 4, refused.output
    assert "Read-only file system" in refused.sentence
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    ask.same(machine.resume(run.path), undisturbed)


def test_a_new_run_on_a_read_only_disk_is_refused_in_a_sentence(machine: Any, small_disk: Path, ask: Any) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    program = machine.run("train", "quickstart", *ask.brief, "--out", small_disk / "run")
    assert program.code == 4, program.output
    assert program.sentence == f"could not make {small_disk / 'run'}: Read-only file system"


@pytest.mark.slow
@pytest.mark.parametrize("back", [True, False])
def test_a_folder_that_vanishes_is_told_of(
    back: bool, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    """Moved away while the run goes on, as when a share is unmounted; and put back before the third attempt, or not."""
    run, away = RunFolder(ground / "run"), ground / "away"
    situations: dict[str, Any] = {"shell_before_epoch": {"epoch": 2, "command": f"mv {run.path} {away}"}}
    if back:
        situations["pause"] = {"where": "train", "call": 13, "seconds": 60, "mark": str(ground / "mark")}
    program = machine.start(
        "train", "quickstart", *ask.brief, "--out", run.path, "--checkpoint.every-steps", 2, **situations
    )
    if back:
        ask.until(ground / "mark")
        away.rename(run.path)
        (ground / "mark").unlink()
        assert program.wait() == 0, program.output
        assert "nothing was saved" in program.output
        ask.same(run, undisturbed)
        return
    assert program.wait() == 4, program.output
    assert re.fullmatch(r"could not write .*: No such file or directory; there is no checkpoint yet", program.sentence)
    away.rename(run.path)
    ask.same(machine.resume(run.path), undisturbed)
