"""Compile C sources once per machine and load them. Nothing here needs torch.

A library is kept in the cache folder. Its name is a digest of its sources, compiler, flags and processor, so a change
of any of them compiles a new one. The file ends in a digest of its content: a truncated or overwritten file is compiled
again, because loading it could crash the process.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resnetlab.files import cache_folder, replacing

HERE = Path(__file__).parent / "csrc"
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Sources:
    """The C files and headers of a library, the compiler's flags, and the version of what it is linked with, if any.

    `declare` declares the argument types of its functions, and raises AttributeError if one of them is missing.
    """

    name: str
    files: tuple[str, ...]
    flags: tuple[str, ...]
    declare: Callable[[ctypes.CDLL], ctypes.CDLL]
    beside: str = ""


def built(sources: Sources) -> tuple[ctypes.CDLL | None, str]:
    """Return the loaded library, or None and the reason why there is none."""
    if reason := refusal():
        return None, reason
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler found"
    try:
        return load(sources, compiler), ""
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        return None, f"they could not be compiled and loaded with {compiler} ({type(error).__name__})"


def refusal() -> str:
    """Return the reason why nothing is compiled on this system or by the user's choice; an empty string if it is."""
    if os.environ.get("RESNETLAB_KERNELS", "").lower() in ("0", "off", "no"):
        return "switched off by RESNETLAB_KERNELS"
    return "" if sys.platform.startswith("linux") else "only used on Linux"


def load(sources: Sources, compiler: str) -> ctypes.CDLL:
    """Load a library from the cache; compile it first if it is missing or damaged there.

    Raises OSError or SubprocessError if it cannot be compiled or loaded, AttributeError if a function is missing in it.
    """
    version = run([compiler, "--version"])
    contents = [(HERE / name).read_bytes() for name in sources.files]
    made_from = (*contents, version, *map(str.encode, (*sources.flags, processor(), sources.beside)))
    name = f"{sources.name}-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:20]}.so"
    with suppress(OSError):  # no folder to write to, a full disk, a mount from which no code may be loaded
        file = cache_folder() / name
        if not is_sound(file):
            content = compiled(sources, compiler)
            with replacing(file, len(content)) as writer:  # whole or not at all: two processes may do this at once
                writer.write(content)
        return sources.declare(ctypes.CDLL(str(file)))
    with tempfile.TemporaryDirectory() as folder:  # for this process alone
        file = Path(folder, name)
        file.write_bytes(compiled(sources, compiler))
        return sources.declare(ctypes.CDLL(str(file)))


def is_sound(file: Path) -> bool:
    """Return True for a regular file that ends in the digest of everything before it."""
    if not file.is_file():  # reading a pipe would wait for ever
        return False
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def compiled(sources: Sources, compiler: str) -> bytes:
    """Return the compiled library, followed by its digest (the loader ignores what follows an ELF file's sections)."""
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source in (name for name in sources.files if name.endswith(".c")):
            objects.append(f"{folder}/{source}.o")
            run([compiler, *sources.flags, "-c", str(HERE / source), "-o", objects[-1]])
        # Linked without -fopenmp: its symbols are then found in the OpenMP that torch has loaded, with its threads.
        run([compiler, "-shared", *objects, "-o", f"{folder}/library.so", "-lm"])
        content = Path(folder, "library.so").read_bytes()
    return content + hashlib.sha256(content).digest()


def run(command: list[str]) -> bytes:
    """Run a command and return its standard output. Raises SubprocessError."""
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def processor() -> str:
    """Return the processor's model and features, on which -march=native depends: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
