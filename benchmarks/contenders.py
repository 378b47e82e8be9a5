"""Run one measured process: start it, record its memory, read its line of JSON, end all its children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rounds import Failed, Sample
from benchmarks.watching import Memory

ROOT = Path(__file__).parents[1]
POLL = 0.02  # seconds between two checks if the process has ended


@dataclass(frozen=True)
class Contender:
    """A module of `benchmarks.peers`, the Python it runs in, and its job (the fields of `peers.common.Job`)."""

    module: str
    job: Mapping[str, Any]
    python: Path | Callable[[], Path] = Path(sys.executable)
    limit: float = 1800.0  # seconds
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> Sample:
        """Result of the process, with `peak_bytes`, `peak_bytes_timed` and `process_seconds`. Raises Failed."""
        python = self.python if isinstance(self.python, Path) else self.python()
        with tempfile.TemporaryDirectory(prefix="resnetlab-bench-", ignore_cleanup_errors=True) as scratch:
            job = {**self.job, "spawned": time.time(), "scratch": scratch}
            command = [str(python), "-m", f"benchmarks.peers.{self.module}", json.dumps(job)]
            done = run(command, limit=self.limit, environment=self.environment)
        try:
            result = json.loads(done.said.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise Failed(f"{self.module} printed no result") from None
        result["peak_bytes"] = done.memory.peak()
        result["peak_bytes_timed"] = done.memory.peak(*result["window"]) if "window" in result else None
        return {**result, "process_seconds": done.seconds}


@dataclass(frozen=True)
class Done:
    """Output, time and memory of a process that ended with exit code 0."""

    said: str
    seconds: float
    memory: Memory


def run(command: Sequence[str], *, limit: float = 1800.0, environment: Mapping[str, str] | None = None) -> Done:
    """Run a command in the repository and wait for it. Raises Failed for a non-zero exit code and past the limit."""
    surroundings = {**os.environ, "PYTHONPATH": "", **(environment or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=surroundings,
            start_new_session=True,
        )
        memory = Memory(process.pid)
        try:
            while process.poll() is None:
                memory.measure()
                if time.perf_counter() - began > limit:
                    raise Failed(f"took longer than {limit:.0f} s")
                time.sleep(POLL)
            seconds = time.perf_counter() - began
        finally:
            end_session(process)
        out.seek(0)
        err.seek(0)
        said, complaint = (file.read().decode(errors="replace") for file in (out, err))
    if process.returncode:
        raise Failed(reason(complaint or said, process.returncode))
    return Done(said, seconds, memory)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything it started, such as loader workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def reason(complaint: str, code: int) -> str:
    """Last line of the error output, which is where Python names the error."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"
