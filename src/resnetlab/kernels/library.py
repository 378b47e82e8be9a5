"""Compile the C kernels once a machine, and load them; without a compiler everything works, only slower.

The library lies in the user's cache folder under a name that says what it was made from (source, compiler, processor,
torch's OpenMP), so that a change of any of them makes another. Compiling takes about two seconds, once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from resnetlab.files import cache_folder

HERE = Path(__file__).parent / "csrc"
SOURCES = ("norms.c", "pools.c", "winograd.c", "blocks.c", "tiles.c", "stems.c", "vectors.h")
# No -ffast-math: NaN must stay NaN. Contraction into fused multiply-adds is the compiler's default here.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had (`why_not` says why)."""
    return _library()[0]


def why_not() -> str:
    """Why there are no compiled kernels; empty where there are."""
    return _library()[1]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("RESNETLAB_KERNELS", "").lower() in ("0", "off", "no"):
        return None, "switched off by RESNETLAB_KERNELS"
    if not sys.platform.startswith("linux"):
        return None, "only used on Linux"
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None, "this torch brings no GNU OpenMP"  # a second OpenMP would fight over the cores
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler found"
    try:
        return load(compiler), ""
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} could not make them ({type(error).__name__})"


def load(compiler: str) -> ctypes.CDLL:
    """The library from the cache, or from the compiler. Raises OSError or SubprocessError."""
    version = run([compiler, "--version"])
    sources = [(HERE / name).read_bytes() for name in SOURCES]
    made_from = (*sources, version, *map(str.encode, (*FLAGS, processor(), torch.__version__)))
    name = f"kernels-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:20]}.so"
    kept = cache_folder() / name
    if not kept.is_file():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            build(compiler, kept)
        except OSError:  # a read-only home, a full disk: make it for this process alone
            with tempfile.TemporaryDirectory() as folder:
                build(compiler, Path(folder, name))
                return declared(ctypes.CDLL(str(Path(folder, name))))
    return declared(ctypes.CDLL(str(kept)))


def build(compiler: str, to: Path) -> None:
    """Compile to a name of this process's own, then rename: two processes at once must not meet half a file."""
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        objects = []
        for source in (name for name in SOURCES if name.endswith(".c")):
            objects.append(f"{folder}/{source}.o")
            run([compiler, *FLAGS, "-c", str(HERE / source), "-o", objects[-1]])
        # Linked without -fopenmp: its symbols are then found in the OpenMP that torch has loaded, with its threads.
        run([compiler, "-shared", *objects, "-o", f"{folder}/made.so", "-lm"])
        Path(folder, "made.so").replace(to)


def run(command: list[str]) -> bytes:
    """What a command prints. Raises SubprocessError."""
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    pointer, count, number, yes = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    kernels.norm_forward.argtypes = [*[pointer] * 3, count, count, *[pointer] * 4, number, number, yes, pointer]
    kernels.norm_backward.argtypes = [*[pointer] * 4, count, count, pointer, yes, *[pointer] * 4]
    kernels.pool_forward.argtypes = [pointer, pointer, *[count] * 4]
    kernels.pool_backward.argtypes = [*[pointer] * 3, *[count] * 4]
    kernels.winograd_input.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_spread.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_kernels_back.argtypes = [pointer, pointer, count, count]
    kernels.stem_convolve.argtypes = [*[pointer] * 3, *[count] * 5]
    if kernels.blocks_there():
        kernels.blocks_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.blocks_convolve.argtypes = [*[pointer] * 3, *[count] * 4]
        kernels.blocks_weights.argtypes = [*[pointer] * 3, *[count] * 4]
    if kernels.tiles_there():
        kernels.tiles_packed.argtypes, kernels.tiles_packed.restype = [count, count], count
        kernels.tiles_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.tiles_convolve.argtypes = [*[pointer] * 5, *[count] * 4]
        kernels.tiles_weights.argtypes = [*[pointer] * 4, *[count] * 5]
    return kernels


def processor() -> str:
    """What -march=native depends on: a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
