"""A small model, images of many kinds, and the server in this process or in one of its own."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.preprocess import Preprocessing
from resnetlab.inference.model_file import save_model
from resnetlab.inference.predict import Classifier, load
from resnetlab.inference.validation import Rejection, Validation
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

pytest.importorskip("uvicorn", reason="the server needs: pip install 'resnetlab[serve]'")

TINY = Architecture("basic", (1, 1), width=8, stem="cifar")
CLASSES = ("cat", "dog", "newt", "<b>bold</b>")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is not trained, but balanced: it answers now this, now that."""
    model = build_model(TINY, len(CLASSES), seed=1).eval()
    with torch.no_grad():
        model.fc.weight.mul_(30)
        model.fc.bias.sub_(model(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))).mean(0))
    preprocessing = Preprocessing(image_size=16, resize_to=20, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    path = tmp_path_factory.mktemp("served") / "pets.safetensors"
    validation = Validation(1.5, 200, "0" * 64, (Rejection(0.05, 0.45, 0.6),))
    save_model(path, model, CLASSES, preprocessing, {}, validation=validation)
    return path


@pytest.fixture(scope="session")
def classifier(model_file: Path) -> Classifier:
    return load(model_file, device="cpu")


def picture(seed: int = 0, width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    """An image file of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    return picture


class Process:
    """`resnetlab serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, errors: list[str], log: list[str]) -> None:
        self.process, self.url, self.errors, self.log = process, url, errors, log

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM, patience: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(patience)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def serving(*words: object, wrapper: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Iterator[Process]:
    """Start the server on a free port, and wait until it is ready."""
    command = [*wrapper, sys.executable, "-m", "resnetlab", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"} if env is None else env,
    )
    errors: list[str] = []
    log: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        errors.append(line)
        if found := re.search(r" at (http://\S+:\d+) ", line):
            url = found[1]
            break
    readers = [
        threading.Thread(target=lines.extend, args=(stream,), daemon=True)
        for stream, lines in ((process.stderr, errors), (process.stdout, log))
    ]
    for reader in readers:
        reader.start()
    try:
        assert url, "".join(errors)
        yield Process(process, url, errors, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in readers:
            reader.join(5)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="session")
def start_server() -> Callable[..., Any]:
    return serving
