"""The processes that train one network together, as `torchrun` starts them, and what they exchange.

A process alone is rank 0 of 1; for it, every operation here does nothing or calls the given function.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resnetlab.errors import BadInput, LabError, ProcessLost, printable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
VARIABLES = (*RANKS, "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = 300.0  # seconds without an answer after which a process counts as lost
GRACE = 5.0  # seconds in which the other processes report after a failure; those that do not are lost
TIMED_OUT = "Timed out"  # in gloo's message; otherwise a connection was closed


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them. All of them must call each method, in the same order.

    `rank` is the number of this process, from 0, `local_rank` its number on its machine, and `world_size` the number of
    processes. Rank 0 is the main process, which writes and prints.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    store: Store | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    def share(self, count: int) -> range:
        """Return this process's part of the numbers 0 to count - 1: each number is in the part of one process.

        The parts are consecutive, in the order of the ranks, and their lengths differ by 1 at most.

        >>> [list(Processes(rank, 3).share(7)) for rank in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def reduce(self, totals: Sequence[Tensor], means: Sequence[Tensor] = ()) -> None:
        """Replace each of `totals` by its sum over the processes, and each of `means` by its mean, in place.

        All processes get the same bits. The tensors are float32, on the device of the network.
        """
        if self.is_alone:
            return
        import torch
        import torch.distributed as dist

        tensors = (*totals, *means)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for number, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
            tensor.copy_((part if number < len(totals) else part / self.world_size).view_as(tensor))

    def broadcast(self, value: T) -> T:
        """Return the main process's value."""
        return value if self.is_alone else self._sent_by(0, value)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in the order of their ranks; an empty list except in the main process."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, found)
        return found or []

    def from_main(self, function: Callable[[], T]) -> T:
        """Call a function in the main process, and return its result, or raise its error, in all of them."""
        results: list[T] = []
        with self.together():
            if self.is_main:
                results.append(function())
        return self.broadcast(results)[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """If the block raises an error in one process, raise it in all of them at the end of the block.

        Of several errors, that of the lowest rank is raised. The block must not call another method of this class.
        """
        if self.is_alone:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        rank = self._lowest_rank(is_one=error is not None)
        if rank is None:
            return
        if rank == self.rank:
            assert error is not None
            self._sent_by(rank, sendable(error, rank))
            raise error
        raise self._sent_by(rank, Exception()) from None

    def require_same(self, facts: Mapping[str, str]) -> None:
        """Raise BadInput if one of `facts` (a name and a text) differs between the processes."""
        of_main = self.broadcast(dict(facts))
        with self.together():
            differing = [name for name, text in facts.items() if of_main[name] != text]
            if differing:
                raise BadInput(
                    f"its {' and '.join(differing)} differ from those of process 0; start all processes with the same "
                    "command, on the same data"
                )

    def close(self) -> None:
        """End the exchange. Until then the main process must not leave the others."""
        if self.is_alone:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def _lowest_rank(self, *, is_one: bool) -> int | None:
        """Return the lowest rank of the processes that call this with `is_one`; None if there is none."""
        import torch
        import torch.distributed as dist

        flag = torch.tensor(self.world_size - self.rank if is_one else 0)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        found = int(flag)
        return self.world_size - found if found else None

    def _sent_by(self, rank: int, value: T) -> T:
        import torch.distributed as dist

        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=rank)
        found: T = values[0]
        return found


ALONE = Processes()


def sendable(error: Exception, rank: int) -> Exception:
    """Return an error as the other processes raise it: with the rank, and of a class that can be sent."""
    if isinstance(error, LabError):
        return type(error)(f"process {rank}: {error}")
    if type(error).__module__.startswith("resnetlab."):
        return error
    return RuntimeError(f"process {rank}: {type(error).__name__}: {error}")


def from_environment(environment: Mapping[str, str] = os.environ) -> Processes:
    """Return rank and number of processes from the variables that `torchrun` sets; without them, a process alone.

    Raises BadInput if only some of the variables are set, or if they are impossible.

    >>> from_environment({})
    Processes(rank=0, world_size=1, local_rank=0)
    """
    if not any(name in environment for name in RANKS):
        return ALONE
    missing = [name for name in VARIABLES if name not in environment]
    if missing:
        there = [name for name in RANKS if name in environment]
        raise BadInput(
            f"{', '.join(there)} of torchrun's environment {'is' if len(there) == 1 else 'are'} set, but "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not; start the command with torchrun, or "
            f"unset {', '.join(there)}"
        )
    numbers = []
    for name in RANKS:
        if not environment[name].isdecimal():
            raise BadInput(f"{name} is {printable(environment[name])!r}, but must be a whole number; use torchrun")
        numbers.append(int(environment[name]))
    rank, local_rank, world_size = numbers
    if not 0 <= local_rank <= rank < world_size:
        raise BadInput(
            f"RANK is {rank}, LOCAL_RANK {local_rank} and WORLD_SIZE {world_size}, but ranks are numbered from 0 to "
            "WORLD_SIZE - 1; start the command with torchrun"
        )
    return Processes(rank, world_size, local_rank)


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes that torchrun has started on this machine, which share its cores and its memory.

    1 without torchrun, and for an environment that cannot be right.

    >>> processes_here({}), processes_here({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"})
    (1, 4)
    """
    count = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if {*RANKS} <= environment.keys() and count.isdecimal() else 1


def require_one_process(what: str) -> None:
    """Raise BadInput for something that several processes would do several times, if there are several."""
    count = from_environment().world_size
    if count > 1:
        raise BadInput(
            f"{what} is for one process, but WORLD_SIZE is {count}: only `resnetlab train` and `resnetlab resume` use "
            "several, for one network; start it without torchrun, or unset RANK, LOCAL_RANK and WORLD_SIZE"
        )


def is_main_process() -> bool:
    """Return True unless torchrun's environment says that this process has another rank than 0."""
    return os.environ.get("RANK", "0") == "0" or not {*RANKS} <= os.environ.keys()


def is_told_by_another_process(error: LabError) -> bool:
    """Return True for an error whose message another process prints.

    That is the main process for an error that was raised in all of them; before they are connected, each machine
    has an error of its own, which its first process prints.
    """
    is_first = is_main_process() or os.environ["LOCAL_RANK"] == "0"
    return error.is_told or not (is_first or isinstance(error, ProcessLost))


@contextlib.contextmanager
def joined(device_type: str, timeout: float | None = None) -> Iterator[Processes]:
    """Connect the processes that `torchrun` has started, and yield them; alone, there is nothing to connect.

    `timeout` is the time in seconds after which a process that does not answer counts as lost (default: 300). The CPU
    exchanges by gloo, CUDA by NCCL.

    Raises BadInput if the environment or the device does not allow it, and ProcessLost if a process no longer answers.
    """
    timeout = TIMEOUT if timeout is None else timeout
    if not 0 < timeout < 10**6:
        raise BadInput(f"the time-out of the processes is {timeout:g} seconds, but must be above 0 and below 1,000,000")
    processes = from_environment()
    if processes.is_alone:
        yield processes
        return
    require_device(device_type, processes)
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=timeout)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=limit))
        store = meet(store, rank, world_size, timeout)
        backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    except (RuntimeError, TimeoutError) as error:  # also the errors of torch.distributed
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        who = f": {error}" if isinstance(error, TimeoutError) else ""
        raise ProcessLost(
            f"process {processes.rank} of {processes.world_size} could not connect to the others at "
            f"{printable(where)} within {timeout:g} s{who}; check that all machines run the same command and can "
            "reach this address"
        ) from error
    processes = replace(processes, store=store)
    try:
        yield processes
    except LabError as error:
        error.is_told = not processes.is_main  # what is raised in one process is raised in all of them: `together`
        raise
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        raise_lost(processes, timeout, error)
    finally:
        processes.close()


