"""The best epoch and early stopping, as pure functions of the validation scores of finished epochs."""

from __future__ import annotations

from collections.abc import Sequence

from resnetlab.evaluation.metrics import Score

CRITERIA = ("accuracy", "macro_f1", "loss")


def merit(score: Score, criterion: str) -> tuple[float, float]:
    """Return a sort key for a score, higher is better; ties go to the lower loss."""
    return (-score.loss if criterion == "loss" else getattr(score, criterion), -score.loss)


def best_epoch(scores: Sequence[Score], criterion: str) -> int:
    """Return the index of the best epoch, from 0; the earliest among equals.

    >>> best_epoch([Score(1.0, 0.5, 0.5), Score(0.9, 0.7, 0.7), Score(0.8, 0.7, 0.7)], "accuracy")
    2
    """
    return max(range(len(scores)), key=lambda epoch: (*merit(scores[epoch], criterion), -epoch))


def has_stalled(scores: Sequence[Score], criterion: str, patience: int) -> bool:
    """Return True if the last `patience` epochs were no better than the best before; a patience of 0 means never."""
    return bool(patience and scores) and len(scores) - 1 - best_epoch(scores, criterion) >= patience
