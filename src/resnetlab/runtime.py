"""Where the code runs: device, precision, memory. Every hardware `if` of the project lives here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from resnetlab.errors import BadInput, unknown
from resnetlab.kernels.accelerate import accelerate
from resnetlab.kernels.library import unavailable_reason

DEVICES = ("auto", "cpu", "cuda", "mps")
Network = TypeVar("Network", bound=nn.Module)
CPUINFO = Path("/proc/cpuinfo")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """A device and what it computes in; `float32` switches autocast and the loss scaler off without a branch."""

    device: torch.device
    precision: torch.dtype = torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Only fp16 needs its loss scaled; a disabled scaler passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def place(self, model: Network, *, training: bool = False) -> Network:
        """Move a network to the device, in the memory layout in which its convolutions are fastest.

        A network for `training` in bfloat16 on the CPU is accelerated, in place; scoring and export get plain networks.
        """
        model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accelerate(model) if training and self.uses_kernels else model

    def hold(self, images: Tensor) -> Tensor:
        """Keep a whole data set on the device if it takes at most half of the free memory, else where it is."""
        if self.device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(self.device)[0] // 2:
            return images.pin_memory()
        return images.to(self.device)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read afterwards tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @property
    def precision_name(self) -> str:
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.precision)

    def describe(self) -> str:
        """Device, threads and precision, for a person."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else processor()
        kernels = f", norms {self.norms}" if self.norms else ""
        return f"{self.device.type} ({name}), {torch.get_num_threads()} threads, {self.precision_name}{kernels}"

    @property
    def uses_kernels(self) -> bool:
        """True where `kernels/` has something to offer: in bfloat16 on the CPU."""
        return self.device.type == "cpu" and self.precision == torch.bfloat16

    @property
    def norms(self) -> str:
        """How norms are computed where there is a choice: in bf16 on the CPU."""
        if not self.uses_kernels:
            return ""
        return f"by torch ({unavailable_reason()})" if unavailable_reason() else "fused with what follows"

    def facts(self) -> dict[str, object]:
        """What decides the bits of a result, besides the code: recorded with every run."""
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if self.device.type == "cuda" else processor(),
            "precision": self.precision_name,
            "norms": self.norms,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }


def start(device: str = "auto", precision: str = "auto", *, deterministic: bool = False) -> Runtime:
    """Choose the device (CUDA, then MPS, then CPU) and the precision (by capability, never by a timing).

    `deterministic` lets torch refuse operations that give other bits each time, for the whole process. Raises BadInput
    for a device that is not there or a precision it cannot compute in.
    """
    keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch's documentation asks for
        torch.use_deterministic_algorithms(True)
    chosen = choose_device(device)
    return Runtime(chosen, choose_precision(precision, chosen))


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
        if name not in PRECISIONS:
            raise unknown("precision", name, ["auto", *PRECISIONS])
        if name == "fp16" and device.type == "cpu":
            raise BadInput("precision 'fp16' is not available on the CPU; choose auto, bf16 or fp32")
        return PRECISIONS[name]
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    if device.type == "cpu" and native_bf16():
        return torch.bfloat16
    return torch.float32  # MPS too: its autocast gains little and its bf16 depends on the macOS version


def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@cache
def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks, and the kernel to back them with large pages.

    A training step frees and takes the same gigabytes again and again. By default each large block goes back to the
    kernel, which must clear its pages when it is taken again: a fifth of a ResNet-18 step on the CPU. Pages of 2 MiB
    instead of 4 KiB save another 2 to 3 % in looking up addresses.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 2**30)
    libc.mallopt(m_trim_threshold, -1)
    libc.mallopt(m_top_pad, 64 * 2**20)
    use_large_pages(libc)


def use_large_pages(libc: ctypes.CDLL) -> None:
    """Stretch the heap, by addresses and not by memory, and say that its pages may be large; else they stay small."""
    block, large_page, madv_hugepage = 2**29, 2**21, 14  # bytes; bytes; linux/mman.h
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    blocks = [libc.malloc(block) for _ in range(min(16, memory // 4 // block))]
    for start in filter(None, blocks):
        first = -(-start // large_page) * large_page
        libc.madvise(first, start + block - first & -large_page, madv_hugepage)
    for start in filter(None, blocks):
        libc.free(start)


def processor() -> str:
    """The CPU by its marketing name, where the system tells it, and by its number where that name has none.

    Virtual machines often say no more than "AMD EPYC", whose generations differ by a factor of two.
    """
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    number = "" if any(map(str.isdigit, name)) else family_and_model(CPUINFO)
    return f"{name}{number}, {os.cpu_count()} cores"


def family_and_model(cpuinfo: Path) -> str:
    """The numbers of the x86 CPU that Linux describes in this file, ready to follow a name; "" where it has none."""
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.partition(":")[::2] for line in cpuinfo.read_text().splitlines())
        found = {key.strip(): value.strip() for key, value in pairs}
        if "cpu family" in found and "model" in found:
            return f" family {int(found['cpu family'])} model {int(found['model'])}"
    return ""
