"""Sentences about the training images, for the log of a run."""

from __future__ import annotations

import pytest

from resnetlab.data import open_dataset
from resnetlab.data.mirrored import Confusable
from resnetlab.runs import data_notes, recipes


def test_classes_that_resemble_each_other_when_mirrored_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Confusable(name, "d", 40, 38, 1) for name in "abce"]
    monkeypatch.setattr(data_notes, "confusable_when_mirrored", lambda *_: found)
    config, data = recipes.quickstart(), open_dataset("digits")
    assert data_notes.notes_on_mirrored(config, data) == []
    notes = data_notes.notes_on_mirrored(config.changed({"augment": {"flip": True}}), data)
    assert len(notes) == 3
    assert notes[0] == (
        "mirrored images of a resemble d: the nearest neighbour of 38 of 40 is of that class, without mirroring of 1; "
        "if the direction matters, turn augment.flip off"
    )
