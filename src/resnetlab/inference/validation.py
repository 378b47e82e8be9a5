"""The values that were fitted and measured on a run's validation images, as stored in its model file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resnetlab.errors import BadInput
from resnetlab.evaluation.calibration import COLDEST, HOTTEST
from resnetlab.evaluation.selective import Rejection

MOST = 100  # entries of a list in the file


@dataclass(frozen=True)
class SplitScore:
    """Scores on one split, computed in fp32, with their 95 % intervals; None where one is undefined."""

    split: str
    split_digest: str
    images: int
    accuracy: float
    accuracy_interval: tuple[float, float] | None
    macro_f1: float | None
    macro_f1_interval: tuple[float, float] | None
    loss: float


@dataclass(frozen=True)
class Validation:
    """The values that were fitted and measured on `images` validation images when a run ended.

    `temperature` divides the logits; it is 1 if the images do not determine one. `rejections` are sorted by risk;
    each risk holds with the probability `confidence`. `agreement` is the share of the images that have the same top-1
    class as in fp32, by precision. `scores` are those of validation, and of the test split once it was scored.

    >>> validation = Validation(1.5, 200, "", (Rejection(0.05, 0.9, 0.6),))
    >>> Validation.from_json(validation.to_json()) == validation
    True
    """

    temperature: float
    images: int
    split_digest: str
    rejections: tuple[Rejection, ...] = ()
    confidence: float = 0.95
    agreement: Mapping[str, float] = field(default_factory=dict)
    scores: tuple[SplitScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: object) -> Validation:
        """The inverse of `to_json`; further keys are ignored. Raises BadInput for anything else."""
        fields = _table(given, "validation in the file")
        agreement = _table(fields.get("agreement"), "agreement of the validation")
        found = cls(
            temperature=_number(fields, "temperature", COLDEST, HOTTEST),
            images=_count(fields, "images"),
            split_digest=_text(fields, "split_digest"),
            rejections=tuple(map(_rejection, _list(fields, "rejections"))),
            confidence=_number(fields, "confidence"),
            agreement={name: _number(agreement, name) for name in agreement},
            scores=tuple(map(_score, _list(fields, "scores"))),
        )
        risks = [rejection.risk for rejection in found.rejections]
        if risks != sorted(set(risks)):
            raise BadInput("the rejections of the validation are not sorted by distinct risks")
        return found


def _rejection(given: object) -> Rejection:
    try:
        return Rejection.from_json(given)
    except ValueError as error:
        raise BadInput(f"{error}, in the validation of the file") from error


def _score(given: object) -> SplitScore:
    fields = _table(given, "score of the validation")
    return SplitScore(
        split=_text(fields, "split"),
        split_digest=_text(fields, "split_digest"),
        images=_count(fields, "images"),
        accuracy=_number(fields, "accuracy"),
        accuracy_interval=_interval(fields, "accuracy_interval"),
        macro_f1=None if fields.get("macro_f1") is None else _number(fields, "macro_f1"),
        macro_f1_interval=_interval(fields, "macro_f1_interval"),
        loss=_number(fields, "loss", 0, sys.float_info.max),
    )


def _table(given: object, name: str) -> dict[str, Any]:
    if not isinstance(given, dict) or len(given) > MOST or not all(isinstance(key, str) for key in given):
        raise BadInput(f"the {name} is not a table")
    return given


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    given = fields.get(name)
    if not isinstance(given, list | tuple) or len(given) > MOST:
        raise BadInput(f"the {name} of the validation are not a list")
    return list(given)


def _number(fields: Mapping[str, Any], name: str, low: float = 0, high: float = 1) -> float:
    given = fields.get(name)
    if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given <= high:
        raise BadInput(f"{name!r} of the validation is not a number of {low:g} to {high:g}")
    return float(given)


def _count(fields: Mapping[str, Any], name: str) -> int:
    given = fields.get(name)
    if type(given) is not int or given < 1:
        raise BadInput(f"{name!r} of the validation is not a number of images")
    return given


def _text(fields: Mapping[str, Any], name: str) -> str:
    given = fields.get(name)
    if not isinstance(given, str):
        raise BadInput(f"{name!r} of the validation is not text")
    return given


def _interval(fields: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    given = fields.get(name)
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise BadInput(f"{name!r} of the validation is not an interval")
    ends = dict(zip(("low", "high"), given, strict=True))
    return _number(ends, "low"), _number(ends, "high")
