"""Shared by every measured process: its job, the clock around its steps, the line it prints.

This runs in the environments of the peers, so it needs only Python and torch.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "torchvision", "timm", "fastai", "transformers", "ultralytics", "pillow", "pillow-simd"),
    *("uvicorn", "fastapi", "litserve"),
)


@dataclass(frozen=True)
class Job:
    """The task of one process; a task ignores fields that it does not need."""

    task: str
    folder: str = ""  # has train/<class>/*
    model: str = "resnet18"
    stem: str = "cifar"
    image_size: int = 32
    batch: int = 128
    optimizer: str = "sgd"
    augment: bool = True
    fast: bool = False  # with every option that makes it faster
    compiled: bool = False  # with torch.compile, for contenders where it is not part of `fast`
    steps: int = 10
    warmup: int = 3
    images: int = 0
    workers: int = 2  # processes that load images
    normalized: bool = True  # to float32; else images are left as uint8, for a GPU to normalise
    processes: int = 1  # that train together
    compress: str = "none"  # the format in which they exchange gradients
    spawned: float = field(default_factory=time.time)  # when the process was started, in seconds since 1970
    scratch: str = ""  # an empty folder for temporary files

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Job:
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})


class Clock:
    """Times the steps after the warm-up and, separately, the start up to the first step."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result: dict[str, Any] = {}
        self.done = 0
        self.loop_began = self.timed_from = 0.0
        self.ended: list[float] = []  # end time of each timed step

    def start(self) -> None:
        """Mark the begin of the loop, before the first batch is requested."""
        self.result["setup_seconds"] = time.time() - self.job.spawned
        self.loop_began = time.perf_counter()
        if not self.job.warmup:
            self._begin()

    def step(self, images: int) -> bool:
        """Count a finished step over so many images; return True after the last one."""
        self.done += 1
        if self.done == 1:
            wait_for_device()
            self.result["first_step_seconds"] = time.perf_counter() - self.loop_began
        if self.done == self.job.warmup:
            self._begin()
        elif self.done > self.job.warmup:
            self.result["images"] += images
            self.ended.append(time.perf_counter())
        if self.done < self.job.warmup + self.job.steps:
            return False
        wait_for_device()
        self.result["seconds"] = time.perf_counter() - self.timed_from
        if self.result["cpu_seconds"] is not None:
            self.result["cpu_seconds"] = (cpu_seconds() or 0.0) - self.result["cpu_seconds"]
        steps = [after - before for before, after in itertools.pairwise([self.timed_from, *self.ended])]
        self.result["median_step_seconds"] = statistics.median(steps)
        self.result["window"] = [self.result["window"][0], time.time()]
        return True

    def note(self, text: str) -> None:
        """Add a note for the reader of the result."""
        self.result.setdefault("notes", []).append(text)

    def _begin(self) -> None:
        wait_for_device()
        self.result |= {"window": [time.time()], "images": 0, "cpu_seconds": cpu_seconds()}
        self.timed_from = time.perf_counter()


def cpu_seconds() -> float | None:
    """Return the processor time of this process and all its descendants so far; None if the system has no /proc.

    The time of a process that has ended is part of its parent's, as `cutime` and `cstime`.
    """
    ticks, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            fields_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, path.read_text().split())
        except OSError:
            if pid == os.getpid():
                return None
            continue  # it has ended
        ticks += sum(map(int, fields_of[11:15]))  # utime, stime, cutime, cstime: see proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for_device() -> None:
    """Wait until the device has finished its work, so that the host's clock includes it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    """cuda if available, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main(contenders: Mapping[str, Callable[[Job, Clock], None]]) -> None:
    """Run the job of the command line and print the result of the clock as the last line."""
    job = Job.from_json(json.loads(sys.argv[1]))
    if job.task not in contenders:
        sys.exit(f"unknown task {job.task!r}; choose from {', '.join(contenders)}")
    clock = Clock(job)
    contenders[job.task](job, clock)
    if "seconds" not in clock.result:
        sys.exit(f"only {clock.done} of {job.warmup + job.steps} steps were done")
    clock.result["versions"] = versions()
    torch = sys.modules.get("torch")
    if torch is not None:
        clock.result["threads"] = torch.get_num_threads()
    sys.stderr.flush()
    print("\n" + json.dumps(clock.result), flush=True)
    os._exit(0)  # ending the loaders may take seconds


def versions() -> dict[str, str]:
    """Installed versions of the compared packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
