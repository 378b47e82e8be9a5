"""Which epoch was best, and whether it is time to stop: pure functions of the finished epochs' validation scores."""

from __future__ import annotations

from collections.abc import Sequence

from resnetlab.evaluation.metrics import Score

CRITERIA = ("accuracy", "macro_f1", "loss")


def merit(score: Score, criterion: str) -> tuple[float, float]:
    """A score as a sortable merit, higher is better; ties go to the lower loss."""
    return (-score.loss if criterion == "loss" else getattr(score, criterion), -score.loss)


def best_epoch(scores: Sequence[Score], criterion: str) -> int:
    """The index of the best epoch, from 0; among equals the earliest.

    >>> best_epoch([Score(1.0, 0.5, 0.5), Score(0.9, 0.7, 0.7), Score(0.8, 0.7, 0.7)], "accuracy")
    2
    """
    return max(range(len(scores)), key=lambda epoch: (*merit(scores[epoch], criterion), -epoch))


def has_stalled(scores: Sequence[Score], criterion: str, patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better; a patience of 0 means never."""
    return bool(patience and scores) and len(scores) - 1 - best_epoch(scores, criterion) >= patience