def meet(store: Store, rank: int, world_size: int, timeout: float) -> Store:
    """Return a part of the store that belongs to the processes that are here now, when all have come.

    torchrun's store outlives a restart, with everything that killed processes have left in it. The number of restarts
    does not tell old from new: each machine counts its own. So each process draws a number, the main process lists the
    numbers, and those that find their own in the list confirm it; a list that all have confirmed has no old number.

    `timeout` is in seconds. Raises TimeoutError with the ranks of the processes that do not come.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    own, listed, pause = secrets.token_hex(8), "", 0.01
    places, confirmed = ([f"{name}/{one}" for one in range(world_size)] for name in ("here", "process"))
    store.set(places[rank], own)
    end = time.monotonic() + timeout
    while True:
        if rank == 0 and store.check(places):
            found = " ".join(store.get(place).decode() for place in places)
            if found != listed:
                store.set("list", found)
        listed = store.get("list").decode() if store.check(["list"]) else ""
        numbers = listed.split()
        part: Store | None = None
        if len(numbers) == world_size and numbers[rank] == own:
            part = PrefixStore(f"group/{hashlib.sha256(listed.encode()).hexdigest()}", store)
            part.set(confirmed[rank], f"{os.getpid()} {machine()}")
            if rank == 0 and part.check(confirmed):
                part.set("complete", "")
            if part.check(["complete"]):
                return part
        if time.monotonic() > end:
            raise TimeoutError(f"process {' and '.join(map(str, absent(store, places, part, confirmed)))} did not come")
        time.sleep(pause)  # and no wait in torch, which a signal does not end
        pause = min(1.5 * pause, 0.25)


def absent(store: Store, places: Sequence[str], part: Store | None, confirmed: Sequence[str]) -> list[int]:
    """Return the ranks without a number in `places`, or else those that have not confirmed the list."""
    missing = [rank for rank, place in enumerate(places) if not store.check([place])]
    if part is not None and not missing:
        missing = [rank for rank, place in enumerate(confirmed) if not part.check([place])]
    return missing or [0]  # the main process has not listed this one


def require_device(device_type: str, processes: Processes) -> None:
    """Raise BadInput if the device cannot train with several processes, or if this process has no GPU of its own."""
    if device_type == "mps":
        raise BadInput("several processes train on CUDA or on the CPU; add `device='cpu'`, or start one process")
    if device_type == "cuda":
        import torch

        count = torch.cuda.device_count()
        if processes.local_rank >= count:
            raise BadInput(
                f"process {processes.rank} is number {processes.local_rank + 1} on its machine, which has {count} "
                f"GPUs; start at most {count} processes there (torchrun --nproc-per-node {count})"
            )
        torch.cuda.set_device(processes.local_rank)


def is_connection_error(error: RuntimeError) -> bool:
    """Return True for an error of an exchange with other processes: gloo raises plain RuntimeErrors."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def raise_lost(processes: Processes, timeout: float, error: RuntimeError) -> None:
    """Raise ProcessLost with the ranks that do not answer. One process has the sentence to print."""
    waits = processes.is_main or TIMED_OUT in str(error)
    found = [Missing([] if processes.is_main else [0])]  # the store is gone, with process 0 or its machine

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            found.append(missing_ranks(processes, waits=waits))

    # In a thread, because asking a store on the other side of a broken network never ends.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * GRACE)
    missing = found[-1]
    ranks = " and ".join(map(str, missing.ranks))
    who = f"process {ranks} of {processes.world_size}" if ranks else "another process"
    how = (
        "has ended: it was killed or crashed"
        if missing.has_ended
        else f"does not answer (time-out: {timeout:g} s): it hangs, was killed or crashed, or the network failed"
    )
    lost = ProcessLost(
        f"{who} {how}; the training ends. Its own output has the reason; to continue from the last checkpoint, start "
        "the same command again with --out FOLDER and --resume auto (torchrun's --max-restarts does so by itself)"
    )
    lost.is_told = not missing.is_to_tell
    raise lost from None


