"""Run airbench94_muon, the public speed record for CIFAR-10, on the CPU and print its result as one line of JSON.

    python -m benchmarks.peers.airbench --peer-path FOLDER --data FOLDER [--seed 0] [--epochs 8 | --steps 10]

--peer-path is a checkout of github.com/KellerJordan/cifar10-airbench; one file of it is loaded and run. --data has
train/<class>/* and test/<class>/*. Its CUDA calls run on the CPU: bfloat16 for half precision, a clock for events. It
gets our images in a shuffled order, because ours are sorted by class and its first 5,000 images whiten the input. As in
the original, it trains on all of train/, scores test/ after each epoch, and only the parts that it times itself are
timed. Allocator and threads are those of `resnetlab`. Before the clock starts, each use of the network runs once on
noise, which also compiles it. It is not compiled by default, because it is faster on the CPU without. With --steps the
run ends after that number of steps and is not scored.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.peers.cuda_on_cpu import Clock, cpu_for_cuda, since
from resnetlab.cli.process import keep_freed_memory
from resnetlab.data.datasets import preprocessing_for
from resnetlab.data.folder import scan
from resnetlab.data.reading import BadImages, read_files

FILE = "airbench94_muon.py"
LENGTH = re.compile(r"(?m)^(\s+total_train_steps\s*=\s*ceil\()\d+\b(.*)\)$")  # epochs, times the steps per epoch
BATCH = 2000  # its own
WEIGHTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_peer(path: Path, epochs: int | None = None, steps: int | None = None) -> ModuleType:
    """Load the peer's file as a module, with another length if one is given."""
    source = path.read_text(encoding="utf-8")
    if epochs is not None or steps is not None:
        length = rf"\g<1>{steps})" if steps is not None else rf"\g<1>{epochs}\g<2>)"
        source, found = LENGTH.subn(length, source)
        if found != 1:
            sys.exit(f"{path} sets total_train_steps in {found} places, not in one: unsupported version")
    peer = ModuleType(path.stem)
    peer.__file__ = str(path)
    sys.modules[path.stem] = peer
    with mock.patch.object(sys, "argv", [str(path)]):  # the file reads its own source
        exec(compile(source, str(path), "exec"), peer.__dict__)
    return peer


def write_tensors(data: Path, folder: Path) -> dict[str, int]:
    """Write images and labels to the peer's cache folder, so that it downloads none; return the sizes of the splits."""
    listing = scan(data)
    if listing.test is None:
        sys.exit(f"{data} has no train/ and test/")
    folder.mkdir()
    see, _ = preprocessing_for(listing, None, "crop")
    parts = {"train": listing.train, "test": listing.test}
    for part, files in parts.items():
        split = read_files(listing.root, files, see, BadImages("error", len(listing)))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        tensors = {"images": split.images[order], "labels": split.labels[order], "classes": list(listing.classes)}
        torch.save(tensors, folder / f"{part}.pt")
    return {part: len(files) for part, files in parts.items()}


def warm_up(peer: ModuleType, network: nn.Module) -> None:
    """Run every timed part once: training with and without the whitening's bias, Muon's iteration, evaluation."""
    images = torch.randn(BATCH, 3, 32, 32).to(torch.bfloat16, memory_format=torch.channels_last)
    network.train()
    for with_bias in (True, False):
        network(images, whiten_bias_grad=with_bias).float().square().sum().backward()
        for weight in network.parameters():
            if weight.grad is not None and weight.ndim == 4:
                peer.zeropower_via_newtonschulz5(weight.grad.reshape(len(weight), -1))
        network.zero_grad(set_to_none=True)
    network.eval()
    with torch.no_grad():
        network(images)


def drive(options: argparse.Namespace) -> dict[str, Any]:
    """Run the peer once and return its report."""
    keep_freed_memory()
    path, clock, rows, compiled = options.peer_path / FILE, Clock(), [], options.compile != "off"
    with tempfile.TemporaryDirectory() as folder, cpu_for_cuda(clock, WEIGHTS[options.weights], compiled=compiled):
        peer: Any = load_peer(path, options.epochs, options.steps)
        images = write_tensors(options.data, Path(folder, "cifar10"))
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=options.weights == "fp32")
        peer.CifarNet.forward = mixed(peer.CifarNet.forward)
        network = peer.CifarNet().cuda().to(memory_format=torch.channels_last)
        if compiled:
            network.compile(mode=options.compile)
        began = time.perf_counter()
        warm_up(peer, network)
        warm = time.perf_counter() - began
        peer.print_training_details = lambda variables, **_: rows.append(dict(variables))
        if options.steps is not None:
            peer.evaluate = lambda *_, **__: None
        torch.manual_seed(options.seed)
        watched = mock.patch.object(peer.CifarLoader, "__iter__", clock.watched(peer.CifarLoader.__iter__))
        with contextlib.chdir(folder), watched:
            peer.main(options.seed, network)
    if rows[-1]["batch_size"] != BATCH:
        sys.exit(f"{path} uses batches of {rows[-1]['batch_size']}, not of {BATCH}: unsupported version")
    return {
        "peer": path.stem,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "seed": options.seed,
        "weights": options.weights,
        "compile": options.compile,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "batch_size": BATCH,
        "train_images": images["train"],
        "test_images": images["test"],
        "warm_up_seconds": warm,  # includes compilation
        **measured(clock, rows),
        "notes": [
            f"learns from all {images['train']:,} training images, and holds none out for validation",
            f"written for CUDA GPUs; here its CUDA calls run on the CPU, with weights in {options.weights}",
        ],
    }


def measured(clock: Clock, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Timings and scores of a run; `train_seconds` covers all epochs with their augmentation, nothing else."""
    whitening, *epochs, scoring = clock.spans
    steps = clock.steps()
    so_far = accumulate(span.wall for span in epochs)
    return {
        "steps": len(steps),
        "whiten_seconds": whitening.wall,
        "train_seconds": sum(span.wall for span in epochs),
        "train_cpu_seconds": sum(span.cpu for span in epochs),
        "tta_seconds": scoring.wall,
        "augment_seconds": [since(*moments[:2]).wall for moments in clock.epochs],
        "step_seconds": statistics.median(step.wall for step in steps),
        "step_cpu_seconds": statistics.median(step.cpu for step in steps),
        "images_per_second": BATCH / statistics.median(step.wall for step in steps),
        "epochs": [  # on test/
            {"train_seconds": seconds, "accuracy": row["val_acc"]}
            for seconds, row in zip(so_far, rows, strict=False)  # the row after the last epoch has the final scores
        ],
        "test_accuracy": rows[-1]["val_acc"],
        "test_accuracy_tta": rows[-1]["tta_val_acc"],
    }


def count(text: str) -> int:
    """Parse a whole number of at least 1; argparse reports the error."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(words: Sequence[str] | None = None) -> None:
    about, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--peer-path", type=Path, required=True, help="folder of the peer's checkout")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--seed", type=int, default=0)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=count, help="default: 8, as in the peer")
    length.add_argument("--steps", type=count, help="time this number of steps, without scores")
    parser.add_argument("--weights", choices=WEIGHTS, default="bf16", help="data type of the network's weights")
    parser.add_argument("--compile", choices=("off", "default", "max-autotune"), default="off")
    options = parser.parse_args(words)
    with contextlib.redirect_stdout(sys.stderr):
        result = drive(options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
