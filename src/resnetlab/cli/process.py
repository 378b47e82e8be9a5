"""Settings of the whole process, changed only by the command line: allocator, threads, messages of decoders."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from functools import cache

import torch

from resnetlab.data.decode import silence_decoders
from resnetlab.runtime import cpu_quota


def tune() -> None:
    """Prepare the process for computing.

    The allocator keeps freed memory, threads fit into the container's quota, and decoders print nothing about bad
    images, which the commands report themselves. MLflow sends no usage statistics, unless the user allows it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    keep_freed_memory()
    fit_threads_to_quota()
    silence_decoders()


def fit_threads_to_quota() -> None:
    """Use no more threads than the container may use CPUs, unless OMP_NUM_THREADS is set.

    Additional threads would only wait for threads that the operating system has paused.
    """
    quota = cpu_quota()
    if quota is not None and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, min(int(quota), torch.get_num_threads())))


def silence_optuna() -> None:
    """Silence Optuna's messages, which repeat ours, and its notes about experimental features."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed blocks, and let the kernel back them with large pages. Do nothing without glibc.

    A training step frees and allocates the same gigabytes again and again. By default each large block is returned to
    the kernel, which must clear its pages before it is allocated again: a fifth of a ResNet-18 step on the CPU. Pages
    of 2 MiB instead of 4 KiB save another 2 to 3 % in address translation.
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
    """Extend the heap's range of addresses (not its memory), and allow large pages in it."""
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
