"""A measured process: its memory counts once, its failure is a sentence, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.contenders import Contender, run
from benchmarks.peers.common import cpu_seconds
from benchmarks.rounds import Failed
from benchmarks.watching import Memory, proportional, tree

MB = 10**6
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")

# A parent with 64 MB that three children see, and one child with 32 MB of its own.
FAMILY = """
import os, sys, time
shared = b"x" * 64_000_000
for number in range(3):
    if not os.fork():
        own = b"y" * 32_000_000 if number == 0 else b""
        time.sleep(60)
        os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


@linux
def test_what_processes_share_counts_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(list(tree(process.pid))) == 4
        memory, until = Memory(process.pid), time.monotonic() + 20
        while (memory.peak() or 0) < 96 * MB and time.monotonic() < until:  # the child fills its own part
            memory.due = 0.0
            memory.measure()
        peak = memory.peak()
        assert peak is not None
        assert 96 * MB < peak < 150 * MB  # four times 64 would be 256
        assert (proportional(process.pid) or 0) < 60 * MB  # its part of what it shares with three
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@linux
def test_the_time_of_processes_counts_while_they_run_and_after() -> None:
    began = cpu_seconds()
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = subprocess.Popen([sys.executable, "-c", f"{work}print(flush=True)\ntime.sleep(60)"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        running = cpu_seconds()
    finally:
        child.kill()
        child.communicate()
    ended = cpu_seconds()
    assert began is not None
    assert running is not None
    assert ended is not None
    assert 0.25 <= running - began <= ended - began + 0.02 < 5


def test_memory_is_measured_rarely_when_it_is_expensive() -> None:
    memory = Memory(1, due=time.perf_counter() + 60)
    memory.measure()
    assert memory.seen == []
    assert memory.peak() is None


def test_a_failure_is_the_last_line_of_what_was_said() -> None:
    with pytest.raises(Failed, match=r"^ValueError: no such option$"):
        run([sys.executable, "-c", "raise ValueError('no such option')"])
    with pytest.raises(Failed, match=r"^exit code 3$"):
        run([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(Failed, match="longer than 0 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.3)


def test_a_process_without_a_result_has_failed() -> None:
    with pytest.raises(Failed, match="unknown task 'nothing'"):
        Contender("ours", {"task": "nothing"})()


@linux
def test_nothing_stays_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        f"import subprocess, sys, time, os; subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"while not os.path.exists({str(pid)!r}) or not open({str(pid)!r}).read(): time.sleep(0.01)"
    )
    run([sys.executable, "-c", parent])
    status = Path(f"/proc/{pid.read_text()}/status")
    until = time.monotonic() + 10
    while status.exists() and "zombie" not in status.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert not status.exists() or "zombie" in status.read_text()
