"""Measure what a newcomer gets: time and accuracy of `resnetlab train --data FOLDER` and of two peers, from scratch.

Letters, digits and 5,000 images of CIFAR-10, each with the same train, val and test images for all. Every contender is
one whole process with its own defaults, from its start to its accuracy on test/, and all have 30 epochs. Seeds are
0, 1, 2; the contenders run in turn.

With --minutes, all have that time instead: ours as `--minutes`, and a peer as the number of epochs with which its
process ends nearest to it. That number is computed from two short runs, which are not counted.

All seeds take hours, so the results are stored after each seed. With --resume, the seeds that are stored from this
machine are kept, whatever the commit they were measured at, and the missing ones are run; a sample has its commit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import run
from benchmarks.environments import python_of
from benchmarks.images import given_folder
from benchmarks.options import Options
from benchmarks.results import machine_of
from benchmarks.rounds import Failed, Outcome, Sample, details, group
from benchmarks.small_sets import SETS
from resnetlab.runs.folder import RunFolder

EPOCHS = 30
PEERS = ("fastai", "ultralytics")
SHORT_RUNS = (1, 8)  # epochs; their difference is the time of an epoch
LIMIT = 3 * 3600.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    """Train each contender on each set with each seed; store the results after each set."""
    done: dict[str, dict[str, Outcome]] = {}
    data = given_folder(options.data)
    names = [name for name in SETS if name != "cifar" or data is not None or not options.quick]
    subjects = {name if options.minutes is None else f"{name}-{options.minutes:g}-minutes": name for name in names}
    for subject in options.left(subjects):
        side, fill = SETS[subjects[subject]]
        folder = options.scratch / f"out-of-box-{subject}"
        fill(folder, data)
        for outcomes in contest(options, subject, folder, side):
            done[subject] = outcomes
            options.keep(report(done))
    return report(done)


def contest(options: Options, name: str, folder: Path, side: int) -> Iterator[dict[str, Outcome]]:
    """Run the contenders in turn, once for each seed; yield the outcomes so far after each seed."""
    length: tuple[str, ...] = () if options.minutes is None else ("--minutes", f"{options.minutes:g}")
    command = " ".join(("resnetlab train --data FOLDER", *length))
    short = ("--epochs", "1") if options.quick and not length else ()
    contenders: dict[str, Callable[[int], Sample]] = {command: partial(ours, folder, (*length, *short))}
    for peer in filter(options.wants, PEERS):
        python = partial(python_of, peer, options.environments, options.say)
        train = partial(theirs, peer, python, (str(folder), str(side)))
        epochs = cache(partial(epochs_of_peer, options, train))
        contenders[peer] = partial(in_epochs, train, epochs)
    before = earlier(options, name)
    outcomes = {contender: Outcome() for contender in contenders}
    for seed in range(options.rounds):
        for contender, run_contender in contenders.items():
            outcome = outcomes[contender]
            if outcome.failed:
                continue
            if (contender, seed) in before:
                outcome.samples.append(before[contender, seed])
                continue
            try:
                commit = options.environment.get("commit")
                outcome.samples.append({"seed": seed, "commit": commit, **run_contender(seed)})
                told = "{process_seconds:.0f} s, {accuracy:.2%}".format(**outcome.samples[-1])
            except Failed as error:
                outcome.failed = told = str(error)
            options.say(f"{name}, seed {seed}  {contender}: {told}")
        yield outcomes


def earlier(options: Options, name: str) -> dict[tuple[str, int], Sample]:
    """Return the stored samples of a set from this machine, by contender and seed; with --resume alone."""
    for entry in options.stored if options.resume else ():
        if machine_of(entry["environment"]) == machine_of(options.environment):
            commits = {group["subject"]: group["environment"].get("commit") for group in entry["groups"]}
            found = entry["samples"].get(name, {})
            return {
                (contender, sample["seed"]): {"commit": commits.get(name), **sample}
                for contender, samples in found.items()
                for sample in samples
            }
    return {}


def epochs_of_peer(options: Options, train: Callable[[int, int], Sample]) -> int:
    """Return 30 epochs or, for a time in minutes, the number that fills it, from the seconds of two short runs."""
    if options.minutes is None:
        return 1 if options.quick else EPOCHS
    lengths = (1, 2) if options.quick else SHORT_RUNS
    seconds = {epochs: float(train(epochs, 0)["process_seconds"]) for epochs in lengths}
    return epochs_within(60 * options.minutes, seconds)


def epochs_within(limit: float, seconds: Mapping[int, float]) -> int:
    """Return the number of epochs, 1 or more, with which a process ends nearest to a limit in seconds.

    `seconds` are those of a short and of a longer run, by their epochs. Raises Failed if the longer one took no longer.

    >>> epochs_within(180.0, {1: 20.0, 4: 50.0})
    17
    """
    (few, first), (more, second) = sorted(seconds.items())
    if second <= first:
        raise Failed(f"{more} epochs took {second:.1f} s and {few} took {first:.1f} s; measure on a quiet machine")
    return max(1, few + round((limit - first) * (more - few) / (second - first)))


def in_epochs(train: Callable[[int, int], Sample], epochs: Callable[[], int], seed: int) -> Sample:
    """Train a peer, and note its number of epochs."""
    return {**train(epochs(), seed), "epochs": epochs()}


def ours(folder: Path, length: tuple[str, ...], seed: int) -> Sample:
    """Train with no other option than the folder."""
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-") as scratch:
        where = Path(scratch, "run")
        words = ["train", "--data", str(folder), "--seed", str(seed), "--out", str(where), *length]
        done = run([sys.executable, "-m", "resnetlab", *words], limit=LIMIT)
        scores = RunFolder.open(where).read_json("evaluation/test/metrics.json")
    return {"accuracy": scores["accuracy"], "process_seconds": done.seconds, "peak_bytes": done.memory.peak()}


def theirs(peer: str, python: Callable[[], Path], job: tuple[str, ...], epochs: int, seed: int) -> Sample:
    """Train a peer through its adapter."""
    with tempfile.TemporaryDirectory(prefix="resnetlab-bench-", ignore_cleanup_errors=True) as scratch:
        words = [str(python()), "-m", "benchmarks.peers.out_of_box", peer, *job, str(epochs), str(seed), scratch]
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
    for outcomes in done.values():
        ours = next(iter(outcomes.values()))
        ours.samples = with_commits(ours.samples)
    groups = [
        group(
            name,
            f"Out of the box: {name.replace('-', ' ')}",
            unit,
            outcomes,
            value,
            more_is_better=unit.startswith("%"),
        )
        for name, outcomes in done.items()
        for unit, value in values.items()
    ]
    return {"groups": groups, "samples": {name: details(outcomes) for name, outcomes in done.items()}}


def with_commits(samples: Sequence[Sample]) -> list[Sample]:
    """Note the commits of samples that were not all measured at the same one.

    >>> with_commits([{"seed": 0, "commit": "a"}, {"seed": 1, "commit": "b"}])[0]["notes"]
    ['seed 0 at commit a, 1 at b']
    """
    commits = [str(sample.get("commit")) for sample in samples]
    if len(set(commits)) < 2:
        return list(samples)
    told = [f"{sample['seed']} at {commit}" for sample, commit in zip(samples, commits, strict=True)]
    note = f"seed {', '.join(told)}".replace(" at ", " at commit ", 1)
    return [{**sample, "notes": [note]} for sample in samples]
