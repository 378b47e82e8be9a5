"""A damaged file is never loaded, a reader never meets half a file, and two trainers never share a folder (2, 3, 8)."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnetlab.errors import BadInput, Damaged
from resnetlab.files import read_sealed
from resnetlab.inference.model_file import read_model
from resnetlab.runs.build import Experiment
from resnetlab.runs.folder import RunFolder
from resnetlab.training.checkpoint import load_checkpoint

FLIPS, CUTS = 1000, 200


@pytest.fixture(scope="module")
def checkpointed(machine: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose checkpoint has everything in it: an average and an optimiser with two moments."""
    words = ("--ema", "0.9", "--optim.name", "adamw", "--lr", "1e-3", "--epochs", "2")
    run: RunFolder = machine.train(tmp_path_factory.mktemp("checkpointed") / "run", *words)
    return run


@pytest.fixture(scope="module")
def files(checkpointed: RunFolder) -> dict[str, bytes]:
    return {
        "checkpoint": checkpointed.all_checkpoints()[0].read_bytes(),
        "model": checkpointed.best.read_bytes(),
    }


Loader = Callable[[Path], object]


@pytest.fixture(scope="module")
def loaders(checkpointed: RunFolder, tiny_network: str) -> dict[str, Loader]:
    """What a resumed run, and a prediction, read files with."""
    state = Experiment.of(checkpointed.config).state
    return {"checkpoint": lambda path: load_checkpoint(path, state), "model": read_model}


