"""Compile the C kernels once per machine and load them; without a compiler, torch's implementation is used.

The library is kept in the cache folder. Its name is a digest of its sources, compiler, flags, processor and torch
version, so a change of any of them compiles a new one. The file ends in a digest of its content: a truncated or
overwritten file is compiled again, because loading it could crash the process. Compiling takes about two seconds.
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
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from resnetlab.files import cache_folder, replacing

HERE = Path(__file__).parent / "csrc"
SOURCES = ("norms.c", "pools.c", "winograd.c", "blocks.c", "floats.c", "tiles.c", "stems.c", "images.c", "vectors.h")
# No -ffast-math: NaN must stay NaN. Contraction into fused multiply-adds is the compiler's default here.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
DIGEST_BYTES = hashlib.sha256().digest_size


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None if they are unavailable (see `unavailable_reason`)."""
    return _library()[0]


def unavailable_reason() -> str:
    """Return the reason why there are no compiled kernels; an empty string if there are."""
    return _library()[1]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("RESNETLAB_KERNELS", "").lower() in ("0", "off", "no"):
        return None, "switched off by RESNETLAB_KERNELS"
    if not sys.platform.startswith("linux"):
        return None, "only used on Linux"
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None, "this torch brings no GNU OpenMP"  # a second OpenMP would compete for the cores
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler found"
    try:
        return load(compiler), ""
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        return None, f"they could not be compiled and loaded with {compiler} ({type(error).__name__})"


def load(compiler: str) -> ctypes.CDLL:
    """Load the library from the cache; compile it first if it is missing or damaged there.

    Raises OSError or SubprocessError if it cannot be compiled or loaded, AttributeError if a function is missing in it.
    """
    version = run([compiler, "--version"])
    sources = [(HERE / name).read_bytes() for name in SOURCES]
    made_from = (*sources, version, *map(str.encode, (*FLAGS, processor(), torch.__version__)))
    name = f"kernels-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:20]}.so"
    with suppress(OSError):  # no folder to write to, a full disk, a mount from which no code may be loaded
        file = cache_folder() / name
        if not is_sound(file):
            content = compiled(compiler)
            with replacing(file, len(content)) as writer:  # whole or not at all: two processes may do this at once
                writer.write(content)
        return declared(ctypes.CDLL(str(file)))
    with tempfile.TemporaryDirectory() as folder:  # for this process alone
        file = Path(folder, name)
        file.write_bytes(compiled(compiler))
        return declared(ctypes.CDLL(str(file)))


def is_sound(file: Path) -> bool:
    """Return True for a regular file that ends in the digest of everything before it."""
    if not file.is_file():  # reading a pipe would wait for ever
        return False
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def compiled(compiler: str) -> bytes:
    """Return the compiled library, followed by its digest (the loader ignores what follows an ELF file's sections)."""
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source in (name for name in SOURCES if name.endswith(".c")):
            objects.append(f"{folder}/{source}.o")
            run([compiler, *FLAGS, "-c", str(HERE / source), "-o", objects[-1]])
        # Linked without -fopenmp: its symbols are then found in the OpenMP that torch has loaded, with its threads.
        run([compiler, "-shared", *objects, "-o", f"{folder}/kernels.so", "-lm"])
        content = Path(folder, "kernels.so").read_bytes()
    return content + hashlib.sha256(content).digest()


def run(command: list[str]) -> bytes:
    """Run a command and return its standard output. Raises SubprocessError."""
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the C functions' argument types; AttributeError if one of the functions is missing."""
    pointer, count, number, yes = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    kernels.norm_forward.argtypes = [*[pointer] * 3, count, count, *[pointer] * 4, number, number, yes, pointer]
    kernels.norm_backward.argtypes = [*[pointer] * 4, count, count, pointer, yes, *[pointer] * 4]
    kernels.pool_forward.argtypes = [pointer, pointer, *[count] * 4]
    kernels.pool_backward.argtypes = [*[pointer] * 3, *[count] * 4]
    kernels.winograd_input.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_spread.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_kernels_back.argtypes = [pointer, pointer, count, count]
    kernels.stem_convolve.argtypes = [*[pointer] * 3, *[count] * 5]
    kernels.crop_sample.argtypes = [*[pointer] * 4, *[count] * 5]
    if kernels.blocks_there():
        kernels.blocks_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.blocks_convolve.argtypes = [*[pointer] * 5, *[count] * 4, yes]
        kernels.blocks_weights.argtypes = [*[pointer] * 3, *[count] * 4]
    if kernels.floats_there():
        kernels.floats_pack.argtypes = [pointer, pointer, count, count]
        kernels.floats_convolve.argtypes = [*[pointer] * 5, *[count] * 4, yes, count]
    if kernels.tiles_there():
        kernels.tiles_packed.argtypes, kernels.tiles_packed.restype = [count, count], count
        kernels.tiles_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.tiles_convolve.argtypes = [*[pointer] * 5, *[count] * 4]
        kernels.tiles_weights.argtypes = [*[pointer] * 4, *[count] * 5]
    return kernels


def processor() -> str:
    """Return the processor's model and features, on which -march=native depends: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
