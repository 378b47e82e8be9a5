"""The best epoch and the end of patience, against a search that is written out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetlab.evaluation.metrics import Score
from resnetlab.training.selection import CRITERIA, best_epoch, has_stalled, merit

FEW = st.sampled_from([0.0, 0.25, 0.5, 0.75])  # so that there are ties
HISTORIES = st.lists(st.builds(Score, loss=FEW, accuracy=FEW, macro_f1=FEW), min_size=1, max_size=12)


def better(one: Score, other: Score, criterion: str) -> bool:
    """Strictly better, by the criterion or, where that is a tie, by the loss."""
    if criterion == "loss" or getattr(one, criterion) == getattr(other, criterion):
        return one.loss < other.loss
    return bool(getattr(one, criterion) > getattr(other, criterion))


def brute_force(scores: list[Score], criterion: str) -> int:
    best = 0
    for epoch, score in enumerate(scores):
        if better(score, scores[best], criterion):
            best = epoch
    return best


@settings(deadline=None)
@given(HISTORIES, st.sampled_from(CRITERIA))
def test_the_best_epoch_is_the_earliest_that_none_beats(scores: list[Score], criterion: str) -> None:
    assert best_epoch(scores, criterion) == brute_force(scores, criterion)


@settings(deadline=None)
@given(HISTORIES, st.sampled_from(CRITERIA), st.integers(0, 6))
def test_training_has_stalled_when_patience_many_epochs_brought_nothing_better(
    scores: list[Score], criterion: str, patience: int
) -> None:
    epochs_since = 0
    for epoch in range(1, len(scores)):
        improved = better(scores[epoch], scores[brute_force(scores[:epoch], criterion)], criterion)
        epochs_since = 0 if improved else epochs_since + 1
    assert has_stalled(scores, criterion, patience) == (patience > 0 and epochs_since >= patience)


def test_nothing_has_stalled_before_the_first_epoch() -> None:
    assert has_stalled((), "accuracy", 1) is False


@pytest.mark.parametrize(
    ("criterion", "best"),
    [("accuracy", 2), ("macro_f1", 1), ("loss", 3)],
)
def test_each_criterion_may_choose_another_epoch(criterion: str, best: int) -> None:
    scores = [Score(0.9, 0.8, 0.5), Score(0.8, 0.6, 0.9), Score(0.7, 0.8, 0.7), Score(0.6, 0.7, 0.6)]
    assert best_epoch(scores, criterion) == best


def test_a_lower_loss_has_the_higher_merit() -> None:
    assert merit(Score(0.1, 0.5, 0.5), "loss") > merit(Score(0.2, 0.9, 0.9), "loss")
