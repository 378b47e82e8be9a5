"""Runs of the command line's tests draw no figures, which take longer than the runs; other tests look at figures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
        patch.setattr("resnetlab.runs.experiment.draw_curves", lambda *_: None)
        yield
