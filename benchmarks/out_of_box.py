"""Measure what a newcomer gets: time and accuracy of `resnetlab train --data FOLDER` and of two peers, from scratch.

Letters, digits and 5,000 images of CIFAR-10, each with the same train, val and test images for all. Every contender is
one whole process with its own defaults, from its start to its accuracy on test/, and all have 30 epochs. Seeds are
0, 1, 2; the contenders run in turn.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.environments import python_of
from benchmarks.images import given_folder
from benchmarks.options import Options
from benchmarks.rounds import Failed, Outcome, Sample, details, group
from benchmarks.small_sets import SETS
from resnetlab.runs.folder import RunFolder

EPOCHS = 30
PEERS = ("fastai", "ultralytics")
LIMIT = 3 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    """Train each contender on each set with each seed; store the results after each set."""
    done: dict[str, dict[str, Outcome]] = {}
    data = given_folder(options.data)
    names = [name for name in SETS if name != "cifar" or data is not None or not options.quick]
    for name in options.left(names):
        side, fill = SETS[name]
        folder = options.scratch / f"out-of-box-{name}"
        fill(folder, data)
        done[name] = contest(options, name, folder, side)
        options.keep(report(done))
    return report(done)


def contest(options: Options, name: str, folder: Path, side: int) -> dict[str, Outcome]:
    """Run the contenders in turn, once for each seed."""
    epochs = 1 if options.quick else EPOCHS
    length = ("--epochs", "1") if options.quick else ()
    contenders: dict[str, Callable[[int], Sample]] = {"resnetlab train --data FOLDER": partial(ours, folder, length)}
    for peer in filter(options.wants, PEERS):
        python = partial(python_of, peer, options.environments, options.say)
        contenders[peer] = partial(theirs, peer, python, (str(folder), str(side), str(epochs)))
    outcomes = {contender: Outcome() for contender in contenders}
    for seed in range(options.rounds):
        for contender, train in contenders.items():
            outcome = outcomes[contender]
            if outcome.failed:
                continue
            try:
                outcome.samples.append({"seed": seed, **train(seed)})
                told = "{process_seconds:.0f} s, {accuracy:.2%}".format(**outcome.samples[-1])
            except Failed as error:
                outcome.failed = told = str(error)
            options.say(f"{name}, seed {seed}  {contender}: {told}")
    return outcomes


def ours(folder: Path, length: tuple[str, ...], seed: int) -> Sample:
    """Train with no other option than the folder."""
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
        where = Path(scratch, "run")
        words = ["train", "--data", str(folder), "--seed", str(seed), "--out", str(where), *length]
        done = run([sys.executable, "-m", "resnetlab", *words], limit=LIMIT)
        scores = RunFolder.open(where).read_json("evaluation/test/metrics.json")
    return {"accuracy": scores["accuracy"], "process_seconds": done.seconds, "peak_bytes": done.memory.peak()}


def theirs(peer: str, python: Callable[[], Path], job: tuple[str, ...], seed: int) -> Sample:
    """Train a peer through its adapter."""
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-", ignore_cleanup_errors=True) as scratch:
        words = [str(python()), "-m", "benchmarks.peers.out_of_box", peer, *job, str(seed), scratch]
        done = run(words, limit=LIMIT)
    try:
        found = json.loads(done.said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise Failed(f"{peer} printed no result") from None
    return {**found, "process_seconds": done.seconds, "peak_bytes": done.memory.peak()}


def report(done: Mapping[str, Mapping[str, Outcome]]) -> dict[str, Any]:
    """Seconds and accuracies of each contender on each set."""
    values: dict[str, Callable[[Sample], float]] = {
        "seconds of the process": lambda sample: float(sample["process_seconds"]),
        "% of test images": lambda sample: 100 * float(sample["accuracy"]),
    }
    groups = [
        group(name, f"Out of the box: {name}", unit, outcomes, value, more_is_better=unit.startswith("%"))
        for name, outcomes in done.items()
        for unit, value in values.items()
    ]
    return {"groups": groups, "samples": {name: details(outcomes) for name, outcomes in done.items()}}
