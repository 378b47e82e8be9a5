"""The throw-away environments of the peers: made on demand from PyPI, and used again when they are there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.rounds import Failed

DEFAULT = Path.home() / ".cache" / "resnetlab-bench"
PACKAGES = {
    "timm": ("timm", "torchvision"),
    "fastai": ("fastai", "torchvision"),
    "transformers": ("transformers[torch]", "torchvision"),
    "ultralytics": ("ultralytics", "torchvision"),
}


def python_of(peer: str, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Python of a peer's environment, which is created if needed. Raises Failed.

    uv creates them, because it links its cache into each: four environments with PyTorch take the disk space of one.
    """
    wanted = PACKAGES[peer]
    python = folder / peer / "bin" / "python"
    mark = folder / peer / f".ready-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    if mark.exists():
        return python
    say(f"creating {folder / peer} with {', '.join(wanted)}")
    uv = folder / ".uv" / "bin" / "uv"
    try:
        if not uv.exists():
            call([sys.executable, "-m", "venv", str(folder / ".uv")])
            call([str(folder / ".uv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"])
        if not python.exists():
            call([str(uv), "venv", "--quiet", "--python", sys.executable, str(folder / peer)])
        call([str(uv), "pip", "install", "--quiet", "--python", str(python), *wanted])
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise Failed(f"its environment could not be created: {lines[-1] if lines else error}") from None
    mark.touch()
    return python


def call(command: list[str]) -> None:
    surroundings = {**os.environ}
    if certificates := os.environ.get("PIP_CERT"):
        surroundings.setdefault("SSL_CERT_FILE", certificates)
    subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings)
