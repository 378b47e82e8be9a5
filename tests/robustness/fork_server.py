"""Imports the package once, then forks a command line for each request: a whole program in a tenth of a second.

No test itself: conftest.py starts it as a process of its own, so that nothing another test did (threads, a GPU) is
inherited by what it forks. A request is a line of JSON on stdin, the answer one on stdout:

    {"words": ["train", …], "said": FILE, "situations": {NAME: {…}}}  ->  {"pid": 123}
    {"wait": 123}  ->  {"code": 0}       a negative code is the signal that ended it
    {}  ->  {}                           when all is imported

A situation is what goes wrong, or slowly, in the child: a function below. With "torchrun" (its options), the child is
torchrun, which forks the processes of the command.
"""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import io
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import resnetlab.files
from resnetlab.cli import main as cli
from resnetlab.data import decoded, workers
from resnetlab.distributed import Processes, joined
from resnetlab.models.zoo import ARCHITECTURES, Architecture
from resnetlab.runs import build, experiment, recipes, resume, score, timing
from resnetlab.runs import evaluation_files as record
from resnetlab.training import loop

# Small enough for a run in a fraction of a second; `middle` has a checkpoint of 0.6 MB.
SMALL = {
    "tiny": Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A"),
    "middle": Architecture("basic", (1, 1, 1), width=16, stem="cifar", shortcut="A"),
}


def patch(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def without_pictures() -> None:
    """Drawing takes longer than these runs."""
    patch(record, "draw", lambda *_: None)
    patch(experiment, "draw_curves", lambda *_: None)
    patch(experiment, "draw_batch", lambda *_: None)


def pause(where: str, call: int, seconds: float, mark: str) -> None:
    """At the given call (from 1) of a function leave a mark, wait until it is removed or time is up, and go on."""

    def wait() -> None:
        Path(mark).touch()
        end = time.monotonic() + seconds
        while time.monotonic() < end and Path(mark).exists():
            time.sleep(0.002)

    before_call(where, call, wait)


def before_call(where: str, call: int, act: Callable[[], None]) -> None:
    """Do something at the given call (from 1) of a function."""
    owner, name = {
        "load": (build, "open_dataset"),
        "train": (loop, "train_step"),
        "validate": (loop, "evaluate"),
        "score": (score, "probabilities"),
        "save": (os, "fsync"),
        "leave": (Processes, "close"),
    }[where]
    real, calls = getattr(owner, name), []

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            act()
        return real(*arguments, **options)

    patch(owner, name, watched)


def kill(*, where: str, call: int, seconds: float, at: int, victim: int, note: str) -> None:
    """In the first attempt of torchrun, kill a rank a little after the given call (from 1) of a function in rank `at`.

    "start" is the start of that rank. Each attempt of each rank writes its process number into `note`.ATTEMPT.RANK, and
    the numbers of the victim's processes that decode images are in `note`.killed.
    """
    attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], int(os.environ["RANK"])
    resnetlab.files.write_text(Path(f"{note}.{attempt}.{rank}"), str(os.getpid()))

    def strike() -> None:
        place = Path(f"{note}.0.{victim}")
        while not place.exists():
            time.sleep(0.002)
        number = int(place.read_text())
        children = [path.read_text() for path in Path(f"/proc/{number}/task").glob("*/children")]
        Path(f"{note}.killed").write_text(" ".join(children))
        os.kill(number, signal.SIGKILL)

    def begin() -> None:
        if seconds:
            threading.Timer(seconds, strike).start()
        else:
            strike()

    if attempt != "0" or rank != at:
        return
    if where == "start":
        begin()
    else:
        before_call(where, call, begin)


def step_takes(seconds: float) -> None:
    """Measure real steps for `--minutes`, and find that one takes so long."""
    real = timing.seconds_per_step

    def measured(*arguments: Any) -> float:
        real(*arguments)
        return seconds

    patch(timing, "seconds_per_step", measured)


def refuse(
    folder: str, code: str, *, first: int = 1, last: int = 10**9, kinds: tuple[str, ...] = (), log: str = ""
) -> None:
    """Fail the calls number `first` to `last` (from 1) that change something in `folder`; `log` lists all there were.

    `kinds` are of open, write, fsync, rename, unlink, mkdir; none given is all of them.
    """
    number = getattr(errno, code)
    seen: list[str] = []

    def count(kind: str, path: Any) -> None:
        if (kinds and kind not in kinds) or not str(path).startswith(folder):
            return
        seen.append(kind)
        if log:
            with real_open(log, "a") as file:
                file.write(f"{kind} {path}\n")
        if first <= len(seen) <= last:
            raise OSError(number, os.strerror(number), str(path))

    def path_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())

    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            count("write", path_of(self.fileno()))
            return super().write(data)

    real_open, real_os_open, real_fsync = io.open, os.open, os.fsync
    real_replace, real_unlink, real_mkdir = os.replace, os.unlink, os.mkdir

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, (str, os.PathLike)) or not set(mode) & set("wax+"):
            return real_open(file, mode, *arguments, **options)
        count("open", file)
        raw = Disk(os.fspath(file), mode.replace("b", "").replace("t", ""))
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8")

    def os_opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            count("open", path)
        return real_os_open(path, flags, *arguments, **options)

    def synced(descriptor: int) -> None:
        count("fsync", path_of(descriptor))
        real_fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        count("rename", target)
        real_replace(source, target)

    def unlinked(path: Any, **options: Any) -> None:
        count("unlink", path)
        real_unlink(path, **options)

    def made(path: Any, *arguments: Any, **options: Any) -> None:
        if not Path(path).is_dir():
            count("mkdir", path)
        real_mkdir(path, *arguments, **options)

    io.open = opened  # what pathlib calls
    for name, function in {
        "open": os_opened,
        "fdopen": lambda descriptor, mode: io.BufferedWriter(Disk(descriptor, mode.replace("b", ""))),
        "fsync": synced,
        "replace": replaced,
        "unlink": unlinked,
        "mkdir": made,
    }.items():
        patch(os, name, function)


