"""Interleaved rounds of all contenders, and their medians, spread and ratios.

Rounds are interleaved (A B C, A B C), so that a slow period of the machine affects all contenders.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.runtime import Runtime

Sample = Mapping[str, Any]


class Failed(Exception):
    """A contender cannot do its task; the message is the reason."""


@dataclass
class Outcome:
    """Result of one contender: a sample per round, or the reason why there are none."""

    samples: list[Sample] = field(default_factory=list)
    failed: str | None = None

    def values(self, value: Callable[[Sample], float | None]) -> list[float]:
        """One number per round, without missing ones."""
        return [found for found in map(value, self.samples) if found is not None]


def interleaved(
    contenders: Mapping[str, Callable[[], Sample]], rounds: int, say: Callable[[str], None] = print
) -> dict[str, Outcome]:
    """Run every contender once per round; skip a contender after it has failed."""
    outcomes = {name: Outcome() for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            outcome = outcomes[name]
            if outcome.failed:
                continue
            try:
                outcome.samples.append(run())
            except Failed as error:
                outcome.failed = str(error)
            say(f"round {number + 1}/{rounds}  {name}{f' failed: {outcome.failed}' if outcome.failed else ''}")
    return outcomes


def seconds(work: Callable[[], object], runtime: Runtime) -> float:
    """Seconds of `work`, including its work on the device."""
    runtime.synchronize()
    began = time.perf_counter()
    work()
    runtime.synchronize()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, lowest and highest value.

    >>> spread([3.0, 1.0, 2.0])["median"], spread([5.0])["quartile_1"]
    (2.0, 5.0)
    """
    low, middle, high = statistics.quantiles([*values, *values] if len(values) == 1 else values, method="inclusive")
    return {
        "median": middle,
        "quartile_1": low,
        "quartile_3": high,
        "lowest": min(values),
        "highest": max(values),
    }


def ratio(first: Sequence[float], other: Sequence[float]) -> float:
    """Median of first / other over the rounds that both have.

    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(first, other, strict=False))


def group(
    subject: str,
    title: str,
    unit: str,
    outcomes: Mapping[str, Outcome],
    value: Callable[[Sample], float | None],
    *,
    more_is_better: bool,
    compared: bool = True,
) -> dict[str, Any]:
    """Data of one figure or table: a number for each contender, and if `compared`, its ratio to the first one."""
    rows: list[dict[str, Any]] = []
    for name, outcome in outcomes.items():
        values = outcome.values(value)
        row: dict[str, Any] = {"name": name, "values": values}
        if values:
            row |= spread(values)
            # No ratio to zero, which the accuracy of a tiny run may be.
            if compared and rows and rows[0]["values"] and all(values):
                row["first_against_it"] = ratio(rows[0]["values"], values)
        if outcome.failed:
            row["failed"] = outcome.failed
        notes = dict.fromkeys(note for sample in outcome.samples for note in sample.get("notes", ()))
        if notes:
            row["notes"] = list(notes)
        rows.append(row)
    return {"subject": subject, "title": title, "unit": unit, "more_is_better": more_is_better, "contenders": rows}


def details(outcomes: Mapping[str, Outcome]) -> dict[str, list[Sample]]:
    """All samples, for the stored file."""
    return {name: list(outcome.samples) for name, outcome in outcomes.items()}
