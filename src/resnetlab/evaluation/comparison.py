"""Paired comparison of models on the same images: McNemar's test, and intervals of the difference in accuracy.

The test compares these trained models on images like these. To compare two recipes, train several seeds of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnetlab.evaluation.intervals import RANGES, Interval, Repeats, percentiles, resampled

Correct: TypeAlias = NDArray[np.bool_]  # (N,): the images that a model classified correctly, in the same order for all

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class ComparedRun:
    """One trained model: its scores, its cost and its epochs. A value that the run did not record is None."""

    name: str
    correct: Correct
    accuracy: float
    accuracy_interval: Interval | None
    macro_f1: float | None
    macro_f1_interval: Interval | None
    loss: float
    ece: float | None
    test_set_uses: int  # by this model; 0 for validation, which has no access log
    model: str
    weights_digest: str
    parameters: int | None
    macs: int | None  # multiply-adds for one image
    epochs: int
    train_seconds: float
    images_per_second: float | None  # while training
    machine: str | None
    epoch_rows: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The scores and costs, without the images and the epochs, as in comparison.json."""
        keys = {name: name for name in self.__dataclass_fields__} | {"test_set_uses": "looks"}  # the key scripts read
        return {key: getattr(self, name) for name, key in keys.items() if name not in ("correct", "epoch_rows")}


@dataclass(frozen=True)
class Pair:
    """The best model and another one. `difference` is the accuracy of the best minus that of the other."""

    best: str
    other: str
    only_best: int  # images that only the best classified correctly
    only_other: int
    difference: float
    interval: Interval | None
    p_value: float  # McNemar's, exact
    adjusted_p_value: float  # after Holm, over all pairs
    significant: bool

    @property
    def verdict(self) -> str:
        """Verdict on the other model."""
        return "worse" if self.significant else "not significant"

    def sentence(self) -> str:
        """The result of the test in words."""
        number = f"p = {self.adjusted_p_value:.2g}"
        if self.significant:
            return f"{self.best} is better than {self.other} on these images ({number})"
        return f"the difference between {self.best} and {self.other} is not significant on these images ({number})"

    def to_json(self) -> dict[str, Any]:
        """The numbers and the verdict, as in comparison.json."""
        numbers = asdict(self)
        return numbers | {"distinguishable": numbers.pop("significant"), "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison: the runs, best first, and a pair of the best run with each of the others."""

    split: str
    data: str
    split_digest: str
    images: int
    tta: str
    runs_on_split: int  # in the access logs; 0 for validation
    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # that differ: values in the order of the runs

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    def pair(self, run: ComparedRun) -> Pair | None:
        """The pair of the best run with `run`; None for the best itself."""
        return dict(zip(self.runs[1:], self.pairs, strict=True)).get(run)

    def to_json(self) -> dict[str, Any]:
        facts = {
            name: getattr(self, name) for name in ("split", "data", "split_digest", "images", "tta", "runs_on_split")
        }
        return {
            **facts,
            "settings": {path: dict(zip(self.names, values, strict=True)) for path, values in self.settings.items()},
            "runs": [run.to_json() for run in self.runs],
            "pairs": [pair.to_json() for pair in self.pairs],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Summary:
    """The scores of a run, or of the runs of a series, which differ only in their seeds, on one split."""

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def n(self) -> int:
        return len(self.runs)

    def repeats(self, score: str) -> Repeats | None:
        """Mean, standard deviation and interval of one of `RANGES`; None if it is undefined for a run.

        The interval of a series is of its mean, over seeds. That of a single run is over the images, if it is known.
        """
        found = Repeats.of([getattr(run, score) for run in self.runs], score)
        between = getattr(self.runs[0], f"{score}_interval", None)
        if found is None or self.n > 1 or between is None:
            return found
        return replace(found, interval=(between[0], between[1]))

    def to_json(self) -> dict[str, Any]:
        scores = {score: self.repeats(score) for score in RANGES}
        return {
            "name": self.name,
            "n": self.n,
            "runs": [run.name for run in self.runs],
            "interval_over": "seeds" if self.n > 1 else "images",
            **{score: None if repeats is None else asdict(repeats) for score, repeats in scores.items()},
        }


@dataclass(frozen=True)
class SummaryTable:
    """Runs and series that were scored on the same images, the highest mean accuracy first."""

    split: str
    data: str
    split_digest: str
    images: int
    rows: tuple[Summary, ...]
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # that differ: values in the order of the rows
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [row.name for row in self.rows]

    @classmethod
    def of(cls, comparison: Comparison) -> SummaryTable:
        """The runs of a comparison, each alone."""
        facts = {name: getattr(comparison, name) for name in ("split", "data", "split_digest", "images", "settings")}
        return cls(**facts, rows=tuple(Summary(run.name, (run,)) for run in comparison.runs))

    def to_json(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in ("split", "data", "split_digest", "images")}
        settings = {path: dict(zip(self.names, values, strict=True)) for path, values in self.settings.items()}
        return {**facts, "settings": settings, "rows": [row.to_json() for row in self.rows], "notes": list(self.notes)}


def ranked(runs: Sequence[ComparedRun]) -> tuple[ComparedRun, ...]:
    """Sort runs by accuracy, highest first; equal ones by loss."""
    return tuple(sorted(runs, key=lambda run: (-run.accuracy, run.loss)))


def compare_with_best(runs: Sequence[ComparedRun]) -> tuple[Pair, ...]:
    """Test the first of the ranked runs against each of the others.

    The first run was selected as the best on the same images that it is tested on. Holm's correction is therefore over
    all pairs of runs, not only over the pairs with the best.
    """
    all_pairs = list(itertools.combinations(range(len(runs)), 2))
    p_values = [mcnemar(*discordant(runs[i].correct, runs[j].correct)) for i, j in all_pairs]
    adjusted = dict(zip(all_pairs, holm(p_values), strict=True))
    best, *others = runs
    pairs = []
    for place, other in enumerate(others, 1):
        only_best, only_other = discordant(best.correct, other.correct)
        pairs.append(
            Pair(
                best=best.name,
                other=other.name,
                only_best=only_best,
                only_other=only_other,
                difference=(only_best - only_other) / len(best.correct),
                interval=difference_interval(only_best, only_other, len(best.correct)),
                p_value=mcnemar(only_best, only_other),
                adjusted_p_value=adjusted[0, place],
                significant=adjusted[0, place] < SIGNIFICANT,
            )
        )
    return tuple(pairs)


def discordant(one: Correct, other: Correct) -> tuple[int, int]:
    """Numbers of images that only the one, and only the other, classified correctly."""
    return int((one & ~other).sum()), int((other & ~one).sum())


def mcnemar(only_one: int, only_other: int) -> float:
    """p-value of McNemar's exact test (1947) from the numbers of images that only one model classified correctly.

    It is the probability of a split at least as uneven if both models were equally good. It is 1 without such images.

    >>> mcnemar(0, 5), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    if only_one + only_other == 0:
        return 1.0
    return float(binomtest(only_one, only_one + only_other, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979), so that the chance of any false positive stays below 5 %.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def difference_interval(only_one: int, only_other: int, images: int) -> Interval | None:
    """95 % bootstrap interval of the difference in accuracy on the same images; None if all resamples are equal."""
    counts = np.array([only_one, only_other, images - only_one - only_other])
    draws = np.concatenate(list(resampled(counts)))
    return percentiles((draws[:, 0] - draws[:, 1]) / images)
