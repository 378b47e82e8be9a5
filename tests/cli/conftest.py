"""Runs of the command line's tests are tiny and draw no figures, which other tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_runs(tiny_network: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
        patch.setattr("resnetlab.runs.experiment.draw_curves", lambda *_: None)
        patch.setattr("resnetlab.runs.experiment.draw_batch", lambda *_: None)
        yield
