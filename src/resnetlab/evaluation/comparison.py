"""Whether one model is better than another, judged on the same images: paired tests, and intervals of the difference.

What is tested is whether these trained models differ on images like these. Whether one recipe is better than another is
a question to several trainings of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnetlab.evaluation.intervals import Interval, percentiles, resampled

Hits: TypeAlias = NDArray[np.bool_]  # (N,): which images a model was right about, in an order that all share

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Contender:
    """One model: what it scored, what it cost, how it learned. What a run has no record of is None."""

    name: str
    hits: Hits
    accuracy: float
    accuracy_interval: Interval | None
    macro_f1: float | None
    macro_f1_interval: Interval | None
    loss: float
    ece: float | None
    looks: int  # at this split, by this model; 0 for validation, which has no ledger
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
        """The numbers, without the images and the epochs."""
        everything = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in everything.items() if name not in ("hits", "epoch_rows")}


@dataclass(frozen=True)
class Pair:
    """The best model against another one. `difference` is in accuracy, the best less the other."""

    best: str
    other: str
    only_best: int  # images that the best alone is right about
    only_other: int
    difference: float
    interval: Interval | None
    p_value: float  # McNemar's, exact
    adjusted_p_value: float  # after Holm, over all pairs
    distinguishable: bool

    @property
    def verdict(self) -> str:
        """Of the other."""
        return "worse" if self.distinguishable else "not distinguishable"

    def sentence(self) -> str:
        """What the test says, in words."""
        number = f"p = {self.adjusted_p_value:.2g}"
        if self.distinguishable:
            return f"{self.best} is better than {self.other} on these images ({number})"
        return f"{self.best} and {self.other} are not distinguishable on these images ({number})"


@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison: the contenders, best first, and the first of them against each of the others."""

    split: str
    data: str
    split_digest: str
    images: int
    tta: str
    runs_on_split: int  # by the ledgers; 0 for validation
    contenders: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def pair(self, contender: Contender) -> Pair | None:
        """A contender against the best; None for the best itself."""
        return dict(zip(self.contenders[1:], self.pairs, strict=True)).get(contender)

    def to_json(self) -> dict[str, Any]:
        facts = {
            name: getattr(self, name) for name in ("split", "data", "split_digest", "images", "tta", "runs_on_split")
        }
        return {
            **facts,
            "runs": [contender.to_json() for contender in self.contenders],
            "pairs": [asdict(pair) | {"verdict": pair.verdict} for pair in self.pairs],
            "notes": list(self.notes),
        }


def ranked(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """Best first: by accuracy, among equals by loss."""
    return tuple(sorted(contenders, key=lambda contender: (-contender.accuracy, contender.loss)))


def against_the_best(contenders: Sequence[Contender]) -> tuple[Pair, ...]:
    """The first of the contenders against each of the others.

    The first was made the best by the images that it is then tested on; so Holm's correction is taken over all pairs of
    contenders, not over those with the first alone.
    """
    both_ways = list(itertools.combinations(range(len(contenders)), 2))
    p_values = [mcnemar(*discordant(contenders[i].hits, contenders[j].hits)) for i, j in both_ways]
    adjusted = dict(zip(both_ways, holm(p_values), strict=True))
    best, *others = contenders
    pairs = []
    for place, other in enumerate(others, 1):
        only_best, only_other = discordant(best.hits, other.hits)
        pairs.append(
            Pair(
                best=best.name,
                other=other.name,
                only_best=only_best,
                only_other=only_other,
                difference=(only_best - only_other) / len(best.hits),
                interval=difference_interval(only_best, only_other, len(best.hits)),
                p_value=mcnemar(only_best, only_other),
                adjusted_p_value=adjusted[0, place],
                distinguishable=adjusted[0, place] < SIGNIFICANT,
            )
        )
    return tuple(pairs)


def discordant(one: Hits, other: Hits) -> tuple[int, int]:
    """How many images only the one is right about, and how many only the other."""
    return int((one & ~other).sum()), int((other & ~one).sum())


def mcnemar(only_one: int, only_other: int) -> float:
    """McNemar's test (1947), exact: how likely so uneven a split of the images that only one is right about would be,
    were both models equally good. With no such image it is 1.

    >>> mcnemar(0, 5), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    if only_one + only_other == 0:
        return 1.0
    return float(binomtest(only_one, only_one + only_other, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the chance of a single false alarm among them stays below 5 %.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def difference_interval(only_one: int, only_other: int, images: int) -> Interval | None:
    """95 % interval of the difference in accuracy on the same images, by bootstrap; None if there is no such image."""
    counts = np.array([only_one, only_other, images - only_one - only_other])
    draws = np.concatenate(list(resampled(counts)))
    return percentiles((draws[:, 0] - draws[:, 1]) / images)