def refused(loader: Loader, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(Damaged, match="damaged"):
        loader(path)


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_no_flipped_bit_is_loaded_silently(
    kind: str, files: dict[str, bytes], loaders: dict[str, Loader], ground: Path
) -> None:
    content, draw = files[kind], random.Random(kind)
    for place in draw.sample(range(len(content)), FLIPS):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        refused(loaders[kind], ground / "file", damaged)
    (ground / "file").write_bytes(content)
    loaders[kind](ground / "file")


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_no_part_of_a_file_is_loaded_silently(
    kind: str, files: dict[str, bytes], loaders: dict[str, Loader], ground: Path
) -> None:
    content = files[kind]
    for length in random.Random(kind).sample(range(len(content)), CUTS):
        refused(loaders[kind], ground / "file", content[:length])
        blank = bytes(len(content) - length)  # what a file system may make of what was not flushed
        if content[length:] != blank:
            refused(loaders[kind], ground / "file", content[:length] + blank)
    for nothing in (b"", bytes(len(content)), bytes(8), content + content, content[4096:]):
        refused(loaders[kind], ground / "file", nothing)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda content: content[:-7] + bytes([content[-7] ^ 16]) + content[-6:],
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize(
    ("damage", "keep"),
    [
        ("cut", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("flipped", 1), ("zeros", 1), ("empty", 2))),
    ],
)
def test_the_sound_checkpoint_before_a_damaged_one_is_used_and_kept(
    *, damage: str, keep: int, machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    """The damaged one is further on, and so counts as newer; it may not push a sound one out of the folder."""
    run = RunFolder(ground / "run")
    command = ("train", "quickstart", *ask.brief, "--out", run.path, "--resume", "auto", "--checkpoint.every-steps", 1)
    pause = {"where": "train", "call": 9, "seconds": 60, "mark": str(ground / "mark")}
    program = machine.start(*command, pause=pause)
    ask.until(ground / "mark")
    program.send(signal.SIGKILL)
    program.wait()
    assert run.all_checkpoints() == [run.checkpoint_path(8), run.checkpoint_path(7)]
    damaged = run.checkpoint_path(8).rename(run.checkpoint_path(12))
    damaged.write_bytes(DAMAGE[damage](damaged.read_bytes()))

    program = machine.run(*command, "--checkpoint.keep", keep, "--max-minutes", 0)
    assert program.code == 6, program.output
    assert f"{damaged} is " in program.output
    assert "trying the one before" in program.output
    sound = [run.checkpoint_path(8), run.checkpoint_path(7)][:keep]
    assert run.all_checkpoints() == [damaged, *sound]
    assert machine.run("resume", run.path).code == 0
    ask.same(run, undisturbed)


def test_when_all_are_damaged_nothing_is_touched(machine: Any, ground: Path, ask: Any) -> None:
    run = machine.train(ground / "run")
    for path in run.all_checkpoints():
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for words in (("resume", run.path), ("train", "quickstart", *ask.brief, "--out", run.path, "--resume", "auto")):
        program = machine.run(*words)
        assert program.code == 3, program.output
        assert "none of the checkpoints in" in program.sentence
    ours = {run.log, run.path / ".lock"}
    assert all(path.read_bytes() == content for path, content in before.items() if path not in ours)


def test_a_checkpoint_that_the_disk_cannot_read_any_more_is_damaged(
    checkpointed: RunFolder, loaders: dict[str, Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, _mode: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(Damaged, match=r"could not read .*: Input/output error"):
        loaders["checkpoint"](checkpointed.all_checkpoints()[0])


def test_a_reader_never_meets_half_a_file(machine: Any, ground: Path, ask: Any) -> None:
    path, mark = ground / "model.safetensors", ground / "mark"
    program = machine.start(save_often={"path": str(path), "times": 200, "ready": str(mark)})
    ask.until(path)
    seen, reads = set(), 0
    while 199 not in seen:
        tensors, facts = read_sealed(path)
        assert (tensors["w"] == facts["number"]).all()
        assert tensors["w"].numel() == 5_000 + 100 * (facts["number"] % 7)
        seen.add(facts["number"])
        reads += 1
    assert program.wait() == 0, program.output
    assert len(seen) > 1
    assert reads >= len(seen)
    ask.clean(RunFolder(ground))


def test_two_trainers_cannot_share_a_folder(machine: Any, ground: Path, ask: Any, undisturbed: RunFolder) -> None:
    run, mark = RunFolder(ground / "run"), ground / "mark"
    command = ("train", "quickstart", *ask.brief, "--out", run.path, "--resume", "auto")
    pause = {"where": "train", "call": 7, "seconds": 60, "mark": str(mark)}
    first = machine.start(*command, pause=pause)
    ask.until(mark)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for words in (("resume", run.path), command):
        second = machine.run(*words)
        assert second.code == 2, second.output
        assert f"{run.path} is in use by another run (process {first.pid} on " in second.sentence
    assert machine.run("train", "quickstart", *ask.brief, "--out", run.path).code == 2
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    first.send(signal.SIGKILL)
    first.wait()
    ask.same(machine.resume(run.path), undisturbed)


@pytest.mark.slow
def test_what_a_killed_run_left_half_written_is_swept(
    machine: Any, ground: Path, ask: Any, undisturbed: RunFolder
) -> None:
    run, mark = RunFolder(ground / "run"), ground / "mark"
    pause = {"where": "save", "call": 13, "seconds": 60, "mark": str(mark)}
    program = machine.start("train", "quickstart", *ask.brief, "--out", run.path, pause=pause)
    ask.until(mark)
    program.send(signal.SIGKILL)
    program.wait()
    assert list(run.path.rglob("*.tmp"))
    kept = run.path / "notes.tmp"
    kept.write_text("not ours")
    machine.resume(run.path)
    assert kept.exists()
    kept.unlink()
    ask.same(run, undisturbed)


def test_a_folder_with_someone_elses_files_is_no_beginning_of_a_run(machine: Any, ground: Path, ask: Any) -> None:
    for name in ("split.json", "notes.txt", "checkpoints/step-00000001.ckpt"):
        folder = ground / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        program = machine.run("train", "quickstart", *ask.brief, "--out", folder)
        assert program.code == 2, program.output
        assert "is not empty" in program.sentence
        assert (folder / name).read_text() == "mine"
    with pytest.raises(BadInput, match="is a file"):
        RunFolder.require_free(ground / "notes.txt" / "notes.txt")
