"""A machine on which everything goes wrong: programs that are killed, stopped and refused the disk, and what is left.

To put something new under these tests, add a line to CONFIGURATIONS in test_kills.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetlab.files import read_sealed
from resnetlab.inference.model_file import read_model
from resnetlab.runs.folder import RunFolder
from resnetlab.training.checkpoint import FORMAT

TIMINGS = {"train_seconds", "images_per_second"}
BRIEF = ("--model", "tiny", "--epochs", "3", "--batch-size", "256", "--precision", "fp32", "--device", "cpu")


@dataclass
class Program:
    """A forked command line."""

    machine: Machine
    pid: int
    said: Path
    code: int | None = None

    def wait(self) -> int:
        """Its exit code; a negative one is the signal that ended it."""
        if self.code is None:
            self.code = self.machine.ask({"wait": self.pid})["code"]
        return self.code

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)  # not waited for yet, so the number is still its own

    @property
    def output(self) -> str:
        """What it said so far, on stdout and stderr."""
        return self.said.read_text()

    @property
    def sentence(self) -> str:
        """The sentence it ended with."""
        lines = [line for line in self.output.splitlines() if line.startswith("resnetlab: ")]
        assert len(lines) == 1, self.output
        assert "Traceback" not in self.output, self.output
        return lines[0].removeprefix("resnetlab: ")


@dataclass
class Machine:
    """Starts programs in situations; see fork_server.py."""

    server: subprocess.Popen[str]
    scratch: Path
    started: int = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return dict(json.loads(self.server.stdout.readline()))

    def start(
        self,
        *words: object,
        stdout: str | None = None,
        pictures: bool = False,
        torchrun: tuple[str, ...] = (),
        **situations: Any,
    ) -> Program:
        """Begin a command, or torchrun with these options and the command, and do not wait for it."""
        self.started += 1
        said = self.scratch / f"{self.started}.txt"
        said.touch()
        if not pictures:
            situations = {"without_pictures": {}, **situations}
        where: dict[str, Any] = {} if stdout is None else {"stdout": stdout}
        where |= {"torchrun": torchrun} if torchrun else {}
        request = {"words": [str(word) for word in words], "said": str(said), "situations": situations, **where}
        return Program(self, self.ask(request)["pid"], said)

    def run(self, *words: object, stdout: str | None = None, pictures: bool = False, **situations: Any) -> Program:
        """One command, to its end."""
        program = self.start(*words, stdout=stdout, pictures=pictures, **situations)
        program.wait()
        return program

    def train(self, folder: Path, *words: object, **situations: Any) -> RunFolder:
        """A brief run that nothing disturbs."""
        program = self.run("train", "quickstart", *BRIEF, *words, "--out", folder, **situations)
        assert program.code == 0, program.output
        return RunFolder(folder)

    def resume(self, folder: Path) -> RunFolder:
        program = self.run("resume", folder)
        assert program.code == 0, program.output
        return RunFolder(folder)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment) as server:
        machine = Machine(server, tmp_path_factory.mktemp("said"))
        machine.ask({})  # its imports take longer than a run, which some tests time
        yield machine


@dataclass
class Launcher:
    """Starts several processes of one command as torchrun does, with its environment and a store that outlives them."""

    machine: Machine

    def start(
        self,
        count: int,
        *words: object,
        each: dict[int, dict[str, Any]] | None = None,
        ranks: Sequence[int] | None = None,
        again: bool = False,
    ) -> list[Program]:
        """Begin a command `count` times, or `ranks` of it only; `each` are situations of single ranks.

        If `again`, they are restarted: the store is that of the processes before them.
        """
        from torch.distributed import TCPStore

        if not again:
            self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return [
            self.machine.start(
                *words, one_of={"rank": rank, "count": count, "port": self.store.port}, **(each or {}).get(rank, {})
            )
            for rank in (range(count) if ranks is None else ranks)
        ]

    def run(self, count: int, *words: object, each: dict[int, dict[str, Any]] | None = None) -> list[Program]:
        """One command of `count` processes, to its end."""
        programs = self.start(count, *words, each=each)
        for program in programs:
            program.wait()
        return programs

    def train(self, count: int, folder: Path, *words: object) -> RunFolder:
        """A brief run of `count` processes, resumed if there is one; all but the first are silent."""
        command = ("train", "quickstart", *BRIEF, *words, "--out", folder, "--resume", "auto")
        programs = self.run(count, *command)
        assert [program.code for program in programs] == [0] * count, [program.output for program in programs]
        assert not any(program.output for program in programs[1:])
        return RunFolder(folder)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    words = [sys.executable, str(Path(__file__).with_name("fork_server.py")), "processes"]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment) as server:
        yield Launcher(Machine(server, tmp_path_factory.mktemp("said by processes")))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 noisy pictures in three classes that differ in their colour."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir()
        for number in range(80):
            pixels = draw.integers(0, 200, (12, 12, 3)).astype(np.uint8)
            pixels[..., channel] += 25
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@dataclass(frozen=True)
class Outcome:
    """Everything of a finished run that may not depend on how it got there."""

    state: str  # SHA-256 of model, average, optimiser and running sums
    counters: dict[str, Any]
    scores: list[Any]
    rows: list[dict[str, Any]]
    table: list[list[str]]  # metrics.csv
    best: str  # digest of the weights
    best_epoch: int
    validation: object  # of the model file: temperature, rejections, agreement, scores
    final: dict[str, Any]

    @classmethod
    def of(cls, run: RunFolder) -> Outcome:
        tensors, facts = read_sealed(run.all_checkpoints()[0])
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
            digest.update(tensors[name].contiguous().reshape(-1).numpy().tobytes())
        model = read_model(run.best)
        rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in run.rows]
        lines = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()]
        return cls(
            state=digest.hexdigest(),
            counters={name: value for name, value in facts["counters"].items() if name != "seconds"},
            scores=facts["scores"],
            rows=rows,
            table=[[cell for name, cell in zip(lines[0], line, strict=True) if name not in TIMINGS] for line in lines],
            best=model.weights_digest,
            best_epoch=model.provenance["epoch"],
            validation=model.validation,
            final={split: run.final_metrics(split) for split in ("val", "test")},
        )


def require_sound(run: RunFolder) -> None:
    """Every name points at a whole file, whatever has just happened to the run."""
    for path in run.all_checkpoints():
        assert read_sealed(path)[1]["format"] == FORMAT
    if run.best.exists():
        read_model(run.best)
    for path in run.path.rglob("*.json"):
        json.loads(path.read_text())
    epochs = [row["epoch"] for row in run.rows]
    assert epochs == list(range(1, len(epochs) + 1))


def require_clean(run: RunFolder) -> None:
    assert not list(run.path.rglob("*.tmp"))


def require_same(run: RunFolder, twin: RunFolder) -> None:
    """The run is bit for bit its undisturbed twin, and has left nothing lying about."""
    require_sound(run)
    require_clean(run)
    assert [row["epoch"] for row in run.rows] == list(range(1, len(twin.rows) + 1))
    assert Outcome.of(run) == Outcome.of(twin)


def until(there: Path, seconds: float = 60) -> None:
    """Wait for a mark."""
    end = time.monotonic() + seconds
    while not there.exists():
        assert time.monotonic() < end, f"{there} has not come"
        time.sleep(0.002)


class Ask:
    """The questions above as one fixture, for test files cannot import each other here."""

    same = staticmethod(require_same)
    sound = staticmethod(require_sound)
    clean = staticmethod(require_clean)
    until = staticmethod(until)
    brief = BRIEF


@pytest.fixture(scope="session")
def ask() -> type[Ask]:
    return Ask


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory, where there is one: what is asked here does not depend on a slow disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="resnetlab-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def undisturbed(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The twin of every brief run on digits."""
    return machine.train(tmp_path_factory.mktemp("undisturbed") / "run")
