"""Device, precision and memory format of a network: all decisions that depend on the hardware."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from resnetlab import IMPORTED_IN
from resnetlab.distributed import ALONE, Processes
from resnetlab.errors import BadInput, unknown
from resnetlab.kernels.accelerate import accelerate
from resnetlab.kernels.library import unavailable_reason

CPU = torch.device("cpu")
DEVICES = ("auto", "cpu", "cuda", "mps")
Network = TypeVar("Network", bound=nn.Module)
CPUINFO = Path("/proc/cpuinfo")
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CUBLAS_WORKSPACE = ":4096:8"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """A device, a precision and the processes that train together.

    In float32, autocast and the loss scaler have no effect.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    deterministic: bool = False
    processes: Processes = ALONE

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the precision of the runtime, also where the caller has an autocast of its own."""
        try:
            with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                yield
        finally:
            torch.clear_autocast_cache()  # inside of another autocast it would keep the weights of the first step

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler, which is enabled for fp16 only; a disabled one changes nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def place(self, model: Network, *, training: bool = False) -> Network:
        """Move a network to the device, in the memory layout in which its convolutions are fastest.

        A network for `training` in bfloat16 on the CPU is accelerated, in place; scoring and export get plain networks.
        """
        model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accelerate(model) if training and self.uses_kernels else model

    @contextlib.contextmanager
    def deterministic_algorithms(self) -> Iterator[None]:
        """If `deterministic` is set, let torch use only operations that give the same bits every time.

        The setting belongs to the whole process, so it is only changed during a step or an evaluation, and restored.
        """
        if not self.deterministic:
            yield
            return
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        variable = "CUBLAS_WORKSPACE_CONFIG"  # set as torch's documentation asks for
        is_ours = self.device.type == "cuda" and os.environ.setdefault(variable, CUBLAS_WORKSPACE) is CUBLAS_WORKSPACE
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            if is_ours:
                os.environ.pop(variable, None)

    def hold(self, images: Tensor) -> Tensor:
        """Move a whole data set to the device if it takes at most half of the free memory; else keep it where it is."""
        if self.device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(self.device)[0] // 2:
            return images.pin_memory()
        return images.to(self.device)

    def synchronize(self) -> None:
        """Wait until the device has finished, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @property
    def precision_name(self) -> str:
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.precision)

    def describe(self) -> str:
        """Return device, threads, precision and kernels in one line, e.g. "cpu (…), 4 threads, fp32"."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else processor()
        quota = cpu_quota()
        limit = f" (this container may use {quota:.3g} CPUs)" if quota and quota < (os.cpu_count() or 1) else ""
        kernels = f", norms {self.norms}" if self.norms else ""
        processes = "" if self.processes.is_alone else f"{self.processes.world_size} processes, each "
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' * (count != 1)}{limit}"
        return f"{processes}{self.device.type} ({name}), {threads}, {self.precision_name}{kernels}"

    @property
    def uses_kernels(self) -> bool:
        """True in bfloat16 on the CPU, for which `kernels/` has faster implementations."""
        return self.device.type == "cpu" and self.precision == torch.bfloat16

    @property
    def norms(self) -> str:
        """The implementation of batch norm in bf16 on the CPU, where there are two; else an empty string."""
        if not self.uses_kernels:
            return ""
        return f"by torch ({unavailable_reason()})" if unavailable_reason() else "fused with what follows"

    def facts(self) -> dict[str, object]:
        """Return hardware and software that can affect the bits of a result, recorded with every run."""
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if self.device.type == "cuda" else processor(),
            "precision": self.precision_name,
            "norms": self.norms,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": self.processes.world_size,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            **bf16_instructions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }


@contextlib.contextmanager
def one_thread_after_fork(device: torch.device = CPU) -> Iterator[None]:
    """Compute with one thread on the CPU if this process was forked after resnetlab was imported. Also a decorator.

    The other threads of OpenMP do not exist in the child, and an operation that several threads share would wait for
    them for ever. Raises BadInput on CUDA, which does not work in a forked process.
    """
    if os.getpid() == IMPORTED_IN:
        yield
        return
    if device.type == "cuda":
        raise BadInput(
            "CUDA does not work in a forked process; start it with multiprocessing's 'spawn' method, or use the CPU"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def isolated(device: torch.device = CPU, *, gradients: bool = False) -> Iterator[None]:
    """Compute as in a fresh process, in whatever mode of torch the caller is. Also a decorator.

    An autocast of the caller would change the precision, a default device would take tensors that belong on the CPU,
    and NumPy's errors could be exceptions. With `gradients`, they can be computed also under the caller's `no_grad` or
    `inference_mode`. Includes `one_thread_after_fork`, with its error.
    """
    with contextlib.ExitStack() as modes:
        modes.enter_context(one_thread_after_fork(device))
        modes.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))  # NumPy's defaults
        if gradients:
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.enable_grad())
        for kind in {CPU.type, device.type}:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != CPU:
            modes.enter_context(CPU)
        yield


def start(
    device: str | torch.device = "auto",
    precision: str = "auto",
    *,
    deterministic: bool = False,
    processes: Processes = ALONE,
) -> Runtime:
    """Choose the device (CUDA, then MPS, then CPU) and the precision (by capability, never by a timing).

    With `deterministic`, training and its evaluation use only operations that give the same bits every time. No
    setting of the process is changed here.

    Raises BadInput if the device is not available or does not support the precision.

    >>> start("cpu", "fp32").precision
    torch.float32
    """
    chosen = choose_device(str(device))
    if chosen.type == "cuda" and not processes.is_alone:
        chosen = torch.device("cuda", processes.local_rank)
    return Runtime(chosen, choose_precision(precision, chosen), deterministic, processes)


def choose_device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise unknown("device", name, DEVICES)
    if not available[name]:
        there = ", ".join(device for device, there in available.items() if there)
        raise BadInput(f"device {name!r} is not available on this machine; available: {there} (or auto)")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        if name not in tuple(PRECISIONS):
            raise unknown("precision", name, ["auto", *PRECISIONS])
        if name == "fp16" and device.type == "cpu":
            raise BadInput("precision 'fp16' is not available on the CPU; choose auto, bf16 or fp32")
        return PRECISIONS[name]
    return next(iter(reduced_precisions(device).values()), torch.float32)


def reduced_precisions(device: torch.device) -> dict[str, torch.dtype]:
    """Return the precisions besides fp32 that a device multiplies in hardware, by name, the preferred one first.

    MPS has none: its autocast gains little, and its bf16 depends on the macOS version.
    """
    is_cuda = device.type == "cuda"
    supported = {
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False)
        if is_cuda
        else device.type == "cpu" and native_bf16(),
        "fp16": is_cuda and torch.cuda.get_device_capability(device) >= (7, 0),
    }
    return {name: PRECISIONS[name] for name, is_supported in supported.items() if is_supported}


def native_bf16() -> bool:
    """Return True if this CPU multiplies bfloat16 in hardware; emulated bfloat16 is slower than float32."""
    return bf16_instructions()["bf16"]


def bf16_instructions() -> dict[str, bool]:
    """Return the bfloat16 instructions of this CPU: `bf16` is True for any of them, `amx` for those on matrices."""
    able = torch.cpu.get_capabilities()
    has_amx = bool(able.get("amx_bf16", False))
    return {"bf16": has_amx or bool(able.get("avx512_bf16", False)), "amx": has_amx}


def cpu_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Return the number of CPUs that this process's container may use on average, or None if it is not limited.

    The smallest quota of the control groups around the process counts (cgroup v1 and v2). `root` is the folder where
    they are mounted, `membership` the file that lists the groups of this process.
    """
    quotas = []
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounts = [root, root / "unified"] if not controllers else [root / controllers, root / "cpu"]
            inside = Path(path.lstrip("/"))
            groups = [inside, *inside.parents] if ".." not in inside.parts else [Path()]
            quotas += [quota_of(mount / group) for mount in mounts for group in groups]
    return min(filter(None, quotas), default=None)


def quota_of(group: Path) -> float | None:
    """Return the quota of one control group in CPUs, or None if it has none.

    Version 2 writes "quota period" (or "max period") into cpu.max, version 1 writes the two into a file each, and -1
    where there is no quota.
    """
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((group / name).read_text().strip() for name in names).split()
            if int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
    return None


def processor() -> str:
    """Return the CPU's marketing name and number of cores; family and model too if the name contains no number.

    Virtual machines often report just "AMD EPYC", whose generations differ by a factor of two in speed.
    """
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    number = "" if any(map(str.isdigit, name)) else family_and_model(CPUINFO)
    return f"{name}{number}, {os.cpu_count()} cores"


def family_and_model(cpuinfo: Path) -> str:
    """Return " family F model M" of the x86 CPU described in `cpuinfo`, or "" if the file does not contain them."""
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.partition(":")[::2] for line in cpuinfo.read_text().splitlines())
        found = {key.strip(): value.strip() for key, value in pairs}
        if "cpu family" in found and "model" in found:
            return f" family {int(found['cpu family'])} model {int(found['model'])}"
    return ""