class Missing(NamedTuple):
    """Ranks that do not answer."""

    ranks: Sequence[int]
    has_ended: bool = False  # known, because they were on this machine
    is_to_tell: bool = True  # by this process


def missing_ranks(processes: Processes, *, waits: bool) -> Missing:
    """Return the ranks that do not answer, and whether this process has to print the error.

    Each process reports in the store that it is there, and leaves. That closes its connections, so that the next one
    notices. The main process waits for the reports; after a time-out all do, because they notice at the same time.
    """
    store = processes.store
    assert store is not None
    store.set(f"alive/{processes.rank}", "")
    end = time.monotonic() + (GRACE if waits else 0)
    while True:
        others = [rank for rank in range(processes.world_size) if rank != processes.rank]
        missing = [rank for rank in others if not store.check([f"alive/{rank}"])]
        places = {rank: f"process/{rank}" for rank in missing}
        ended = [rank for rank, key in places.items() if store.check([key]) and not is_running(store.get(key))]
        if not missing or ended or time.monotonic() >= end:
            break
        time.sleep(0.05)
    # The main process tells, unless it is the one that is lost.
    is_to_tell = (waits or 0 in ended) and store.add("told", 1) == 1
    return Missing(ended or missing, bool(ended), is_to_tell)


def machine() -> str:
    """Return a name for the processes that this one can see; empty except on Linux.

    Host names may be the same on several machines, and containers of one machine do not see each other's processes.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def is_running(place: bytes) -> bool:
    """Return False if a process, given as its number and `machine`, can be seen to have ended."""
    number, where = place.decode().split(" ", 1)
    if not where or where != machine():
        return True
    try:
        state = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # killed, and its parent has not asked for its exit code yet