def one_of(rank: int, count: int, port: int) -> None:
    """The environment that torchrun gives to one of several processes on this machine."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}


def restarts(count: int) -> None:
    """As torchrun counts them on this machine; another one may count otherwise."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(count)


def other_words(words: list[str]) -> None:
    """Another command than that of the other processes."""
    sys.argv = ["resnetlab", *words]


def on_host(namespace: str, interface: str, address: str, port: int) -> None:
    """On another host than the rest: in a network namespace, with the store of rank 0 at the address."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as file:
        assert libc.setns(file.fileno(), 0x40000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNET
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]


def in_group(check: str, into: str) -> None:
    """Run a function of group_checks.py in all processes instead of a command, store its result, and leave."""
    import group_checks

    with joined("cpu", 60) as processes:
        result = getattr(group_checks, check)(processes)
    torch.save(result, f"{into}.{processes.rank}")
    os._exit(0)


def decoding(processes: int, cache: str | None = None) -> None:
    """Decode images in so many processes, whatever the machine has, and keep them in a folder of this run alone."""
    patch(workers, "usable_cores", lambda: processes)
    if cache is not None:
        Path(cache).mkdir(exist_ok=True)
        patch(decoded, "cache_folder", lambda: Path(cache))


def closed_stdout() -> None:
    """As after `>&-`."""
    sys.stdout = None  # type: ignore[assignment]
    os.close(1)


def file_size_limit(size: int, after: int) -> None:
    """No file may grow beyond `size` bytes once `after` have been flushed to disk."""
    real, calls = os.fsync, []

    def synced(descriptor: int) -> None:
        real(descriptor)
        calls.append(1)
        if len(calls) == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    patch(os, "fsync", synced)


def shell_before_epoch(epoch: int, command: str) -> None:
    """Run a shell command before the validation that ends an epoch (from 1); epochs are scored twice."""
    real, calls = loop.evaluate, []

    def evaluate(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * epoch - 1 and os.system(command):
            os._exit(99)
        return real(*arguments)

    patch(loop, "evaluate", evaluate)


def judged(watch: str, log: str, crash_at: int | None = None, mode: str = "before") -> None:
    """Let ckpt-chaos count the file events in a folder, and crash at one of them."""
    from ckpt_chaos import inject

    inject.arm(watch, crash_at, mode, log, torn_python=True)


def save_often(path: str, times: int, ready: str) -> None:
    """Write one file over and over, and leave."""
    Path(ready).touch()
    for number in range(times):
        weights = torch.full((5_000 + 100 * (number % 7),), float(number))
        resnetlab.files.write_sealed(Path(path), {"w": weights}, {"number": number})
    os._exit(0)


SITUATIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        without_pictures,
        one_of,
        in_group,
        decoding,
        on_host,
        restarts,
        other_words,
        pause,
        kill,
        step_takes,
        refuse,
        closed_stdout,
        file_size_limit,
        shell_before_epoch,
        judged,
        save_often,
    )
}


def child(request: dict[str, Any]) -> None:
    """What a shell would do, and then the program."""
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    stdout = os.open(request["stdout"], os.O_WRONLY) if "stdout" in request else said
    os.dup2(stdout, 1)
    os.dup2(said, 2)
    code = torchrun(request) if "torchrun" in request else run(request["words"], request["situations"])
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(code)  # taking down all that was imported would take longer than the run


def run(words: list[str], situations: dict[str, Any]) -> int:
    """Run a command line in situations, and return its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    sys.argv = ["resnetlab", *words]
    for name, options in situations.items():
        SITUATIONS[name](**options)
    try:
        cli.entry_point()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    raise AssertionError("the command has not left")


def torchrun(request: dict[str, Any]) -> int:
    """Be torchrun, and return its exit code. Its processes are forked, and begin with `process_of_torchrun`."""
    from torch.distributed.run import main as begin

    # A forked process waits for the others at its end. One that has ignored a signal by then waits until it is killed.
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "5"
    command = json.dumps({name: request[name] for name in ("words", "situations")})
    try:
        begin([*request["torchrun"], "--start-method", "fork", "--run-path", __file__, command])
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def import_everything() -> None:
    """What a run imports only when it needs it takes twenty times as long as the run. No backward pass: see above."""
    from scipy import sparse, stats
    from sklearn import metrics

    from resnetlab.cli import console, process, tables

    build.Experiment.of(recipes.quickstart().changed({"model": {"name": "tiny"}, "device": "cpu"}))
    assert all((sparse, stats, metrics, console, process, tables, resume))


def main() -> None:
    torch.set_num_threads(1)
    import_everything()
    if "processes" in sys.argv[1:]:
        importlib.import_module("torch._dynamo")  # DistributedDataParallel does, for 5 seconds
        importlib.import_module("torch.distributed.run")
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        elif request:
            pid = os.fork()
            if pid == 0:
                answers.close()
                try:
                    child(request)
                finally:
                    os._exit(120)  # it has left by itself, unless something went wrong
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def process_of_torchrun(command: str) -> None:
    """Run the command in a process that torchrun has forked, which waits for the others at its end."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)  # a fork has torchrun's own handlers
    code = run(**json.loads(command))
    if code:
        sys.exit(code)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    ARCHITECTURES.update(SMALL)
    if sys.argv[1:] in ([], ["processes"]):
        main()
    else:
        process_of_torchrun(sys.argv[1])
