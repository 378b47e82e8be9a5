"""Drives airbench94_muon, the public speed record for CIFAR-10, on the CPU, and prints its run as one line of JSON.

    python -m benchmarks.peers.airbench --peer-path FOLDER --data FOLDER [--seed 0] [--epochs 8 | --steps 10]

--peer-path is a checkout of github.com/KellerJordan/cifar10-airbench, one file of which is loaded and run; --data has
train/<class>/* and test/<class>/*. What the file asks of CUDA the CPU answers: bfloat16 for half, a clock for events.
It is given our images, in the order of one shuffle, because ours lie class by class and its first 5,000 whiten the
input. As ever it trains on all of train/ and scores test/ after each epoch, and only what it times itself is timed.
Allocator and threads are those of `resnetlab`. Before the clock starts, each way in which the network is used is run
once on noise, which also compiles it; it is not compiled by default, because the CPU is faster without. With --steps
the run ends after so many, unscored.
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
LENGTH = re.compile(r"(?m)^(\s+total_train_steps\s*=\s*ceil\()\d+\b(.*)\)$")  # epochs, times the steps of one
BATCH = 2000  # its own
WEIGHTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_peer(path: Path, epochs: int | None = None, steps: int | None = None) -> ModuleType:
    """The peer's file as a module, with another length where one is given."""
    source = path.read_text(encoding="utf-8")
    if epochs is not None or steps is not None:
        length = rf"\g<1>{steps})" if steps is not None else rf"\g<1>{epochs}\g<2>)"
        source, found = LENGTH.subn(length, source)
        if found != 1:
            sys.exit(f"{path} sets total_train_steps in {found} places, not in one: it is another version")
    peer = ModuleType(path.stem)
    peer.__file__ = str(path)
    sys.modules[path.stem] = peer
    with mock.patch.object(sys, "argv", [str(path)]):  # it reads itself
        exec(compile(source, str(path), "exec"), peer.__dict__)
    return peer


def write_tensors(data: Path, folder: Path) -> dict[str, int]:
    """Write images and labels where the peer looks for them before it downloads any; how many each part has."""
    listing = scan(data)
    if listing.test is None:
        sys.exit(f"{data} has no train/ and test/ beside each other")
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
    """Run what will be timed once: training with and without the whitening's bias, Muon's iteration, evaluation."""
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
    """One run, from the images to its report."""
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
        sys.exit(f"{path} takes batches of {rows[-1]['batch_size']}, not of {BATCH}: it is another version")
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
        "warm_up_seconds": warm,  # with whatever is compiled
        **measured(clock, rows),
        "notes": [f"learns from all {images['train']:,} training images, and holds none out for validation"],
    }


def measured(clock: Clock, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a run: `train_seconds` is all epochs with their augmentation; the rest stands apart."""
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
            for seconds, row in zip(so_far, rows, strict=False)  # after the last epoch comes the row of all scores
        ],
        "test_accuracy": rows[-1]["val_acc"],
        "test_accuracy_tta": rows[-1]["tta_val_acc"],
    }


def count(text: str) -> int:
    """A whole number from 1 up; argparse makes a sentence of the error."""
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
    length.add_argument("--epochs", type=count, help="default: the peer's own number, 8")
    length.add_argument("--steps", type=count, help="only time so many steps")
    parser.add_argument("--weights", choices=WEIGHTS, default="bf16", help="what the network's weights are kept in")
    parser.add_argument("--compile", choices=("off", "default", "max-autotune"), default="off")
    options = parser.parse_args(words)
    with contextlib.redirect_stdout(sys.stderr):
        result = drive(options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
