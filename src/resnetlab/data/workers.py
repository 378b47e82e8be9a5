"""Processes that decode images. They import neither torch nor the program that they are started by.

A process is a Python that reads requests from its standard input and writes replies to its standard output. When its
parent ends, however it ends, the input ends, and the process with it. Signals that ask a run to stop are for the
parent: a terminal, Slurm and systemd send them to all processes of a group, and the parent still needs its images.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from resnetlab.data.reading import Chunk, Decoder, usable_cores
from resnetlab.errors import ProcessLost

MOST_WORKERS = 16
# The memory of an image is kept for the next one: the system clears each page that it gives, for a sixth of the time of
# decoding a photo. The first three are of glibc, the last one of Pillow, in blocks of 16 MB.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**24),
    "PILLOW_BLOCKS_MAX": "4",
}
CHUNK_BYTES = 4 * 2**20  # of the images that a process decodes at a time
_IGNORED = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
_PROGRAM = (
    f"import signal\nfor name in {_IGNORED}: signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
    "import pickle, sys; sys.path = pickle.load(sys.stdin.buffer); import resnetlab.data.workers as w; w.serve()"
)


class Workers:
    """Processes that are started when they are needed, each with a thread that talks to it."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, min(MOST_WORKERS, usable_cores()))
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="resnetlab-decode")
        self._own = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._finalizer = weakref.finalize(self, _stop, self._pool, self._processes)

    def submit(self, decoder: Decoder, names: Sequence[str]) -> Future[Chunk]:
        """Decode files in the next free process."""
        return self._pool.submit(self._ask, decoder, names)

    def chunks(self, decoder: Decoder, names: Sequence[str]) -> Iterator[tuple[Sequence[str], Chunk]]:
        """Decode files in all processes; yield them in their order, some at a time. Few are held at a time."""
        preprocessing = decoder.preprocessing
        size = max(8, min(256, CHUNK_BYTES // (preprocessing.resize_to**2 * preprocessing.channels)))
        waiting: deque[tuple[Sequence[str], Future[Chunk]]] = deque()
        for first in range(0, len(names), size):
            part = names[first : first + size]
            waiting.append((part, self.submit(decoder, part)))
            if len(waiting) > 2 * self.count:
                names_done, future = waiting.popleft()
                yield names_done, future.result()
        while waiting:
            names_done, future = waiting.popleft()
            yield names_done, future.result()

    def close(self) -> None:
        """End the processes; requests that have not begun are cancelled."""
        self._finalizer()

    def _ask(self, decoder: Decoder, names: Sequence[str]) -> Chunk:
        process = getattr(self._own, "process", None) or self._start()
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        try:
            pickle.dump((decoder, list(names)), process.stdin, protocol=5)
            process.stdin.flush()
            reply = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            process.kill()
            raise ProcessLost(
                f"a process that decodes images ended (exit status {process.wait()}) on one of {len(names)} images "
                f"from {names[0]!r} on; the system ends processes that need too much memory"
            ) from error
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, Chunk)
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _PROGRAM]
        surroundings = KEPT_MEMORY | os.environ  # the user's own settings come first
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=surroundings)
        self._processes.append(process)
        self._own.process = process
        assert process.stdin is not None
        pickle.dump(sys.path, process.stdin)
        return process


def _stop(pool: ThreadPoolExecutor, processes: list[subprocess.Popen[bytes]]) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()  # it holds nothing that could be lost
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # what was not written yet has no reader any more
        return


def serve() -> None:
    """Answer requests until the input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get into a reply
    while True:
        try:
            decoder, names = pickle.load(requests)
        except EOFError:
            return
        reply: Chunk | Exception
        try:
            reply = Chunk.read(decoder, names)
        except Exception as error:  # the parent raises it
            reply = error
        try:
            pickle.dump(reply, replies, protocol=5)
            replies.flush()
        except BrokenPipeError:  # the parent has ended
            os._exit(0)
