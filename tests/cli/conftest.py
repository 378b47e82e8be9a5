"""Runs of the command line's tests are tiny and draw no figures, which other tests look at."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_runs(tiny_network: str, no_pictures: None) -> None:
    """Every module has the tiny network, and no figures."""
